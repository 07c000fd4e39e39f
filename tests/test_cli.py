"""The command line's promises: one sentence and the right exit code, and Ray only where there is work for it."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml
from PIL import Image
from ray.util.metrics import Counter, Gauge, Histogram
from tiny_job import pairs_of, tiny_settings

from p2pz_ray import EditDirection, __version__
from p2pz_ray.cli import RETRIED, VERBS, main
from p2pz_ray.collection.schema import collection_schema
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config import TranslateConfig
from p2pz_ray.config.reference import JOBS, keys
from p2pz_ray.errors import ConfigError, P2PZError, StoppedError
from p2pz_ray.mini import MODEL
from p2pz_ray.mini.world import Scene, render
from p2pz_ray.running.cluster import connected
from p2pz_ray.running.metrics import DriverMetrics, ReplicaMetrics, tag

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if Ray is started or given work."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was used")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "remote", refuse)


def write_config(folder: Path, settings: dict[str, Any]) -> str:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(settings))
    return str(file)


WRONG: dict[str, tuple[Callable[[Path, Path], dict[str, Any]], str]] = {
    "unknown key": (lambda f, m: {"stepz": 3}, "stepz"),
    "wrong type": (lambda f, m: {"seed": "seven"}, "seed"),
    "missing input": (lambda f, m: {"input": {"uri": str(f / "nowhere")}}, "nowhere"),
    "input without images": (lambda f, m: {"input": {"uri": str(m / "unet")}}, "holds no images"),
    "output inside the input": (lambda f, m: {"output": str(f / "world" / "run")}, "lies inside"),
    "missing model folder": (lambda f, m: {"model": str(f / "no-model")}, "no-model"),
    "a folder that is no model": (lambda f, m: {"model": str(f)}, "model_index.json"),
    "unreachable hub id": (lambda f, m: {"model": "nobody/nothing"}, "nobody/nothing"),
    "missing caption model": (lambda f, m: {"captions": {"model": str(f / "no-blip")}}, "no-blip"),
    "missing direction": (
        lambda f, m: {"edits": {"e": {"direction": str(f / "no.safetensors")}}, "captions": {"otherwise": "x"}},
        "no.safetensors",
    ),
    "size the model can't halve": (lambda f, m: {"image": {"size": 60}}, "image.size"),
    "no GPU": (lambda f, m: {"device": "cuda"}, "no GPU"),
    "no cluster": (lambda f, m: {"ray": {"address": "127.0.0.1:9"}}, "127.0.0.1:9"),
    "a dashboard's address": (lambda f, m: {"ray": {"address": "http://h:8265"}}, "no address of a Ray cluster"),
    "a secure dashboard's": (lambda f, m: {"ray": {"address": "https://h"}}, "leave it out to start Ray on this"),
    "another scheme": (lambda f, m: {"ray": {"address": "tcp://h:6379"}}, "ray.address is tcp://h:6379"),
    "output inside the input by its URI": (lambda f, m: {"output": (f / "world/run").as_uri()}, "lies inside"),
    "inversions inside the input": (lambda f, m: {"inversion": {"cache": f"{f}/run/../world/x"}}, "lies inside"),
    "unknown protocol": (lambda f, m: {"output": "nope://run"}, "nope"),
}


@pytest.mark.parametrize("case", [*WRONG])
def test_a_wrong_configuration_ends_with_2_and_one_sentence_before_ray(
    case: str, tmp_path: Path, tiny_model: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    change, named = WRONG[case]
    settings = tiny_settings(tmp_path, tiny_model) | change(tmp_path, tiny_model)
    assert main(["translate", write_config(tmp_path, settings)]) == 2
    out, err = capsys.readouterr()
    [line] = [line for line in err.splitlines() if line.startswith("p2pz:")]
    assert named in line
    assert out == ""
    assert not (tmp_path / "run" / "data").exists()


PLACES = {
    "a long TMPDIR": ({"TMPDIR": f"/tmp/{'x' * 60}"}, "TMPDIR is /tmp/xxx"),
    "a long RAY_TMPDIR": ({"RAY_TMPDIR": f"/tmp/{'x' * 60}", "TMPDIR": "/tmp"}, "RAY_TMPDIR is /tmp/xxx"),
    "a RAY_TMPDIR that can't be made": ({"RAY_TMPDIR": "/proc/nope"}, "where Ray can't make its folder"),
    "a TMPDIR that is a file": ({"TMPDIR": "/dev/null"}, "where Ray can't make its folder"),
    "a relative RAY_TMPDIR": ({"RAY_TMPDIR": "scratch"}, "Ray needs a full path"),
    "letters beyond ASCII": ({"TMPDIR": "/tmp/zoë"}, "letters beyond ASCII"),
    "letters that are no text": ({"TMPDIR": "/tmp/zo\udceb"}, "letters beyond ASCII"),
    "a dashboard in RAY_ADDRESS": ({"RAY_ADDRESS": "http://127.0.0.1:8265"}, "RAY_ADDRESS is http://127.0.0.1:8265"),
    "a secure one": ({"RAY_ADDRESS": "https://ray.example.org"}, "unset it to start Ray on this machine"),
    "a scheme that Ray lacks": ({"RAY_ADDRESS": "grpc://head:10001"}, "RAY_ADDRESS is grpc://head:10001"),
    "nobody there": ({"RAY_ADDRESS": "127.0.0.1:9"}, "check RAY_ADDRESS"),
}


@pytest.mark.parametrize("case", [*PLACES])
def test_a_place_where_ray_can_not_be_is_a_sentence_that_names_the_variable(
    case: str, monkeypatch: pytest.MonkeyPatch, no_ray: None
) -> None:
    variables, said = PLACES[case]
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught, connected(TranslateConfig.model_validate(SMALL)):
        pass
    assert said in str(caught.value)
    assert "RAY_TMPDIR" in str(caught.value) or "RAY_ADDRESS" in str(caught.value)
    assert "\n" not in str(caught.value)


SMALL = {"input": {"uri": "in"}, "output": "out", "edits": {"e": {"source": "cat", "target": "dog"}}}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("name", ["d→×.safetensors", "写真.safetensors", "caf\udce9.safetensors"])
def test_a_terminal_that_can_not_show_a_name_still_gets_its_line(
    tmp_path: Path, tiny_model: Path, encoding: str, name: str, monkeypatch: pytest.MonkeyPatch, no_ray: None
) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    words = ["source=cat", "target=dog", "count=2", f"model={tiny_model}"]
    assert main(["direction", *words, f"output={tmp_path}/{name}"]) == 0
    shown.flush()
    assert shown.buffer.getvalue().startswith(b"Wrote the direction cat ")
    assert main(["status", f"{tmp_path}/no {name}"]) == 2


@pytest.mark.parametrize("name", ["Läufe/x", "写真 🐱", "caf\udce9", 'a "b" \n c'])
def test_a_run_is_told_of_under_any_name_and_never_fails_for_it(local_ray: None, name: str) -> None:
    manifest = Manifest("p", "1", "data/p.parquet", 2, 4, 3, 1, "", "", 0.0, 1.0, {"model": 0.5})
    metrics = ReplicaMetrics(name)
    metrics.committed(manifest)
    driver = DriverMetrics(name)
    driver.replicas.set(1)
    assert metrics.images.metric.info["default_tags"]["run"] == tag(name)
    # Ray itself takes the tag: what is told isn't merely passed over.
    metrics.images.metric.inc(1)
    assert tag(name).isascii()
    assert "\n" not in tag(name)


def test_a_metric_that_fails_is_passed_over(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = ReplicaMetrics("run")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no agent")

    for kind, method in ((Counter, "inc"), (Histogram, "observe"), (Gauge, "set")):
        monkeypatch.setattr(kind, method, fail)
    metrics.committed(Manifest("p", "1", "f", 2, 4, 3, 1, "", "", 0.0, 1.0, {"model": 0.5}))
    DriverMetrics("run").lost.inc()
    monkeypatch.setattr(Counter, "__init__", fail)
    DriverMetrics("run").lost.inc()


def test_a_missing_configuration_file_ends_with_2(no_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_what_one_can_do_is_shown_and_a_verb_misspelt_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [verb for verb in VERBS if f"p2pz {verb}" not in shown] == []
    with pytest.raises(SystemExit):
        main(["transalte"])
    assert "no verb transalte: did you mean translate" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [*VERBS])
def test_each_verbs_help_has_an_example_and_a_jobs_its_keys(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert f"example:\n  p2pz {verb} " in shown
    if verb in JOBS:
        assert f"  {next(keys(JOBS[verb])).name}=" in shown


def test_a_configuration_of_another_job_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, file, job in (("evaluate", "cat2dog", "translate"), ("translate", "evaluate-cat2dog", "evaluate")):
        assert main([verb, str(ROOT / f"configs/mini/{file}.yaml")]) == 2
        assert f"is a configuration of p2pz {job}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["translate"],
        ["translate", "c", "--nope"],
        ["status", "a", "b=c"],
        ["world", "out"],
        ["demo", "--count", "0"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_a_wrong_configuration_starts_no_process_and_is_answered_without_loading_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from p2pz_ray.cli import main; code = main(['translate', 'seed=x', 'output=o']);"
        "print(code, 'ray' in sys.modules, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["2", "False", "False"]


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"p2pz {__version__}\n"


def test_world_writes_held_out_scenes_with_their_exact_counterfactuals(tmp_path: Path) -> None:
    assert main(["world", str(tmp_path / "w"), "--count", "5", "--edit", "cat2dog", "--edit", "horse2zebra"]) == 0
    [file] = (tmp_path / "w").iterdir()
    table = pq.read_table(file)
    assert table.schema.equals(collection_schema(("cat2dog", "horse2zebra"), mask=True, scene=True, sketches=True))
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["cat-00000", "horse-00001", "cat-00002", "horse-00003", "cat-00004"]
    for row in rows:
        scene = Scene.from_json(row["scene"])
        assert scene.held_out
        assert scene.kind in row["caption"]
        edit, other, target = (
            ("cat2dog", "horse2zebra", "dog") if scene.kind == "cat" else ("horse2zebra", "cat2dog", "zebra")
        )
        assert row[f"truth_{other}"] is None
        for column, wanted in (("image", scene), (f"truth_{edit}", scene.with_(kind=target))):
            assert (pixels(row[column]) == render(wanted)[0]).all()
        assert ((pixels(row["mask"]) == 255) == render(scene)[1]).all()


def test_world_is_the_same_for_the_same_seed_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["world", str(tmp_path / name), "--count", "3", "--seed", seed]) == 0
    a, b, c = ((tmp_path / name / "scenes-0000.parquet").read_bytes() for name in "abc")
    assert a == b != c
    assert main(["world", str(tmp_path / "a"), "--count", "3"]) == 2
    assert "holds files already" in capsys.readouterr().err
    assert main(["world", str(tmp_path / "d"), "--count", "3", "--edit", "cat2bird"]) == 2
    assert "cat2bird" in capsys.readouterr().err


def test_a_direction_for_two_words_takes_one_line(tmp_path: Path, tiny_model: Path, no_ray: None) -> None:
    file = tmp_path / "cat2dog.safetensors"
    settings = ["source=cat", "target=dog", f"model={tiny_model}", "count=8", f"output={file}"]
    assert main(["direction", *settings]) == 0
    made = EditDirection.load(str(file))
    assert made.embedding.shape == (24, 16)
    assert made.provenance["name"] == "cat2dog"
    assert (made.provenance["source"], made.provenance["target"]) == ("cat", "dog")
    assert made.provenance["source_sentences"] == 8


GOOD: dict[str, Callable[[Image.Image, Path], None]] = {
    "rgb.png": lambda image, file: image.save(file),
    "below/größe ☃.png": lambda image, file: image.save(file),
    f"{'long' * 60}.png": lambda image, file: image.save(file),
    "cmyk.jpg": lambda image, file: image.convert("CMYK").save(file),
    "grey.webp": lambda image, file: image.convert("L").save(file),
    "clear.png": lambda image, file: image.convert("RGBA").save(file),
    "palette.bmp": lambda image, file: image.convert("P").save(file),
    "moving.gif": lambda image, file: image.save(file, save_all=True, append_images=[image.rotate(90)]),
    "deep.png": lambda image, file: Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(file),
    "wrong.jpg": lambda image, file: image.save(file, "PNG"),
    "turned.jpg": lambda image, file: image.save(file, exif=turned()),
}


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.fixture(scope="module")
def broken_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, local_ray: None) -> Iterator[Path]:
    """A folder of usable and broken images, translated; with the exit code beside the run."""
    folder = tmp_path_factory.mktemp("broken")
    images = folder / "images"
    (images / "below").mkdir(parents=True)
    picture = Image.fromarray(render(Scene())[0])
    for name, good in GOOD.items():
        good(picture, images / name)
    picture.save(images / "whole.png")
    whole = (images / "whole.png").read_bytes()
    (images / "empty.png").write_bytes(b"")
    (images / "half.png").write_bytes(whole[: len(whole) // 2])
    (images / "letter.png").write_text("Dear Sir or Madam")
    (images / "page.jpg").write_text("<html></html>")
    (images / "folder.png").mkdir()
    (images / "link.png").symlink_to("nowhere.png")
    os.mkfifo(images / "pipe.png")
    Image.new("RGB", (1, 1)).save(images / "dot.png")
    Image.new("1", (20_000, 20_000)).save(images / "bomb.png")
    (images / "big.png").write_bytes(whole + bytes(3 << 20))
    settings = tiny_settings(folder, tiny_model) | {"input": {"uri": str(images), "images_per_partition": 8}}
    settings["image"] = {"max_bytes": 2 << 20}
    code = main(["translate", write_config(folder, settings)])
    (folder / "code").write_text(str(code))
    return folder


def test_broken_images_are_error_rows_with_a_sentence_and_the_run_ends_with_3(broken_folder: Path) -> None:
    assert (broken_folder / "code").read_text() == "3"
    rows = pairs_of(broken_folder / "run")
    assert len(rows) == (len(GOOD) + 11) * 2
    for (id, edit), row in rows.items():
        good = id in GOOD or id == "whole.png"
        assert row["status"] == ("ok" if good else "error"), (id, edit, row["error"])
        assert (row["edited_image"] is not None) == good
        if not good:
            assert re.fullmatch(r"[A-Z][^\n]+\.", row["error"]), (id, row["error"])
    assert (broken_folder / "run" / "_SUCCESS").exists()


def test_tolerance_decides_between_3_and_0(
    broken_folder: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    job = str(broken_folder / "job.yaml")
    assert main(["translate", job]) == 3
    out, err = capsys.readouterr()
    assert "finished already" in out
    assert "45.5% of the images failed" in err
    assert main(["translate", job, "tolerance.failed_images=0.46"]) == 0


def test_where_a_job_is_tried_again_what_no_try_can_mend_ends_it_as_done_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = [
        "translate",
        f"input.uri={tmp_path}/none",
        "edits={e: {source: cat, target: dog}}",
        f"output={tmp_path}/run",
    ]
    assert main(nothing) == 2
    said = capsys.readouterr().err
    monkeypatch.setenv(RETRIED, "1")
    assert main(nothing) == 0
    assert capsys.readouterr().err == f"{said}p2pz: Another try would not help, so the exit code is 0 instead of 2.\n"
    for raised, code in ((P2PZError("gone"), 1), (StoppedError("Stopped.", 15), 143), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr("p2pz_ray.translation.status.status", _raising(raised))
        assert main(["status", "run"]) == code


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_status_and_report_look_at_a_run(broken_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(broken_folder / "run")
    assert main(["status", run]) == 0
    assert "22 of 22 images (100%), 24 pairs ok, 20 failed; finished." in capsys.readouterr().out
    assert main(["report", run]) == 0
    assert "<html" in (broken_folder / "run" / "report" / "index.html").read_text()
    assert main(["status", str(broken_folder)]) == 2


@pytest.mark.slow
def test_a_cluster_named_by_address_gets_the_code_with_the_work(
    tmp_path: Path, tiny_model: Path, local_ray: None
) -> None:
    """A driver of its own, started where the package is not, works on a Ray that was there before and stays."""
    config = write_config(tmp_path, tiny_settings(tmp_path, tiny_model, images=2))
    address = f"ray.address={ray.get_runtime_context().gcs_address}"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from p2pz_ray.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "translate", config, address]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "2 images: 4 ok, 0 failed" in ended.stdout
    assert ray.is_initialized()


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL / "model_index.json").exists(), reason="the miniature's weights are not here")
def test_the_demo_goes_the_whole_way(tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--count", "4"]) == 0
    assert "4 ok, 0 failed" in capsys.readouterr().out
    assert (out / "run" / "report" / "index.html").stat().st_size > 10_000
    assert Image.open(out / "sheet.png").size == (4 * 116 - 4, 3 * 116 - 4)
    assert main(["demo", "--out", str(out), "--count", "4"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["demo", "--out", str(out), "--count", "5"]) == 2
    assert "a demo of 4 images" in capsys.readouterr().err


def pixels(image: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(image["bytes"])))


def test_published_embeddings_become_a_direction_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("cat", 1.0), ("dog", 3.0)):
        torch.save(torch.full((1, 77, 768), value), tmp_path / f"{name}.pt")
    output = tmp_path / "cat2dog.safetensors"
    settings = [f"embeddings.{side}={tmp_path}/{name}.pt" for side, name in (("source", "cat"), ("target", "dog"))]
    assert main(["direction", *settings, f"output={output}"]) == 0
    assert torch.equal(EditDirection.load(str(output)).embedding, torch.full((77, 768), 2.0))
    assert "77×768" in capsys.readouterr().out
    assert main(["direction", *settings, "source=cat", "target=dog", f"output={output}"]) == 2
    assert "embeddings" in capsys.readouterr().err
