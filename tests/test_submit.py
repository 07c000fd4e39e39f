"""What `p2pz submit` promises: what is sent, what is refused before, and, on a real cluster, how a job ends."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image
from ray.job_submission import JobStatus
from ray_head import ENVIRONMENT, TOKEN, Head, free_ports, ray_head
from small_run import examples, write_truth
from tiny_job import committed_files, data_files, pairs_of, tiny_settings

from p2pz_ray import EditDirection, Student
from p2pz_ray.cli import main
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.running import package, submit
from p2pz_ray.running.package import archive, files_to_send

ROOT = Path(__file__).parents[1]

# -------------------------------------------------------------------------------------------------- what is sent


def fill(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


SENT = ["jobs/mine.py", "configs/mine.yaml", "configs/kept.log", "p2pz_ray/__init__.py", "p2pz_ray/data/kept.txt"]
LEFT = [
    ".git/config",
    "deeper/.git/objects/1",
    ".venv/bin/python",
    "runs/cat2dog/data/1.parquet",
    "data/cat.png",
    "checkpoints/sd15.safetensors",
    "jobs/__pycache__/mine.cpython-311.pyc",
    ".env",
    ".aws/credentials",
    "keys/private.pem",
    "configs/private.pem",
    "notes/data.md",
    "id_rsa",
    "service-account.json",
    ".kube/config",
    ".git-credentials",
    ".config/gcloud/application_default_credentials.json",
    ".cache/huggingface/token",
    "ignored.bin",
    "configs/ignored.log",
    "configs/also-ignored/1.txt",
]


def test_code_and_configurations_are_sent_and_runs_data_secrets_and_what_is_ignored_are_not(tmp_path: Path) -> None:
    fill(tmp_path, [*SENT, *LEFT])
    (tmp_path / ".gitignore").write_text("ignored.bin\n*.log\n!kept.log\n")
    (tmp_path / "configs" / ".rayignore").write_text("/also-ignored/\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert set(files_to_send(tmp_path)) == {*SENT, "configs/.rayignore"}


def test_of_all_else_what_a_command_names_is_sent_and_no_secret_beside_it(tmp_path: Path) -> None:
    fill(tmp_path, ["p2pz_ray/__init__.py", "words/cat.txt", "words/dog.txt", "words.txt", "id_rsa", "mine.yaml"])
    (tmp_path / "mine.yaml").write_text("edits: {e: {sentences: {files: {source: words/cat.txt}}}}")
    settings = ["edits.e.sentences.files.target=words/dog.txt", "seed=7", "output=/id_rsa", "input.uri=."]
    named = submit._named(tmp_path, str(tmp_path / "mine.yaml"), settings)
    assert set(files_to_send(tmp_path, named)) == {"p2pz_ray/__init__.py", "words/cat.txt", "words/dog.txt"}


def test_a_folder_without_the_package_is_sent_with_it(tmp_path: Path) -> None:
    fill(tmp_path, ["mine.yaml"])
    files = files_to_send(tmp_path, ["mine.yaml"])
    assert {"mine.yaml", "p2pz_ray/cli.py", "p2pz_ray/running/submit.py"} < set(files)
    assert not any("__pycache__" in name for name in files)


def test_the_checkout_itself_is_small_enough_to_send() -> None:
    files = files_to_send(ROOT)
    assert {"jobs/translate.py", "configs/mini/cat2dog.yaml", "p2pz_ray/cli.py"} < set(files)


def test_the_same_files_make_the_same_archive_so_that_it_is_sent_once(tmp_path: Path) -> None:
    fill(tmp_path, ["b.txt", "a/a.sh"])
    (tmp_path / "a" / "a.sh").chmod(0o755)
    first = archive({"b.txt": tmp_path / "b.txt", "a/a.sh": tmp_path / "a/a.sh"})
    os.utime(tmp_path / "b.txt", (1, 1))
    assert archive({"a/a.sh": tmp_path / "a/a.sh", "b.txt": tmp_path / "b.txt"}) == first
    with zipfile.ZipFile(BytesIO(first)) as opened:
        assert {entry.filename: entry.external_attr >> 16 for entry in opened.infolist()} == {
            "a/a.sh": 0o755,
            "b.txt": 0o644,
        }
        assert opened.read("b.txt") == b"b.txt"


def test_a_folder_too_large_is_refused_naming_what_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LARGEST", 3_000_000)
    fill(tmp_path, ["p2pz_ray/__init__.py", "small.txt", "configs/1.png"])
    (tmp_path / "configs" / "2.png").write_bytes(bytes(4_000_000))
    with pytest.raises(ConfigError, match=r"4\.0 MB to send.* 3\.0 MB.*\.rayignore \(configs \(4\.0 MB\)"):
        files_to_send(tmp_path)


@pytest.mark.parametrize("name", [b"configs/caf\xe9.yaml", b"configs/deeper/\xff\xfe", b"configs/\xc3"])
def test_a_name_that_is_not_utf8_is_refused_with_a_sentence_or_ignored(tmp_path: Path, name: bytes) -> None:
    fill(tmp_path, ["p2pz_ray/__init__.py"])
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass
    with pytest.raises(ConfigError, match=r"isn't UTF-8.*\.rayignore") as caught:
        files_to_send(tmp_path)
    str(caught.value).encode()
    (tmp_path / ".rayignore").write_text("caf*\ndeeper\n/configs/?\n")
    assert set(files_to_send(tmp_path)) == {"p2pz_ray/__init__.py"}


@pytest.mark.parametrize("what", ["file", "folder", "gitignore"])
def test_what_may_not_be_read_is_refused_with_a_sentence(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, ["p2pz_ray/__init__.py", "jobs/private/notes.txt"])
    (tmp_path / "jobs/private/.gitignore").write_text("x")
    at = tmp_path / "jobs" / "private" / {"file": "notes.txt", "folder": "", "gitignore": ".gitignore"}[what]

    def refused(kept: Any) -> Any:
        def method(self: Path, *arguments: Any, **options: Any) -> Any:
            if self == at:
                raise PermissionError(13, "Permission denied", str(self))
            return kept(self, *arguments, **options)

        return method

    name = {"file": "read_bytes", "folder": "iterdir", "gitignore": "read_text"}[what]
    monkeypatch.setattr(Path, name, refused(getattr(Path, name)))
    with pytest.raises(ConfigError, match=r"private.* can't be read, .*Permission denied.*\.rayignore"):
        archive(files_to_send(tmp_path))


# ------------------------------------------------------------------------------------- what is refused before Ray

GOOD = ["input.uri=/photos", "output=/run", "edits.e.source=cat", "edits.e.target=dog"]
NOWHERE = ["--address", "http://127.0.0.1:9"]
REFUSED: dict[str, tuple[list[str], str]] = {
    "unknown key": ([*GOOD, "stepz=3"], "stepz"),
    "output beside the job": ([*GOOD, "output=runs/cat2dog"], "output is runs/cat2dog"),
    "input beside the job": ([*GOOD, "input.uri=photos"], "input.uri is photos"),
    "a secret in the list of jobs": ([*GOOD, "input.storage_options.secret=hunter2"], "list of jobs"),
    "a secret further in": (["input={uri: /photos, storage_options: {secret: hunter2}}", *GOOD[1:]], "list of jobs"),
    "no cluster": (GOOD, "No Ray cluster answers at http://127.0.0.1:9"),
    "no address": ([*GOOD, "--address", "127.0.0.1:9"], "is no web address"),
    "wrong job": (["--job", "direction", "source=cat", "target=dog", "output=d.safetensors"], "output is d.safe"),
    "a run beside the job": (["--job", "evaluate", "run=runs/cat2dog"], "run is runs/cat2dog"),
    "inversions beside the job": ([*GOOD, "inversion.cache=cache"], "inversion.cache is cache"),
    "a direction that isn't sent": (
        ["input.uri=/photos", "output=/run", "edits.e.direction=no/d.safetensors", "captions.otherwise=x"],
        "edits.e.direction is no/d.safetensors, which isn't among the files",
    ),
    "sentences that aren't sent": (
        [*GOOD, "edits.e.sentences.files={source: /cat.txt, target: no/dog.txt}"],
        "edits.e.sentences.files.target is no/dog.txt",
    ),
    "a direction's sentences": (
        ["--job", "direction", "source=cat", "target=dog", "output=/d", "sentences.files={source: a.txt, target: /b}"],
        "sentences.files.source is a.txt",
    ),
    "embeddings that aren't sent": (
        ["--job", "direction", "embeddings={source: a.pt, target: /b.pt}", "output=/d"],
        "embeddings.source is a.pt",
    ),
    "a scorer's model that isn't sent": (
        ["--job", "evaluate", "run=/run", "metrics.clip=.."],
        "metrics.clip.model is .., a folder of this machine",
    ),
    "a model that isn't sent": ([*GOOD, "model=.."], "model is .., a folder of this machine"),
    "follow nowhere": (["--follow", "raysubmit_1"], "No Ray cluster"),
}


@pytest.mark.parametrize("case", [*REFUSED])
def test_what_can_not_work_is_refused_with_2_and_one_sentence(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, named = REFUSED[case]
    assert main(["submit", *NOWHERE, *arguments]) == 2
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert line.startswith("p2pz: ")
    assert named in line
    assert "hunter2" not in err
    assert out == ""


@pytest.mark.parametrize(
    "arguments",
    [["job.yaml"], NOWHERE, [*NOWHERE, "job.yaml", "--stop", "1"], [*NOWHERE, "--job", "demo", "job.yaml"]],
)
def test_wrong_usage_of_submit_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["submit", *arguments])
    assert ended.value.code == 2


def test_a_server_that_is_no_ray_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: "No Ray cluster" not in said(capsys, ["--follow", "1"], port))
            assert "is no Ray dashboard" in said(capsys, ["--follow", "1"], port)
        finally:
            server.kill()


def said(capsys: pytest.CaptureFixture[str], arguments: list[str], port: int) -> str:
    main(["submit", "--address", f"http://127.0.0.1:{port}", *arguments])
    return capsys.readouterr().err


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ---------------------------------------------------------------------------------------- a connection that breaks


class Unsteady:
    """A Jobs API whose log breaks off twice, and starts again from its beginning each time."""

    LOG = ("one\n", "two\n", "three\n", "four\n")
    breaks = 2
    connections = 0

    def __init__(self, address: str) -> None:
        self.info = SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=7, message="")

    async def tail_job_logs(self, job: str) -> Any:
        self.connections += 1
        for line in self.LOG[: self.connections + 1]:
            yield line
        if self.connections <= self.breaks:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, job: str) -> Any:
        return self.info

    def get_job_logs(self, job: str) -> str:
        return "".join(self.LOG)


@pytest.fixture
def unsteady(monkeypatch: pytest.MonkeyPatch) -> submit.JobServer:
    monkeypatch.setattr(submit, "JobSubmissionClient", Unsteady)
    monkeypatch.setattr(submit, "_check_answers", lambda address: None)
    monkeypatch.setattr(submit, "PAUSE", 0.01)
    return submit.JobServer("http://127.0.0.1:8265/")


def test_a_log_that_breaks_off_is_followed_again_without_a_line_twice(
    unsteady: submit.JobServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1, 10**9, 3600))  # an hour between any two looks at it
    monkeypatch.setattr(submit.time, "monotonic", lambda: float(next(clock)))
    assert unsteady.follow("raysubmit_1") == 7
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"
    assert unsteady.client.connections == 3


def test_a_reader_of_the_log_that_leaves_ends_the_following_and_not_the_job(
    unsteady: submit.JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", leave)
    with pytest.raises(P2PZError, match="goes on without this terminal"):
        unsteady.follow("raysubmit_1")


def test_a_cluster_gone_for_good_ends_the_following_and_says_how_to_go_on(
    unsteady: submit.JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsteady.client.breaks = 10**9
    monkeypatch.setattr(submit, "PATIENCE", 0.1)
    with pytest.raises(
        P2PZError, match=r"no longer answers \(WebSocket.*\n.*submit --follow raysubmit_1 --address http://127"
    ):
        unsteady.follow("raysubmit_1")


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, "failed: its machine is gone"),
        (JobStatus.STOPPED, None, "was stopped"),
    ],
)
def test_the_exit_code_is_the_jobs(
    unsteady: submit.JobServer, status: JobStatus, code: int | None, ends: int | str
) -> None:
    unsteady.client.info = SimpleNamespace(status=status, driver_exit_code=code, message="its machine\nis gone")
    if isinstance(ends, int):
        assert unsteady.follow("raysubmit_1") == ends
    else:
        with pytest.raises(P2PZError, match=ends):
            unsteady.follow("raysubmit_1")


# ------------------------------------------------------------------------------------------------ a real cluster


def start(command: Sequence[str], folder: Path = ROOT) -> "subprocess.Popen[str]":
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT), "RAY_API_SERVER_ADDRESS": ""}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def p2pz(*arguments: str, folder: Path = ROOT) -> "subprocess.Popen[str]":
    return start([sys.executable, "-m", "p2pz_ray.cli", *arguments], folder)


def write_job(folder: Path, model: Path, **options: int) -> tuple[str, Path]:
    folder.mkdir(exist_ok=True)
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(tiny_settings(folder, model, **options)))
    return str(file), folder / "run"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with ray_head() as address:
        yield address


@pytest.mark.slow
def test_a_driver_on_the_box_itself_reaches_a_ray_that_listens_on_loopback_alone(cluster: Head) -> None:
    """As the README sets one up; the driver's shell knows nothing of how it was started."""
    environment = {name: value for name, value in ENVIRONMENT.items() if "OSX_CLUSTER" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", _CONNECT, cluster.ray], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["8.0", "cpus"]


_CONNECT = """
import sys, ray
from p2pz_ray.config import TranslateConfig
from p2pz_ray.running.cluster import connected
words = {"edits": {"e": {"source": "cat", "target": "dog"}}, "input": {"uri": "in"}, "output": "out"}
with connected(TranslateConfig.model_validate(words | {"ray": {"address": sys.argv[1]}})):
    print(ray.cluster_resources()["CPU"], "cpus")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sent")


@pytest.fixture(scope="module")
def sending(folder: Path, tiny_model: Path) -> list[str]:
    """`p2pz submit` of a run of 12 partitions, one of its 24 images broken; slow enough to be stopped amid it."""
    job, _ = write_job(folder / "p2pz", tiny_model, images=1)
    photos = folder / "photos"
    photos.mkdir()
    (photos / "empty.png").write_bytes(b"")
    for level in range(23):
        Image.new("RGB", (64, 64), (10 * level, 100, 100)).save(photos / f"{level}.png")
    return ["submit", job, f"input.uri={photos}", "inversion.steps=30", f"captions.otherwise={attack(folder)}"]


@pytest.fixture(scope="module")
def sent(cluster: str, folder: Path, sending: list[str], tiny_model: Path) -> dict[str, tuple[int, str]]:
    """How each command ended and what it printed: `p2pz submit` from a folder elsewhere, ended by Ctrl-C amid the run;
    the `p2pz submit --stop` that it names; and `ray job submit` of each script."""
    plain, _ = write_job(folder / "plain", tiny_model, images=2)
    direction = ["source=cat", "target=dog", "count=8", f"model={tiny_model}", f"output={folder}/cat2dog.safetensors"]
    by_ray = ["ray", "job", "submit", "--address", cluster, "--working-dir", str(ROOT), "--", "python"]
    elsewhere, manifests = folder / "elsewhere", folder / "p2pz" / "run" / "manifest"
    elsewhere.mkdir()
    following = p2pz(*sending, "--address", cluster, folder=elsewhere)
    others = {
        "jobs/translate.py": start([*by_ray, "jobs/translate.py", plain]),
        "jobs/direction.py": start([*by_ray, "jobs/direction.py", *direction]),
    }
    wait_until(lambda: following.poll() is not None or len(list(manifests.glob("*.json"))) > 1)
    following.send_signal(signal.SIGINT)
    found = {"submit": ended(following)}
    found["stop"] = ended(p2pz(*named("stop it:", found["submit"][1])))
    return found | {name: ended(process) for name, process in others.items()}


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate()
    return process.returncode, said


def named(what: str, said: str) -> list[str]:
    """The words of the p2pz command that a message names."""
    [line] = [line for line in said.splitlines() if what in line]
    return line.partition("p2pz ")[2].split()


def attack(folder: Path) -> str:
    """A caption that would leave a mark if a shell read it."""
    mark = folder / "mark"
    return f"a 'cat'; touch {mark} $(touch {mark}) `touch {mark}`"


@pytest.mark.slow
@pytest.mark.faults
def test_ctrl_c_leaves_the_job_running_and_a_stop_drains_it(sent: dict[str, tuple[int, str]], folder: Path) -> None:
    code, said = sent["submit"]
    assert code == 1
    assert "goes on without this terminal" in said
    code, said = sent["stop"]
    assert code == 0, said
    assert "has ended: STOPPED" in said
    assert "of 12 partitions done: the same command goes on from there." in said


@pytest.mark.slow
@pytest.mark.faults
def test_a_stopped_job_sent_again_goes_on_and_ends_with_its_exit_code(
    sent: dict[str, tuple[int, str]], sending: list[str], cluster: str, folder: Path
) -> None:
    run = folder / "p2pz" / "run"
    kept = committed_files(run)
    assert 1 < len(kept) < 12
    assert not (run / "_SUCCESS").exists()
    code, said = ended(p2pz(*sending, "--no-wait", "--address", cluster))
    assert code == 0, said
    code, said = ended(p2pz(*named("follow it:", said)))
    assert code == 3, said
    assert f"{len(kept)} of them done before" in said
    assert "48 pairs of 24 images: 46 ok, 2 failed" in said
    assert "more than tolerance.failed_images allows" in said
    assert kept < committed_files(run) == data_files(run)
    assert len(pairs_of(run)) == 48


@pytest.mark.slow
def test_no_setting_reaches_a_shell_and_no_token_a_log(sent: dict[str, tuple[int, str]], folder: Path) -> None:
    config = yaml.safe_load((folder / "p2pz" / "run" / "config.yaml").read_text())
    assert config["captions"]["otherwise"] == attack(folder)
    assert not (folder / "mark").exists()
    assert not [name for name, (_, said) in sent.items() if TOKEN in said]


@pytest.mark.slow
def test_plain_ray_job_submit_runs_each_job(sent: dict[str, tuple[int, str]], folder: Path) -> None:
    for name in ("jobs/translate.py", "jobs/direction.py"):
        code, said = sent[name]
        assert code == 0, said
        assert "succeeded" in said
    assert len(pairs_of(folder / "plain" / "run")) == 4
    assert EditDirection.load(str(folder / "cat2dog.safetensors")).embedding.shape == (24, 16)


@pytest.mark.slow
def test_evaluate_and_distill_are_sent_and_run(sent: dict[str, tuple[int, str]], cluster: str, folder: Path) -> None:
    write_truth(folder / "scenes.parquet", examples(20))
    student = folder / "distill.yaml"
    student.write_text(
        yaml.safe_dump(
            {
                "pairs": {
                    "tables": str(folder / "scenes.parquet"),
                    "columns": {"edited": "truth_cat2dog"},
                    "test": 0.2,
                },
                "image": {"size": 16},
                "generator": {"base": 128, "max": 8, "code": 16},
                "discriminator": {"base": 128, "max": 8},
                "losses": {"perceptual": 0},
                "training": {"steps": 2, "batch": 8},
                "output": str(folder / "student"),
                "workers": {"count": 2},
            }
        )
    )
    run = folder / "plain" / "run"
    scored = [f"run={run}", "replicas.count=1"]
    for job, arguments in (("evaluate", scored), ("distill", [str(student)])):
        code, said = ended(p2pz("submit", "--job", job, *arguments, "--address", cluster))
        assert code == 0, said
    assert json.loads((run / "metrics.json").read_text())
    assert Student.from_pretrained(str(folder / "student" / "student")).size == 16


@pytest.mark.slow
def test_without_the_clusters_token_nothing_is_sent_and_one_sentence_says_why(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("", "0" * 32):
        monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_TOKEN", token)
        monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_MODE", "token" if token else "disabled")
        code, said = ended(p2pz("submit", *GOOD, "--address", cluster))
        assert code == 2
        assert said.startswith(f"p2pz: {cluster} wants a token: set RAY_AUTH_MODE=token")
        assert len(said.splitlines()) == 1
