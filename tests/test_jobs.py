"""The jobs from Python: what a notebook or a program calls, and what it gets back."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from PIL import Image
from small_run import examples, pair, write_run
from tiny_job import pairs_of, tiny_settings, translated

import p2pz_ray
from p2pz_ray.amount import count, size
from p2pz_ray.cli import main
from p2pz_ray.collection.plan import make_plan
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.understood import understood
from p2pz_ray.commit.run import Run as Opened
from p2pz_ray.config import TranslateConfig, difference, fingerprint, record
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.evaluation.scores import ScoreFolder
from p2pz_ray.picture.codec import encode
from p2pz_ray.picture.mark import SOURCE_TYPE, xmp
from p2pz_ray.running import progress as progress_module
from p2pz_ray.running.progress import Progress, Reached
from p2pz_ray.storage.store import Store
from p2pz_ray.translation.forecast import Forecast, forecast
from p2pz_ray.translation.prepare import make_partitions, prepare
from p2pz_ray.translation.provenance import provenance
from p2pz_ray.translation.status import status, watch

ROOT = Path(__file__).parents[1]
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, local_ray: None) -> tuple[Path, list[Reached]]:
    """A run made by a call, and what its progress said."""
    folder = tmp_path_factory.mktemp("made")
    seen: list[Reached] = []
    summary = p2pz_ray.translate(tiny_settings(folder, tiny_model), on_progress=seen.append)
    assert (summary.images, summary.rows, summary.failed) == (6, 12, 0)
    return folder / "run", seen


# ---------------------------------------------------------------------------------------------------- calls


def test_importing_the_package_and_naming_its_jobs_loads_neither_torch_nor_ray_nor_datasets() -> None:
    code = (
        "import sys, p2pz_ray; p2pz_ray.translate, p2pz_ray.evaluate, p2pz_ray.plan, p2pz_ray.Run, p2pz_ray.distill;"
        "print([name for name in ('torch', 'ray', 'datasets', 'diffusers', 'pyarrow') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_progress_is_told_to_the_end(made: tuple[Path, list[Reached]]) -> None:
    _, seen = made
    assert seen[0].images == 0
    assert seen[-1].images == seen[-1].total == 6
    assert [one.images for one in seen] == sorted(one.images for one in seen)
    assert "of 6 images" in str(seen[-1])


def test_a_mapping_a_file_and_a_loaded_configuration_are_the_same_job(
    made: tuple[Path, list[Reached]], tiny_model: Path, tmp_path: Path
) -> None:
    run, _ = made
    settings = tiny_settings(run.parent, tiny_model)
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(settings))
    loaded = TranslateConfig.model_validate(settings)
    for given in (settings, str(file), loaded):
        assert not p2pz_ray.translate(given).fresh
        with pytest.raises(ConfigError, match="another configuration: seed was 0 and is 5"):
            p2pz_ray.translate(given, "seed=5")
    assert not p2pz_ray.translate(None, *(f"{key}={json.dumps(value)}" for key, value in settings.items())).fresh


@pytest.mark.train
def test_a_run_is_evaluated_and_distilled_by_two_calls(made: tuple[Path, list[Reached]], tmp_path: Path) -> None:
    run, said = str(shutil.copytree(made[0], tmp_path / "run")), list[str]()
    evaluation = p2pz_ray.evaluate(
        {"run": run, "metrics": {"pixels": True}, "replicas": {"count": 1}}, "pictures=2", say=said.append
    )
    assert evaluation.metrics["pairs"]["scored"] == 12
    assert evaluation.report is not None
    assert Path(evaluation.report).exists()
    assert len(p2pz_ray.Run(run).scores()) == 12
    distilled = p2pz_ray.distill(
        {
            "pairs": {"runs": run, "edit": "cat2dog", "filter": "mse > 0", "test": 0.4},
            "generator": {"base": 128, "max": 8, "code": 16, "residual": True},
            "losses": {"adversarial": 0, "perceptual": 0},
            "training": {"steps": 3, "batch": 2, "checkpoint_every": 3},
            "workers": {"count": 0},
            "output": str(tmp_path / "student"),
        }
    )
    student = p2pz_ray.Student.from_pretrained(str(tmp_path / "student" / "student"))
    assert student(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 64, 64, 3)
    assert "student" in str(distilled)


@pytest.mark.parametrize("job", ["translate", "evaluate", "distill", "plan", "direction"])
def test_a_wrong_configuration_is_one_sentence(job: str) -> None:
    for given in ({"stepz": 1}, {"output": 5}):
        with pytest.raises(ConfigError, match=r"^The configuration: .*\.$"):
            getattr(p2pz_ray, job)(given)
    with pytest.raises(ConfigError, match=r"no configuration file nowhere\.yaml"):
        getattr(p2pz_ray, job)("nowhere.yaml")


def test_distill_is_a_job_after_its_modules_were_imported_too() -> None:
    import p2pz_ray.distill.run

    assert p2pz_ray.distill.run.Distilled
    with pytest.raises(ConfigError):
        p2pz_ray.distill({})


def test_ctrl_c_stops_the_job_and_leaves_ray_and_what_is_done(
    tmp_path: Path, tiny_model: Path, local_ray: None
) -> None:
    given = tiny_settings(tmp_path, tiny_model, per_partition=1)

    def interrupt(reached: Reached) -> None:
        if 0 < reached.images < 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(P2PZError, match="Stopped with"):
        p2pz_ray.translate(given, on_progress=interrupt)
    assert ray.is_initialized()
    done = len(pairs_of(tmp_path / "run"))
    assert 0 < done < 12
    assert p2pz_ray.translate(given).rows == len(pairs_of(tmp_path / "run")) == 12


def test_what_progress_raises_ends_the_run_and_keeps_what_is_done(
    tmp_path: Path, tiny_model: Path, local_ray: None
) -> None:
    given = tiny_settings(tmp_path, tiny_model, per_partition=1)

    def enough(reached: Reached) -> None:
        if reached.images:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        p2pz_ray.translate(given, on_progress=enough)
    assert p2pz_ray.translate(given).rows == 12


def test_a_notebook_gets_the_bar_that_suits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[dict[str, Any]] = []

    class Bar:
        n = 0

        def __init__(self, **options: Any) -> None:
            bars.append(options)

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    import tqdm.auto

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    Progress(10, 0, 0, io.StringIO()).show(1, 1)
    assert bars == []
    monkeypatch.setattr(progress_module, "in_notebook", lambda: True)
    Progress(10, 0, 0, io.StringIO()).show(1, 1)
    assert [bar["total"] for bar in bars] == [10]


# ------------------------------------------------------------------------------------------------------ a run


def test_a_runs_pairs_are_batches_and_data_sets(made: tuple[Path, list[Reached]], tmp_path: Path) -> None:
    run = p2pz_ray.Run(str(made[0]))
    expected = pairs_of(made[0])
    assert run.finished
    assert run.config["seed"] == 0
    assert run.status().ok == 12
    table = pa.Table.from_batches(run.pairs())
    assert {(row["id"], row["edit"]): row for row in table.to_pylist()} == expected
    [narrow] = {tuple(batch.schema.names) for batch in run.pairs(["id", "edit"])}
    assert narrow == ("id", "edit")
    rows = run.to_ray_dataset(["id", "edit", "edited_image"]).take_all()
    assert {(row["id"], row["edit"]) for row in rows} == set(expected)
    hf = run.to_hf_dataset(streaming=True)
    first = next(iter(hf))
    assert first["edited_image"].size == (64, 64)
    assert sum(1 for _ in hf) == 12


def test_a_runs_scores_are_a_table_and_without_them_a_sentence(
    made: tuple[Path, list[Reached]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has no scores yet: run p2pz evaluate"):
        p2pz_ray.Run(str(made[0])).scores()
    with pytest.raises(ConfigError, match="is not a run"):
        p2pz_ray.Run(str(tmp_path))
    scenes = examples(2)
    write_run(tmp_path / "run", [[pair(s.id, s.picture(), s.picture("dog"))] for s in scenes])
    opened = Opened(str(tmp_path / "run"))
    for scene, manifest, name in zip(scenes, opened.manifests, ("first", "second"), strict=True):
        ScoreFolder(opened.store).write(manifest, "f", [(scene.id, "cat2dog")], {name: [0.5]}, {name: "x"}, 0)
    assert p2pz_ray.Run(str(tmp_path / "run")).scores().to_pylist() == [
        {"id": scenes[0].id, "edit": "cat2dog", "first": 0.5, "second": None},
        {"id": scenes[1].id, "edit": "cat2dog", "first": None, "second": 0.5},
    ]


def test_a_run_without_pairs_yet_says_so(tmp_path: Path) -> None:
    [scene] = examples(1)
    write_run(tmp_path, [[pair(scene.id, scene.picture(), scene.picture())]], planned=2, complete=False)
    for file in (tmp_path / "manifest").iterdir():
        file.unlink()
    run = p2pz_ray.Run(str(tmp_path))
    assert list(run.pairs()) == []
    for call in (run.to_hf_dataset, run.to_ray_dataset):
        with pytest.raises(ConfigError, match="has no pairs yet"):
            call()


def test_status_is_watched_until_the_end_and_said_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [[pair(s.id, s.picture(), s.picture())] for s in examples(2)]
    write_run(tmp_path, rows[:1], planned=2, complete=False)
    pauses = iter([lambda: None, lambda: write_run(tmp_path, rows)])
    monkeypatch.setattr("p2pz_ray.translation.status.time.sleep", lambda _: next(pauses)())
    assert main(["status", str(tmp_path), "--watch", "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["done"], one["finished"]) for one in shown] == [(1, False), (2, True)]
    assert watch(str(tmp_path), lambda _: None).done == 2
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 2


def test_the_status_of_a_run_without_a_driver_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[pair(s.id, s.picture(), s.picture())] for s in examples(2)]
    write_run(tmp_path, rows[:1], planned=2, complete=False)
    [manifest] = Opened(str(tmp_path)).manifests
    long = max(60.0, 3 * (manifest.finished - manifest.started))
    monkeypatch.setattr("p2pz_ray.translation.status.time.time", lambda: manifest.finished + long - 1)
    assert not status(str(tmp_path)).stalled
    monkeypatch.setattr("p2pz_ray.translation.status.time.time", lambda: manifest.finished + long + 1)
    assert status(str(tmp_path)).stalled
    assert "its driver is probably gone" in str(status(str(tmp_path)))
    assert " left" not in str(status(str(tmp_path)))
    write_run(tmp_path, rows)
    assert not status(str(tmp_path)).stalled


# ------------------------------------------------------------------------------------------------ what is edited


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_an_edited_picture_says_what_it_is_and_its_pixels_are_the_same(format: str) -> None:
    base = {"input": {"uri": "in"}, "output": "out", "edits": {"cat2dog": {"source": "cat", "target": '<dog> & "co"'}}}
    config = TranslateConfig.model_validate(base | {"model": "/models/my sd15/"})
    packet = xmp(provenance(config, "cat2dog"))
    pixels = examples(1)[0].picture()
    marked = encode(pixels, format, 95, packet)
    with Image.open(io.BytesIO(marked)) as opened:
        [described] = ElementTree.fromstring(opened.info["xmp"]).iter(f"{RDF}Description")
        np.testing.assert_array_equal(
            np.asarray(opened), np.asarray(Image.open(io.BytesIO(encode(pixels, format, 95))))
        )
    description = {name.rpartition("}")[2]: value for name, value in described.items()}
    assert description["DigitalSourceType"] == SOURCE_TYPE
    assert description["AISystemUsed"] == "pix2pix-zero with my sd15"
    assert description["AIPromptInformation"] == 'cat2dog: cat → <dog> & "co"'
    assert description["AISystemVersionUsed"] == f"p2pz_ray {p2pz_ray.__version__}"


def test_a_runs_edited_pictures_are_marked_and_its_sources_are_not(made: tuple[Path, list[Reached]]) -> None:
    for (_, edit), row in pairs_of(made[0]).items():
        assert SOURCE_TYPE.encode() in row["edited_image"]["bytes"]
        assert edit.encode() in row["edited_image"]["bytes"]
        assert SOURCE_TYPE.encode() not in row["source_image"]["bytes"]


def test_marks_can_be_left_out(tmp_path: Path, tiny_model: Path) -> None:
    settings = tiny_settings(tmp_path, tiny_model, images=1) | {"output_format": {"mark": "none"}}
    for row in translated(settings).values():
        assert SOURCE_TYPE.encode() not in row["edited_image"]["bytes"]


# ------------------------------------------------------------------------------------------------ what will be done


def test_a_plan_says_what_a_run_would_do_and_makes_nothing(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_settings(tmp_path, tiny_model) | {"replicas": {"count": 2}}
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(settings))
    assert main(["plan", str(file), "--measure", "4", "--price", "2.5"]) == 0
    out = capsys.readouterr().out
    assert "6 images in 1 Parquet file" in out
    assert "captions of 6 images from the column 'caption'" in out
    assert "12 pairs from 3 partitions of at most 2 images" in out
    assert re.search(r"[\d.]+ images/s by one replica on cpu \(4 images tried\)", out)
    assert re.search(r"  8 replicas: \d+ s, [\d.]+ in all \(no more have work\)", out)
    assert not (tmp_path / "run").exists()


def test_hours_and_cost_follow_from_the_rate(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("a.png", encode(examples(1)[0].picture()))
    collection = understood(str(tmp_path), make_plan(str(tmp_path)), Columns())
    found = Forecast(collection, 1, 100, 64, None, 1.0, 64, "cuda", 2.0, 3.0)
    found = Forecast(**{**vars(found), "collection": collection.__class__(**{**vars(collection), "images": 72_000})})
    assert found.hours(1) == 10
    assert found.hours(8) == 1.25
    assert found.hours(1000) == 0.1  # a hundred partitions keep a hundred at work
    assert "  8 replicas: 1 h 15 min, 30.00 in all" in str(found)
    with pytest.raises(ConfigError, match="--price needs --measure"):
        forecast(TranslateConfig.model_validate(tiny(tmp_path)), None, 2.0)


def tiny(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "input": {"uri": str(folder)},
        "output": f"{folder}-run",
        "edits": {"e": {"source": "cat", "target": "dog"}},
        **more,
    }


@pytest.mark.parametrize(
    ("images", "replicas", "expected"),
    [(9, 2, [4, 4, 1]), (1, 4, [1]), (3, 8, [1, 1, 1]), (64, 1, [64]), (65, 2, [64, 1]), (64, 2, [32, 32])],
)
def test_a_small_collection_is_cut_so_that_all_replicas_have_work(
    tmp_path: Path, images: int, replicas: int, expected: list[int]
) -> None:
    for i in range(images):
        Store(str(tmp_path / "in")).write(f"{i:03}.png", encode(np.full((8, 8, 3), i, np.uint8)))
    config = TranslateConfig.model_validate(tiny(tmp_path / "in", replicas={"count": replicas}))
    plan, used = make_partitions(config)
    assert [partition.rows for partition in plan.partitions] == expected
    assert make_partitions(config, used)[0] == plan


def test_a_begun_run_keeps_its_partitions_whatever_the_replicas(tmp_path: Path, tiny_model: Path) -> None:
    given = tiny_settings(tmp_path, tiny_model, per_partition=64)
    plans = []
    for replicas in (3, 1, 6):
        prepared = prepare(TranslateConfig.model_validate(given | {"replicas": {"count": replicas}}))
        assert prepared is not None
        plans.append(prepared[1])
    assert plans[0] == plans[1] == plans[2]
    assert [partition.rows for partition in plans[0].partitions] == [2, 2, 2]


def test_how_a_collection_is_cut_decides_no_pixel(tmp_path: Path) -> None:
    one, other = (
        TranslateConfig.model_validate(tiny(tmp_path, input={"uri": "x", "images_per_partition": n})) for n in (5, 64)
    )
    assert fingerprint(one) == fingerprint(other)
    assert difference(record(one), record(other)) == []


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(0, "replica", "0 replicas"), (1, "partition", "1 partition"), (1200, "image", "1,200 images")],
)
def test_numbers_agree_with_their_nouns(number: int, noun: str, said: str) -> None:
    assert count(number, noun) == said


def test_a_log_says_once_that_the_time_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("p2pz_ray.running.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(10, 0, 0, stream)
    for _ in range(3):
        now[0] += 20
        progress.show(0, 1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert ["isn't known" in line for line in lines] == [True, False, False]
    assert all(line.endswith("1 replica") or "isn't known" in line for line in lines)


@pytest.mark.parametrize(
    ("bytes", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (12_345, "12 kB"), (3_450_000, "3.5 MB"), (5e15, "5,000.0 TB")],
)
def test_sizes_read_well(bytes: int, said: str) -> None:
    assert size(int(bytes)) == said


def test_what_was_understood_is_one_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    png = encode(np.zeros((8, 8, 3), np.uint8))
    store.write("a.png", png)
    store.write("notes.txt", b"x")
    line = str(understood(str(tmp_path), make_plan(str(tmp_path)), Columns()))
    left = "1 other name left out (hidden, of another kind or no data)"
    assert line == f"{tmp_path}: 1 image file, {len(png)} bytes; no captions; {left}"
    table = pa.table({"image": [png, png], "text": ["a cat", None], "mask": [png, png]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    store.write("t/a.parquet", sink.getvalue())
    columns, uri = Columns(caption="text", mask="mask"), f"{tmp_path}/t"
    line = str(understood(uri, make_plan(uri, columns), columns, counted=True))
    assert line.startswith(f"{uri}: 2 images in 1 Parquet file, ")
    assert line.endswith("; captions of 1 image (1 without) from the column 'text'; masks from the column 'mask'")


def test_a_shell_completes_verbs_and_options(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    for line, expected in (
        ("p2pz exp", {"export"}),
        ("p2pz status --j", {"--json"}),
        ("p2pz export --format web", {"webdataset"}),
    ):
        told = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"), "_ARGCOMPLETE_IFS": "\n"}
        told |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
        subprocess.run([sys.executable, "-m", "p2pz_ray.cli"], cwd=ROOT, env={**os.environ, **told}, check=False)
        assert {word.strip() for word in (tmp_path / "out").read_text().splitlines()} == expected
