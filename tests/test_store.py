"""Storage that never shows half a file, never hangs, tries again after an outage, and fails in one sentence."""

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.storage import local, store
from p2pz_ray.storage.failure import FileError, MissingFileError, StorageError
from p2pz_ray.storage.store import Store


@pytest.fixture(params=["local", "file", "memory", "s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty folder on each kind of storage."""
    name = tmp_path.name
    if request.param in ("s3", "gs"):
        return Store(f"{request.param}://bucket/{name}", request.getfixturevalue(request.param))
    return Store({"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{name}"}[request.param])


def test_what_is_written_is_read_listed_and_removed(folder: Store) -> None:
    assert not folder.exists("data/a.bin")
    assert folder.list("data") == []
    folder.write("data/b.bin", b"bb")
    folder.write("data/a.bin", b"0123456789")
    folder.write("data/deeper/c.bin", b"c")
    folder.write("data/a.bin", b"9876543210")
    assert folder.read("data/a.bin") == b"9876543210"
    assert folder.size("data/a.bin") == 10
    assert folder.exists("data/a.bin")
    assert folder.list("data") == ["a.bin", "b.bin"]
    assert folder.list("data/a.bin") == []
    assert folder.is_folder("data")
    assert not folder.is_folder("data/a.bin")
    assert not folder.is_folder("nothing")
    folder.remove("data/a.bin")
    folder.remove("data/a.bin")
    assert folder.list("data") == ["b.bin"]


def test_of_many_that_create_a_file_one_is_first_and_all_others_take_its(folder: Store) -> None:
    found: list[bytes] = []
    writers = [
        threading.Thread(target=lambda n=n: found.append(pickle.loads(pickle.dumps(folder)).create("d/f", b"%d" % n)))
        for n in range(8)
    ]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert folder.read("d/f") == found[0]
    assert folder.create("d/f", b"late") == found[0]
    assert folder.exclusive("d/f")
    assert folder.list("d") == ["f"]


def test_a_storage_that_puts_over_a_file_in_spite_of_being_asked_not_to_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Store("memory://careless")
    pipe = type(folder.fs).pipe_file
    monkeypatch.setattr(type(folder.fs), "pipe_file", lambda self, path, data, mode="": pipe(self, path, data))
    folder.create("f", b"one")
    assert not folder.exclusive("f")
    assert folder.read("f") == b"one"


def test_of_gcs_the_generation_is_a_files_version(gs: dict[str, Any]) -> None:
    """Its ETag is no more than a checksum, or changes with what is merely said of the file."""
    folder = Store("gs://bucket/version", gs)
    folder.write("f", b"one")
    before = folder.fingerprint("f")
    folder.write("f", b"one")
    assert folder.fingerprint("f") == f"3-{folder.fs.info('bucket/version/f')['generation']}" != before
    [(_, listed)] = folder.walk()
    assert store.fingerprint(listed) == folder.fingerprint("f")


def test_a_disk_without_hard_links_is_known_and_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unable)
    folder = Store(str(tmp_path))
    assert folder.create("f", b"one") == folder.create("f", b"two") == b"one"
    assert not folder.exclusive("f")
    assert os.listdir(tmp_path) == ["f"]


def test_an_empty_file_is_a_file(folder: Store) -> None:
    folder.write("empty", b"")
    assert folder.read("empty") == b""
    assert folder.read("empty", max_bytes=5) == b""
    assert folder.open("empty").read() == b""
    assert folder.list() == ["empty"]


def test_an_open_file_is_read_where_it_is_sought(folder: Store) -> None:
    data = bytes(range(256)) * 1000
    folder.write("f", data)
    with folder.open("f") as file:
        assert file.read(4) == data[:4]
        file.seek(-3, os.SEEK_END)
        assert file.read() == data[-3:]
        file.seek(100_000)
        assert file.read(100_000) == data[100_000:200_000]
        assert file.tell() == 200_000
        file.seek(0)
        assert file.read() == data


def test_a_changed_file_changes_its_fingerprint(folder: Store) -> None:
    folder.write("f", b"one")
    before = folder.fingerprint("f")
    assert folder.fingerprint("f") == before
    folder.write("f", b"two")
    assert folder.fingerprint("f") != before


def test_a_missing_file_is_one_sentence(folder: Store) -> None:
    for call in (folder.read, folder.open, folder.size, folder.fingerprint):
        with pytest.raises(MissingFileError) as caught:
            call("no/such.json")
        assert str(caught.value) == f"{folder.name('no/such.json')}: There is no such file."


def test_a_file_over_the_limit_is_refused(folder: Store) -> None:
    folder.write("f", bytes(1001))
    assert len(folder.read("f", max_bytes=1001)) == 1001
    with pytest.raises(FileError, match="1,001 bytes, more than the 1,000 allowed"):
        folder.read("f", max_bytes=1000)


def test_a_store_travels_to_another_process(folder: Store) -> None:
    folder.write("f", b"data")
    assert pickle.loads(pickle.dumps(folder)).read("f") == b"data"


def test_another_writer_is_seen_at_once(folder: Store) -> None:
    assert folder.list("d") == []
    assert not folder.exists("d/f")
    other = pickle.loads(pickle.dumps(folder))
    other.write("d/f", b"x")
    assert folder.list("d") == ["f"]
    assert folder.exists("d/f")


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(MissingFileError("a/b", "There is no such file.")))
    assert (type(error), str(error), error.reason) == (
        MissingFileError,
        "a/b: There is no such file.",
        "There is no such file.",
    )


@pytest.mark.parametrize("uri", ["", "nosuch://bucket/x"])
def test_a_uri_that_can_never_work_is_a_configuration_error(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Store(uri)
    assert uri in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize("broken", ["write", "replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    folder = Store(str(tmp_path))
    folder.write("f", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if broken == "write":
        monkeypatch.setattr(local, "open", lambda *a: FullFile(a[0]), raising=False)
    else:
        monkeypatch.setattr(os, broken, full)
    with pytest.raises(StorageError, match=r"f can't be written: No space left on device\.$"):
        folder.write("f", b"new")
    monkeypatch.undo()
    assert folder.read("f") == b"old"
    assert os.listdir(tmp_path) == ["f"]


class FullFile:
    """A file on a full disk: there, but nothing goes in."""

    def __init__(self, path: str) -> None:
        Path(path).touch()
        self.path = path

    def __enter__(self) -> "FullFile":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, data: bytes) -> None:
        Path(self.path).write_bytes(data[:1])
        raise OSError(28, "No space left on device")


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    versions = [bytes([value]) * 300_000 for value in range(2)]
    folder.write("f", versions[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def look() -> None:
        while not stop.is_set():
            seen.add(folder.read("f"))

    reader = threading.Thread(target=look)
    reader.start()
    for i in range(60):
        folder.write("f", versions[i % 2])
    stop.set()
    reader.join()
    assert seen <= set(versions)
    assert folder.list() == ["f"]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        Store(str(tmp_path)).write("f", b"x")
    finally:
        os.umask(previous)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_a_file_still_being_written_is_not_listed_and_swept_away(tmp_path: Path) -> None:
    (tmp_path / f"{local.TEMPORARY}123").write_bytes(b"half")
    folder = Store(str(tmp_path))
    assert folder.list() == []
    folder.sweep("")
    folder.sweep("no such folder")
    assert os.listdir(tmp_path) == []


def test_pipes_devices_folders_and_links_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/zero", tmp_path / "device")
    os.mkdir(tmp_path / "folder")
    os.symlink("gone", tmp_path / "dangling")
    os.symlink("loop", tmp_path / "loop")
    folder = Store(str(tmp_path))
    reasons = {
        "pipe": "It is a named pipe, not a file.",
        "device": "It is a device, not a file.",
        "folder": "It is a folder, not a file.",
        "dangling": "It is a link to gone, which doesn't exist.",
        "loop": "It is a link that leads back to itself.",
        "x" * 300: "It can't be read (File name too long).",
        "nul\0": "It can't be read (embedded null byte).",
    }
    for name, reason in reasons.items():
        for call in (folder.read, folder.open):
            with pytest.raises(FileError) as caught:
                call(name)
            assert caught.value.reason == reason
            assert str(caught.value).isprintable()


@pytest.mark.faults
def test_an_outage_is_tried_again_and_a_lasting_one_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0)
    folder = Store("memory://outage")
    folder.write("f", b"data")
    calls = []

    def flaky(failures: int) -> Any:
        def cat_file(*_: object, **__: object) -> bytes:
            calls.append(1)
            if len(calls) <= failures:
                raise ConnectionError("the line went dead\nand more")
            return b"data"

        return cat_file

    monkeypatch.setattr(folder.fs, "cat_file", flaky(store.ATTEMPTS - 1))
    assert folder.read("f") == b"data"
    calls.clear()
    monkeypatch.setattr(folder.fs, "cat_file", flaky(99))
    with pytest.raises(StorageError) as caught:
        folder.read("f")
    assert len(calls) == store.ATTEMPTS
    assert not isinstance(caught.value, FileError)
    assert str(caught.value) == "memory://outage/f can't be read: the line went dead."


@pytest.mark.faults
def test_an_outage_is_never_taken_for_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0)
    folder = Store("memory://outage")

    def down(*_: object, **__: object) -> Any:
        raise ConnectionError("down")

    for name in ("info", "ls", "cat_file", "rm_file", "pipe_file"):
        monkeypatch.setattr(folder.fs, name, down)
    for call in (
        lambda: folder.exists("f"),
        lambda: folder.list("d"),
        lambda: folder.remove("f"),
        lambda: folder.write("f", b""),
        lambda: folder.read("f"),
    ):
        with pytest.raises(StorageError, match="down"):
            call()


def test_an_s3_that_refuses_or_lacks_the_bucket_says_so_in_a_sentence(s3: dict[str, Any]) -> None:
    with pytest.raises(P2PZError) as caught:
        Store("s3://no-such-bucket/x", s3).read("f")
    assert str(caught.value) == "s3://no-such-bucket/x/f: There is no such file."
    with pytest.raises(P2PZError) as caught:
        Store("s3://no-such-bucket/x", s3).write("f", b"")
    assert "no-such-bucket" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", [Store.write, Store.create])
def test_a_temporary_file_that_another_driver_sweeps_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    """A driver that finishes a run sweeps temporary files; one of them may be of a driver that is about to finish."""
    swept, fsync = [], os.fsync

    def sweep(descriptor: int) -> None:
        fsync(descriptor)
        for temporary in tmp_path.glob(f"{local.TEMPORARY}*"):
            if len(swept) < 2:
                swept.append(temporary)
                temporary.unlink()

    monkeypatch.setattr(os, "fsync", sweep)
    write(Store(str(tmp_path)), "_SUCCESS", b"done")
    assert len(swept) == 2
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"_SUCCESS": b"done"}
