"""A translation runs once, in order, with nothing lost: what a run promises while nothing is killed."""

import io
import itertools
import json
import re
import shutil
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ray.util.metrics import Counter, Histogram, Metric
from s3_server import s3_server
from tiny_job import committed_files, data_files, pairs_of, tiny_config, tiny_settings

from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.collection.schema import collection_schema, table_bytes
from p2pz_ray.commit.folder import SEALED, RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.engines import direction as direction_module
from p2pz_ray.engines.direction import edit_directions, load_direction, recipe
from p2pz_ray.engines.seed import image_seed
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.mini.world import Scene, render
from p2pz_ray.picture.codec import encode
from p2pz_ray.running import log
from p2pz_ray.running.metrics import DriverMetrics, ReplicaMetrics
from p2pz_ray.running.progress import Progress, duration
from p2pz_ray.serving.metrics import EngineMetrics, IngressMetrics
from p2pz_ray.storage.failure import StorageError
from p2pz_ray.storage.store import Store
from p2pz_ray.translation import prepare as prepare_module
from p2pz_ray.translation import run as run_module
from p2pz_ray.translation.ahead import Ahead
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.run import translate
from p2pz_ray.translation.status import status
from p2pz_ray.translation.translator import Translator

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, local_ray: None) -> Path:
    """A folder with a finished run of three partitions in it, for tests that only look."""
    folder = tmp_path_factory.mktemp("finished")
    translate(tiny_config(folder, tiny_model))
    return folder


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a replica is started."""

    def refuse(*_: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(run_module, "_work", refuse)


# ------------------------------------------------------------------------------------------------ a finished run


def test_every_image_has_one_pair_for_each_edit(finished: Path) -> None:
    pairs = pairs_of(finished / "run")
    assert set(pairs) == {(f"cat-{i:05}", edit) for i in range(6) for edit in ("cat2dog", "cat2horse")}
    for (id, _), row in pairs.items():
        assert (row["status"], row["error"]) == ("ok", None)
        assert row["seed"] == image_seed(0, id)
        assert "cat" in row["caption"]
        for column in ("source_image", "edited_image"):
            assert Image.open(io.BytesIO(row[column]["bytes"])).size == (64, 64)
    for id in ("cat-00000", "cat-00005"):
        assert pairs[id, "cat2dog"]["edited_image"]["bytes"] != pairs[id, "cat2horse"]["edited_image"]["bytes"]


def test_datasets_shows_the_pictures_of_a_run(finished: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = sorted(map(str, (finished / "run" / "data").glob("*.parquet")))
    shown = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(shown) == 12
    assert shown[0]["edited_image"].size == shown[0]["source_image"].size == (64, 64)


def test_data_holds_the_committed_files_and_nothing_else(finished: Path) -> None:
    assert data_files(finished / "run") == committed_files(finished / "run")
    assert len(data_files(finished / "run")) == 3


def test_a_finished_run_says_so_and_starts_nothing(finished: Path, tiny_model: Path, no_work: None) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    summary = translate(tiny_config(finished, tiny_model))
    assert not summary.fresh
    assert (summary.images, summary.ok, summary.failed) == (6, 12, 0)
    assert "finished already" in str(summary)
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*")} == before


def test_status_counts_from_manifests(finished: Path, tmp_path: Path) -> None:
    whole = status(str(finished / "run"))
    assert (whole.finished, whole.total, whole.done, whole.ok, whole.failed) == (True, 6, 6, 12, 0)
    assert "6 of 6 images (100%)" in str(whole)
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run" / "_SUCCESS").unlink()
    next((tmp_path / "run" / "manifest").iterdir()).unlink()
    part = status(str(tmp_path / "run"))
    assert (part.finished, part.done, part.ok) == (False, 4, 8)
    assert part.rate is not None
    assert "left" in str(part)
    with pytest.raises(ConfigError, match=r"no run.*plan\.json"):
        status(str(tmp_path))


# ---------------------------------------------------------------------------------------------- going on, refusing


def test_a_run_goes_on_with_what_is_missing_alone(
    finished: Path, tmp_path: Path, tiny_model: Path, local_ray: None
) -> None:
    """Also where a manifest's file is gone, and with what a killed writer left in data/."""
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    undisturbed = pairs_of(run)
    manifests = sorted((run / "manifest").iterdir())
    kept = RunFolder(str(run)).manifest(manifests[0].stem)
    lost = RunFolder(str(run)).manifest(manifests[1].stem)
    assert kept
    assert lost
    (run / "_SUCCESS").unlink()
    (run / lost.file).unlink()
    manifests[2].unlink()
    (run / "data" / f"{manifests[2].stem}-0123456789ab.parquet").write_bytes(b"half a file")
    again = translate(TranslateConfig.model_validate(tiny_settings(finished, tiny_model) | {"output": str(run)}))
    assert again.fresh
    assert again.ok == 12
    assert pairs_of(run) == undisturbed
    assert data_files(run) == committed_files(run)
    assert kept.file in data_files(run)
    assert lost.file not in data_files(run)


def test_a_changed_configuration_is_refused_naming_each_key(finished: Path, tiny_model: Path, no_work: None) -> None:
    changed = tiny_settings(finished, tiny_model) | {"seed": 9, "inversion": {"steps": 3}}
    with pytest.raises(ConfigError, match=r"inversion\.steps was 2 and is 3; seed was 0 and is 9"):
        translate(TranslateConfig.model_validate(changed))
    harmless = tiny_settings(finished, tiny_model) | {"batch_size": 5, "replicas": {"count": 7}}
    assert not translate(TranslateConfig.model_validate(harmless)).fresh


def test_a_changed_model_or_collection_is_refused(
    finished: Path, tmp_path: Path, tiny_model: Path, tiny_v_model: Path, no_work: None
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    config = tiny_config(tmp_path, tmp_path / "model")
    prepare(config)
    shutil.rmtree(tmp_path / "world")
    tiny_settings(tmp_path, tiny_model, images=7)
    prepared = prepare(config)  # the plan stands, whatever became of the collection,
    assert prepared is not None
    with pytest.raises(P2PZError, match="changed since the plan was made"):  # and each file is looked at as it is read
        Translator(prepared[0]).translate(prepared[1].partitions[0])
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(tiny_v_model, tmp_path / "model")
    with pytest.raises(ConfigError, match=r'model was "[0-9a-f]{16}" and is "[0-9a-f]{16}"'):
        translate(config)


def test_a_finished_run_gets_new_files_though_it_is_killed_meanwhile_and_leaves_all_others_alone(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, tiny_model, images=1)
    settings["input"] = {"uri": str(tmp_path / "in"), "images_per_partition": 3}

    def add(names: str) -> None:
        for name in names:
            Store(settings["input"]["uri"]).write(f"{name}.png", encode(render(Scene())[0]))

    def run(new: str) -> int:
        settings["input"]["new"] = new
        prepared = prepare(TranslateConfig.model_validate(settings))
        if prepared is None:
            return 0
        job, plan = prepared
        translator = Translator(job)
        for partition in plan.partitions:
            translator.translate(partition)
        job.folder.finish(plan, {})
        return plan.images

    add("bdfh")
    assert run("ignore") == 4
    before = {file: (tmp_path / "run" / file).read_bytes() for file in data_files(tmp_path / "run")}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    add("ac")
    assert run("ignore") == 0
    for place, name in ((RunFolder, "_put_plan"), (Translator, "translate"), (RunFolder, "finish")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run("append")
        assert not RunFolder(settings["output"]).finished
    assert run("ignore") == 6
    assert run("append") == 0
    assert len(pairs_of(tmp_path / "run")) == 12
    assert data_files(tmp_path / "run") == committed_files(tmp_path / "run") > before.keys()
    assert all((tmp_path / "run" / file).read_bytes() == data for file, data in before.items())


def test_an_output_with_other_data_is_refused(tmp_path: Path, tiny_model: Path, no_work: None) -> None:
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "data" / "precious.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="no run"):
        translate(tiny_config(tmp_path, tiny_model))
    assert data_files(tmp_path / "run") == {"data/precious.parquet"}


def test_directions_are_made_where_the_replicas_are_and_nothing_is_loaded_here(
    tmp_path: Path, tiny_model: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the driver loads a text encoder")

    config = tiny_config(tmp_path, tiny_model, images=2)
    here = edit_directions(recipe(config.edits, {}), TextEncoder.load(tiny_model))
    monkeypatch.setattr(TextEncoder, "load", refuse)
    assert translate(config).ok == 4
    for name, direction in here.items():
        made = load_direction(RunFolder(config.output), name)
        assert made is not None
        assert torch.equal(made.embedding, direction.embedding)


def test_a_direction_of_another_model_is_refused_before_any_replica_starts(
    tmp_path: Path, tiny_model: Path, tiny_v_model: Path, local_ray: None, no_work: None
) -> None:
    EditDirection.from_sentences(TextEncoder.load(tiny_v_model), ["a cat"], ["a dog"]).save(str(tmp_path / "d"))
    given = tiny_settings(tmp_path, tiny_model) | {"edits": {"e": {"direction": str(tmp_path / "d")}}}
    given["captions"] = {"otherwise": "a cat"}
    with pytest.raises(ConfigError, match="direction e was made for another model"):
        translate(TranslateConfig.model_validate(given))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_two_drivers_at_once_make_one_run(tmp_path: Path, tiny_model: Path, local_ray: None) -> None:
    config = tiny_config(tmp_path, tiny_model)
    made: list[Any] = []
    drivers = [threading.Thread(target=lambda: made.append(translate(config))) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert [summary.ok for summary in made] == [12, 12]
    assert len(pairs_of(tmp_path / "run")) == 12
    assert data_files(tmp_path / "run") == committed_files(tmp_path / "run")


def test_two_drivers_with_sentences_of_their_own_make_one_direction_and_one_job(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a language model writes them: never the same twice."""
    config = tiny_config(tmp_path, tiny_model)
    numbers = itertools.count()
    templates = direction_module.sentences
    monkeypatch.setattr(direction_module, "sentences", lambda *a: [f"{one} {next(numbers)}" for one in templates(*a)])
    together = threading.Barrier(2)
    diffusion = prepare_module._diffusion

    def at_once(*given: Any) -> Any:
        made = diffusion(*given)
        together.wait(60)
        return made

    monkeypatch.setattr(prepare_module, "_diffusion", at_once)
    made: list[Any] = []
    drivers = [threading.Thread(target=lambda: made.append(prepare(config))) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    (one, plan), (two, other_plan) = made
    assert (one.fingerprint, one.ingredients, plan) == (two.fingerprint, two.ingredients, other_plan)
    monkeypatch.setattr(prepare_module, "_diffusion", diffusion)
    again = prepare(config)
    assert again is not None
    assert again[0].fingerprint == one.fingerprint
    loaded = load_direction(one.folder, "cat2dog")
    assert loaded is not None
    assert loaded.digest == one.ingredients["directions"]["cat2dog"]


def test_a_replica_refuses_a_direction_that_is_not_the_jobs(translator: Translator) -> None:
    job, folder = translator.job, translator.job.folder
    names = job.ingredients["directions"]
    right, wrong = (folder.store.full(f"directions/{names[name]}.safetensors") for name in ("cat2dog", "cat2horse"))
    shutil.copy(wrong, right)
    with pytest.raises(ConfigError, match="isn't the direction of cat2dog"):
        Translator(job)


def test_a_manifest_says_what_its_pairs_were_made_with(translator: Translator) -> None:
    made = translator.translate(only_partition(translator))
    assert (made.device, made.dtype) == (translator.device, "float32")


def test_a_duplicate_id_becomes_an_error_row_under_a_name_of_its_own(
    tmp_path: Path, tiny_model: Path, local_ray: None
) -> None:
    picture = {"bytes": encode(render(Scene())[0]), "path": None}
    rows = [{"id": id, "image": picture, "caption": "a cat"} for id in ("a", "b", "a", None)]
    settings = tiny_settings(tmp_path, tiny_model)
    (tmp_path / "in.parquet").write_bytes(table_bytes(pa.Table.from_pylist(rows, collection_schema())))
    settings["input"] = {"uri": str(tmp_path / "in.parquet")}
    assert translate(TranslateConfig.model_validate(settings)).failed == 2
    states = {id: (row["status"], row["error"]) for (id, edit), row in pairs_of(tmp_path / "run").items()}
    assert set(states) == {"a", "b", "a#2", "in.parquet#3"}
    assert [id for id, (state, _) in states.items() if state == "error"] == ["a#2"]
    assert "'a'" in states["a#2"][1]


def test_a_run_from_and_to_s3_is_the_local_run(finished: Path, tiny_model: Path, local_ray: None) -> None:
    with s3_server() as options:
        bucket = Store("s3://bucket/world", options)
        for file in sorted((finished / "world").iterdir()):
            bucket.write(file.name, file.read_bytes())
        there = {"uri": "s3://bucket/world", "images_per_partition": 2, "storage_options": options}
        settings = tiny_settings(finished, tiny_model) | {
            "input": there,
            "output": "s3://bucket/run",
            "output_storage_options": options,
        }
        assert translate(TranslateConfig.model_validate(settings)).ok == 12
        run = Store("s3://bucket/run", options)
        assert run.exists("_SUCCESS")
        found = {}
        for name in run.list("data"):
            for row in pq.read_table(pa.BufferReader(run.read(f"data/{name}"))).to_pylist():
                found[row["id"], row["edit"]] = row
        assert found == pairs_of(finished / "run")
        assert status("s3://bucket/run", options).finished


# ----------------------------------------------------------------------------------------------- the commit protocol


def commit(folder: RunFolder, data: bytes, fingerprint: str = "f") -> Any:
    return folder.commit("p", data, images=1, rows=1, failed=0, fingerprint=fingerprint, started=0.0)


def test_the_first_of_two_writers_stands(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    first, second = commit(folder, b"one"), commit(folder, b"two")
    assert first == second == folder.manifest("p")
    assert data_files(tmp_path) == {first.file}


def test_a_manifest_is_put_after_its_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    write, create = Store.write, Store.create

    def writing(self: Store, path: str, data: bytes) -> None:
        names.append(path)
        write(self, path, data)

    def creating(self: Store, path: str, data: bytes) -> bytes:
        names.append(path)
        return create(self, path, data)

    monkeypatch.setattr(Store, "write", writing)
    monkeypatch.setattr(Store, "create", creating)
    made = commit(RunFolder(str(tmp_path)), b"one")
    assert names == [made.file, "manifest/p.json"]


def test_a_writer_whose_manifest_stood_but_whose_answer_was_lost_keeps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(str(tmp_path))
    create = Store.create

    def twice(self: Store, path: str, data: bytes) -> bytes:
        create(self, path, data)
        return create(self, path, data)

    monkeypatch.setattr(Store, "create", twice)
    made = commit(folder, b"one")
    assert folder.manifest("p") == made
    assert folder.store.read(made.file) == b"one"


def test_a_partition_of_another_job_is_never_taken_for_ones_own(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    foreign = Partition.of("files", [Source("a.png", "1-1")])
    other = folder.commit(foreign.id, b"x", images=1, rows=1, failed=0, fingerprint="other", started=0.0)
    with pytest.raises(P2PZError, match=r"p\.json was made by another configuration.*remove it"):
        commit(folder, b"one", "f") if commit(folder, b"two", "g") else None
    assert len(data_files(tmp_path)) == 2
    own = Partition.of("files", [Source("b.png", "1-1")])
    folder.commit(own.id, b"y", images=1, rows=1, failed=0, fingerprint="f", started=0.0)
    with pytest.raises(P2PZError, match="made by another configuration"):
        folder.finish(Plan((own, foreign)), {})
    assert not folder.finished
    assert folder.manifest(foreign.id) == other


def test_nothing_of_a_killed_writer_stays_in_a_finished_run(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    partition = Partition.of("files", [Source("a.png", "1-1")])
    made = folder.commit(partition.id, b"x", images=1, rows=1, failed=0, fingerprint="f", started=0.0)
    for name in ("data/.tmp-1", "manifest/.tmp-2", ".tmp-3", f"data/{partition.id}-0123456789ab.parquet"):
        (tmp_path / name).write_bytes(b"half")
    folder.finish(Plan((partition,)), {})
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {made.file, f"manifest/{partition.id}.json", SEALED, "_SUCCESS"}


# ------------------------------------------------------------------------------------------------- the translator


@pytest.fixture
def translator(tmp_path: Path, tiny_model: Path) -> Translator:
    prepared = prepare(tiny_config(tmp_path, tiny_model, images=4, per_partition=4))
    assert prepared is not None
    return Translator(prepared[0])


def only_partition(translator: Translator) -> Partition:
    plan = translator.job.folder.plan()
    assert plan is not None
    [partition] = plan.partitions
    return partition


def test_an_image_the_model_fails_on_spares_its_neighbours(translator: Translator, tmp_path: Path) -> None:
    invert = translator.engine.editor.invert
    poison = image_seed(0, "cat-00001")

    def failing(images: Any, captions: Any, seeds: list[int], *rest: Any) -> Any:
        if poison in seeds:
            raise ValueError("not this one\nnever")
        return invert(images, captions, seeds, *rest)

    translator.engine.editor.invert = failing  # type: ignore[method-assign]
    manifest = translator.translate(only_partition(translator))
    assert (manifest.rows, manifest.ok, manifest.failed) == (8, 6, 2)
    rows = pairs_of(tmp_path / "run")
    assert [id for (id, edit), row in rows.items() if row["status"] == "error"] == ["cat-00001"] * 2
    failed = rows["cat-00001", "cat2dog"]
    assert failed["error"] == "The model can't translate it (ValueError: not this one never)."
    assert failed["edited_image"] is None
    assert failed["source_image"]["bytes"]
    assert failed["seed"] == poison


def test_a_batch_beyond_memory_is_halved_for_good(translator: Translator, tmp_path: Path) -> None:
    invert = translator.engine.editor.invert
    sizes: list[int] = []

    def hungry(images: Any, captions: Any, seeds: list[int], *rest: Any) -> Any:
        sizes.append(len(seeds))
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("too much")
        return invert(images, captions, seeds, *rest)

    translator.engine.editor.invert = hungry  # type: ignore[method-assign]
    manifest = translator.translate(only_partition(translator))
    assert (manifest.ok, manifest.failed) == (8, 0)
    assert sizes == [2, 1, 1, 1, 1]


def test_an_image_beyond_memory_alone_is_an_error_row(translator: Translator, tmp_path: Path) -> None:
    def starving(*_: Any) -> Any:
        raise torch.OutOfMemoryError("too much")

    translator.engine.editor.invert = starving  # type: ignore[method-assign]
    translator.translate(only_partition(translator))
    sentences = {row["error"] for row in pairs_of(tmp_path / "run").values()}
    assert sentences == {"The device has too little memory for it, even alone: lower image.size."}


def test_an_outage_at_the_commit_costs_no_image_a_second_pass_through_the_model(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, path: str, data: bytes) -> None:
        raise StorageError("s3://bucket/x can't be written: 503.")

    edited: list[int] = []
    edit = translator.engine.edit
    monkeypatch.setattr(translator.engine, "edit", lambda pictures: (edited.append(len(pictures)), edit(pictures))[1])
    partition = only_partition(translator)
    with monkeypatch.context() as broken:
        broken.setattr(Store, "write", full)
        for _ in range(2):
            with pytest.raises(StorageError, match="503"):
                translator.translate(partition)
    assert translator.job.folder.manifest(partition.id) is None
    assert translator.translate(partition).ok == 8
    assert sum(edited) == 4


# -------------------------------------------------------------------------------------------------- small parts


def test_seeds_depend_on_run_and_id_alone_and_fit_a_signed_column() -> None:
    seeds = {image_seed(run, id) for run in (0, 1) for id in ("a", "b", "é", "\udcff")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_reading_ahead_is_bounded_and_stops_with_its_consumer() -> None:
    taken: list[int] = []

    def numbers() -> Generator[int, None, None]:
        for number in range(100):
            taken.append(number)
            yield number

    with closing(Ahead(numbers(), 2)) as read:
        for number in read:
            if number == 3:
                break
    assert len(taken) <= 3 + 2 + 2
    assert not any(thread.name == "ahead" for thread in threading.enumerate())


def test_reading_ahead_raises_what_the_reader_raises_after_what_it_read() -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise P2PZError("no more")

    with closing(Ahead(broken(), 2)) as numbers:
        assert next(numbers) == 1
        with pytest.raises(P2PZError, match="no more"):
            next(numbers)


def test_a_log_line_says_how_far_how_fast_and_how_many_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("p2pz_ray.running.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(1000, 200, 3, stream)
    progress.show(0, replicas=0)
    now[0] += 60  # loading the model: not counted
    progress.show(0, replicas=2)
    now[0] += 100
    progress.commit(50, 1)
    progress.show(50, replicas=2)
    waiting, line = stream.getvalue().splitlines()
    assert "200 of 1,000 images (20%)" in waiting
    assert "300 of 1,000 images (30%), 1.00 images/s, 11 min 40 s left, 4 failed, 2 replicas" in line


def test_a_terminal_gets_a_live_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(10, 0, 0, stream)
    progress.commit(4, 1)
    progress.show(1, replicas=2)
    progress.close()
    assert "5/10" in stream.getvalue()
    assert "1 failed, 2 replicas" in stream.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(45.2, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_settings_that_do_not_fit_the_model_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    settings = tiny_settings(tmp_path, tiny_model) | {"image": {"size": [60, 64]}}
    with pytest.raises(ConfigError, match=r"image\.size is \[60, 64\].*multiples of 8"):
        prepare(TranslateConfig.model_validate(settings))
    assert not (tmp_path / "run").exists()


def test_pixels_do_not_depend_on_the_batch(translator: Translator, tmp_path: Path) -> None:
    partition = only_partition(translator)
    translator.translate(partition)
    together = pairs_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "manifest")
    shutil.rmtree(tmp_path / "run" / "data")
    translator.batch_size = 1
    translator.translate(partition)
    for key, row in pairs_of(tmp_path / "run").items():
        alone, before = (
            np.asarray(Image.open(io.BytesIO(r["edited_image"]["bytes"]))).astype(int) for r in (row, together[key])
        )
        assert np.abs(alone - before).max() <= 1


def test_status_names_what_is_slow_and_how_busy_each_replica_was(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    plan = Plan(tuple(Partition.of("files", [Source(f"{i}.png", "1")]) for i in range(6)))
    folder.store.write("plan.json", plan.to_json().encode())
    for i, partition in enumerate(plan.partitions[:5]):
        file = f"data/{partition.id}-1.parquet"
        start, spent = (100.0, 90.0) if i == 4 else (10.0 * i, 10.0)
        name = "" if i == 0 else "box-b:7" if i == 4 else "box-a:5"
        made = Manifest(partition.id, "1", file, 1, 1, 1, 0, "", "", start, start + spent, {"model": 8.0}, name)
        folder.store.write(file, b".")
        folder.write_json(f"manifest/{partition.id}.json", asdict(made))
    found = status(str(tmp_path))
    assert found.usual == 10.0
    assert found.slowest == ((plan.partitions[4].id, 90.0),)
    assert [(one.name, one.images, round(one.utilization, 2)) for one in found.replicas] == [
        ("box-a:5", 3, 0.8),
        ("box-b:7", 1, 0.09),
    ]
    said = str(found)
    assert f"a partition takes 10 s as a rule; unusually long: {plan.partitions[4].id} 1 min 30 s" in said
    assert "replica box-a:5: 3 images, its model at work for 80% of it" in said


def test_what_is_written_of_a_run_names_it_the_partition_and_the_image(translator: Translator) -> None:
    stream = io.StringIO()
    log.write_lines(stream)

    def failing(*_: Any) -> Any:
        raise ValueError("never")

    translator.engine.editor.invert = failing  # type: ignore[method-assign]
    partition = only_partition(translator)
    log.committed("run", translator.translate(partition))
    *failures, commit = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["image"] for line in failures] == [f"cat-{i:05}" for i in range(4)]
    assert {line["partition"] for line in [*failures, commit]} == {partition.id}
    assert failures[0]["run"] == translator.job.config.output
    assert failures[0]["event"] == "The model can't translate it (ValueError: never)."
    assert (commit["event"], commit["images"], commit["failed"]) == ("partition committed", 4, 8)


def test_the_dashboard_shows_what_runs_and_services_count_and_nothing_else() -> None:
    board = json.loads((ROOT / "cluster" / "grafana.json").read_text())
    asked = {name for text in _strings(board) for name in re.findall(r"ray_(p2pz_\w+)", text)}
    counted: set[str] = set()
    told = [
        metric.metric for metrics in (ReplicaMetrics("run"), DriverMetrics("run")) for metric in vars(metrics).values()
    ]
    told += [metric for metrics in (EngineMetrics("model", 8), IngressMetrics()) for metric in vars(metrics).values()]
    for metric in (one for one in told if isinstance(one, Metric)):
        end = {Histogram: "_bucket", Counter: "_total"}.get(type(metric), "")
        counted.add(metric.info["name"] + end)  # as Prometheus sees it
    assert asked == counted
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)
