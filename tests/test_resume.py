"""What becomes of a run whose collection changes after it was planned: it goes on, and says so where it must."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import s3_server

from p2pz_ray.collection import IMAGE, Plan, Store, encode, make_plan, read_partition
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config import TranslateConfig, difference, fingerprint, record
from p2pz_ray.errors import ConfigError, P2PZError

PNG = encode(np.full((16, 16, 3), 90, np.uint8))
CHANGED = "It has changed since the run was begun."


def read(uri: str, plan: Plan, options: dict[str, Any] | None = None) -> list[tuple[str, str | None]]:
    items = [item for part in plan.partitions for item in read_partition(uri, part, None, options)]
    return [(item.id, item.error) for item in items]


def table(ids: list[str]) -> bytes:
    buffer = io.BytesIO()
    pictures = pa.array([{"bytes": PNG, "path": None} for _ in ids], IMAGE)
    pq.write_table(pa.table({"id": ids, "image": pictures}), buffer)
    return buffer.getvalue()


def folder_of(path: Path, names: str) -> str:
    for name in names:
        Store(str(path)).write(f"{name}.png", PNG)
    return str(path)


# ------------------------------------------------------------------------------------------- a file that changes


def test_a_picture_that_was_replaced_is_an_error_row_and_one_that_was_touched_is_itself(tmp_path: Path) -> None:
    uri = folder_of(tmp_path / "in", "abc")
    plan = make_plan(uri)
    os.utime(tmp_path / "in" / "a.png", (1, 1))
    Store(uri).write("b.png", PNG + b"!")
    assert read(uri, plan) == [("a.png", None), ("b.png", CHANGED), ("c.png", None)]


def test_s3_compares_the_version_itself_in_one_request_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as options:
        folder = Store("s3://bucket/in", options)
        for name in "abc":
            folder.write(f"{name}.png", PNG)
        plan = make_plan("s3://bucket/in", storage_options=options)
        folder.write("b.png", PNG[:-1] + b"!")  # as long as it was
        calls: list[str] = []
        call = type(folder.fs)._call_s3

        async def counted(self: Any, method: str, *given: Any, **named: Any) -> Any:
            if named.get("Key", "").endswith(".png"):
                calls.append(method)
            return await call(self, method, *given, **named)

        monkeypatch.setattr(type(folder.fs), "_call_s3", counted)
        assert read("s3://bucket/in", plan, options) == [("a.png", None), ("b.png", CHANGED), ("c.png", None)]
        assert calls == ["get_object"] * 3


def test_any_storage_is_asked_once_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Store("memory://once")
    for name in "abc":
        folder.write(f"{name}.png", PNG)
    plan = make_plan("memory://once")
    calls: list[str] = []
    for name in ("cat_file", "info"):
        method = getattr(type(folder.fs), name)

        def counted(self: Any, path: str, method: Any = method, **named: Any) -> Any:
            calls.append(path)
            return method(self, path, **named)

        monkeypatch.setattr(type(folder.fs), name, counted)
    assert len(read("memory://once", plan)) == 3
    assert len([path for path in calls if path.endswith(".png")]) == 3


def test_a_touched_table_is_itself_and_a_rewritten_one_is_not(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    folder.write("t.parquet", table(["a", "b"]))
    plan = make_plan(str(tmp_path))
    os.utime(tmp_path / "t.parquet", (1, 1))
    assert read(str(tmp_path), plan) == [("a", None), ("b", None)]
    folder.write("t.parquet", table(["a", "c"]))
    with pytest.raises(P2PZError, match="changed since the plan was made"):
        read(str(tmp_path), plan)


# ------------------------------------------------------------------------------------------------- what is new


def test_new_files_become_partitions_of_their_own_behind_the_others(tmp_path: Path) -> None:
    uri = folder_of(tmp_path, "bdf")
    before = make_plan(uri, images_per_partition=2)
    folder_of(tmp_path, "acg")
    more = make_plan(uri, images_per_partition=2, after=before)
    assert [id for id, _ in read(uri, before + more)] == ["b.png", "d.png", "f.png", "a.png", "c.png", "g.png"]
    assert make_plan(uri, after=before + more).partitions == ()
    assert [part.rows for part in make_plan(uri, after=before, max_images=4).partitions] == [1]


def test_new_tables_give_way_to_ids_that_were_there_before(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    folder.write("m.parquet", table(["x", "y"]))
    before = make_plan(str(tmp_path))
    folder.write("a.parquet", table(["y", "z"]))
    more = make_plan(str(tmp_path), after=before)
    found = read(str(tmp_path), before + more)
    assert [id for id, _ in found] == ["x", "y", "y#2", "z"]
    assert [id for id, error in found if error] == ["y#2"]


def test_new_pictures_with_captions_and_new_tars_are_appended_too(tmp_path: Path) -> None:
    def tar(keys: str) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as file:
            for key in keys:
                member = tarfile.TarInfo(f"{key}.png")
                member.size = len(PNG)
                file.addfile(member, io.BytesIO(PNG))
        return buffer.getvalue()

    pictures, tars = Store(f"{tmp_path}/pictures"), Store(f"{tmp_path}/tars")
    pictures.write("b.png", PNG)
    pictures.write("b.txt", b"a cat")
    tars.write("1.tar", tar("xy"))
    before = [make_plan(each.uri) for each in (pictures, tars)]
    pictures.write("a.png", PNG)
    pictures.write("a.txt", b"a dog")
    tars.write("0.tar", tar("x"))
    tars.write("2.tar", b"no tar")
    with pytest.raises(ConfigError, match=r"2\.tar isn't a readable tar"):
        make_plan(tars.uri, after=before[1])
    more = [
        make_plan(each.uri, after=plan, skip_unreadable=True)
        for each, plan in zip((pictures, tars), before, strict=True)
    ]
    assert [path for path, _ in more[1].unreadable] == ["2.tar"]
    assert read(tars.uri, before[1] + more[1]) == [("1.tar/x", None), ("1.tar/y", None), ("0.tar/x", None)]
    [part] = more[0].partitions
    assert [(item.id, item.caption) for item in read_partition(pictures.uri, part)] == [("a.png", "a dog")]


def test_a_run_that_is_appended_to_keeps_its_plan_and_is_finished_no_more(tmp_path: Path) -> None:
    uri = folder_of(tmp_path / "in", "ab")
    folder, plan = RunFolder(str(tmp_path / "run")), make_plan(uri)
    folder.create_plan(plan)
    folder.write_json("_SUCCESS", {})
    folder_of(tmp_path / "in", "cd")
    more = make_plan(uri, after=plan)
    first = (tmp_path / "run" / "plan.json").read_bytes()
    folder.append(more)
    assert not folder.finished
    assert folder.plan() == plan + more
    assert (tmp_path / "run" / "plan.json").read_bytes() == first
    folder_of(tmp_path / "in", "e")
    last = make_plan(uri, after=plan + more)
    folder.append(last)
    assert folder.plan() == plan + more + last
    for partition in plan.partitions:
        folder.commit(partition.id, b"x", images=2, rows=2, failed=0, fingerprint="f", started=0.0)
    with pytest.raises(P2PZError, match="Another driver appended"):
        folder.finish(plan, {})


def test_a_runs_own_files_are_no_input_however_they_are_named(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    folder.write("all/in.parquet", table(["a"]))
    folder.write("all/run/data/p.parquet", table(["b"]))
    folder.write("all/runs.parquet", table(["c"]))
    for uri in (f"{tmp_path}/all/**/*.parquet", f"file://{tmp_path}/all"):
        for output in (f"{tmp_path}/all/run", f"file://{tmp_path}/all/run/"):
            plan = make_plan(uri, outside=[output, "s3://bucket/cache"])
            assert [id for id, _ in read(uri, plan)] == ["a", "c"]


def test_a_table_that_can_not_be_read_stops_the_plan_or_is_left_out_by_name(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    folder.write("a.parquet", table(["a"]))
    folder.write("b.parquet", b"no table")
    with pytest.raises(ConfigError, match=r"b\.parquet isn't a readable table"):
        make_plan(str(tmp_path))
    plan = Plan.from_json(make_plan(str(tmp_path), skip_unreadable=True).to_json())
    assert [id for id, _ in read(str(tmp_path), plan)] == ["a"]
    [(path, reason)] = plan.unreadable
    assert path == "b.parquet"
    assert "isn't a readable table" in reason


# --------------------------------------------------------------------------------------- another version of ours


def test_a_key_that_came_with_a_later_version_is_no_difference_at_its_default() -> None:
    given = {"input": {"uri": "in"}, "edits": {"e": {"source": "cat", "target": "dog"}}, "output": "out"}
    new = record(TranslateConfig.model_validate(given))
    old = {key: value for key, value in new.items() if key != "dtype"}
    assert difference(record(TranslateConfig.model_validate(old)), new) == []
    # What was made is known by what was recorded then.
    assert fingerprint(old) != fingerprint(new)
    assert fingerprint(new) == fingerprint(TranslateConfig.model_validate(given))
