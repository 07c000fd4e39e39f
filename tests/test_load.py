"""The load generator: what it prints was counted, and it is pointed at this machine alone."""

import importlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import uvicorn
from test_serving import config_for, service_for
from test_student_engine import write_student

from p2pz_ray.serving.web.api import build_app


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "jobs")
    return importlib.import_module("load")


@pytest.fixture
def url(tiny_model: Path, tmp_path: Path) -> Iterator[str]:
    """A service of the tiny model and a student, in a thread; a second client at a time is refused."""
    config = config_for(tiny_model, students=[str(write_student(tmp_path))], limits={"per_client": 1})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(build_app(service_for(config)), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_each_model_has_a_line_and_refusals_are_counted(
    load: ModuleType, url: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load.main(["--url", url, "--clients", "1", "--seconds", "0.05"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["model", "images/s"]
    assert [line.split()[0] for line in lines] == [tiny_model.name, "student"]
    assert all(line.split()[5] in ("25%", "6%") for line in lines)  # one picture in batches of 4 and of 16
    found = load.send(url, "student", "cat2dog", 8, 0.2)
    assert found.statuses[429] > 0
    assert found.statuses[200] == len(found.seconds) > 0


def test_it_is_bounded_and_stays_on_this_machine(load: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(["--url", "http://10.0.0.1:8000"]) == 1
    assert "loopback" in capsys.readouterr().err
    assert load.main(["--url", "http://127.0.0.1:9"]) == 1
    assert "Nothing answers" in capsys.readouterr().err
    for bounds in (["--clients", "1000"], ["--seconds", "1e9"]):
        with pytest.raises(SystemExit):
            load.main(["--url", "http://127.0.0.1:9", *bounds])


def test_batches_are_as_full_as_their_pictures_say(load: ModuleType) -> None:
    found = load.Found(batches=[1, 4, 4, 4, 4, 2, 2])
    assert found.fill(4) == pytest.approx(7 / 12)
