import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from small_run import examples, pair, write_run, write_truth

from p2pz_ray.cli import main
from p2pz_ray.commit.run import Run
from p2pz_ray.config import load
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.distill.condition import Condition
from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation import evaluate as job
from p2pz_ray.evaluation.evaluate import evaluate, score_partition, scorer


def config(tmp_path, **more) -> EvaluateConfig:
    values = {
        "run": str(tmp_path / "run"),
        "collection": {"uri": str(tmp_path / "world.parquet")},
        "masks": {"column": "mask", "model": "world"},
        "metrics": {"truth": True},
        "replicas": {"count": 2},
        "batch_size": 3,
        **more,
    }
    return EvaluateConfig.model_validate(values)


@pytest.fixture
def run(tmp_path):
    """Five scenes in two partitions: exact, half exact, unchanged, broken and failed."""
    scenes = examples(5)
    dogs = [scene.picture("dog") for scene in scenes]
    half = np.where(np.arange(64)[:, None, None] < 32, dogs[1], scenes[1].picture())
    rows = [
        pair(scenes[0].id, scenes[0].picture(), dogs[0]),
        pair(scenes[1].id, scenes[1].picture(), half.astype(np.uint8)),
        pair(scenes[2].id, scenes[2].picture(), scenes[2].picture()),
        pair(scenes[3].id, scenes[3].picture(), b"broken"),
        pair(scenes[4].id, status="error", error="It is a text."),
    ]
    write_run(tmp_path / "run", [rows[:3], rows[3:]])
    for file in (tmp_path / "run/manifest").iterdir():
        found = json.loads(file.read_text())
        found["sha256"] = hashlib.sha256((tmp_path / "run" / found["file"]).read_bytes()).hexdigest()
        file.write_text(json.dumps(found))
    write_truth(tmp_path / "world.parquet", scenes)
    return tmp_path


def scores(folder: Path) -> list[dict]:
    run = Run(str(folder / "run"))
    return [
        row
        for manifest in run.manifests
        for row in pq.read_table(folder / f"run/scores/{manifest.partition}.parquet").to_pylist()
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "run/scores").iterdir())} | {
        "metrics.json": (folder / "run/metrics.json").read_bytes()
    }


def test_every_pair_has_a_row_of_scores_with_what_made_each_and_error_rows_are_counted(run, local_ray):
    found = evaluate(config(run))
    rows = scores(run)
    assert [row["id"] for row in rows] == [f"scene-00{i}" for i in range(5)]
    exact, half, unchanged, broken, failed = rows
    assert exact["truth_mse"] == 0
    assert exact["truth_psnr"] == 100
    assert exact["truth_mask_iou"] == 1
    assert 0 < half["truth_mse"] < half["truth_copy_mse"]
    assert unchanged["truth_mse"] == unchanged["truth_copy_mse"]
    assert unchanged["mask_overlap"] == 1
    assert unchanged["ssim"] == pytest.approx(1)
    for row in (broken, failed):
        assert [value for name, value in row.items() if name not in ("id", "edit")] == [None] * (len(row) - 2)
    assert found["pairs"] == {"all": 5, "ok": 4, "error": 1, "flagged": 0, "scored": 5, "unreadable": 1}
    assert found["complete"] is True
    assert found["edits"]["cat2dog"]["mse"]["count"] == 3
    made = found["made_by"]
    assert "exact counterfactual" in made["truth_mse"]
    assert set(made) == set(rows[0]) - {"id", "edit"}
    assert json.loads((run / "run/metrics.json").read_text()) == found


def test_evaluating_twice_or_after_a_kill_gives_the_same_files(run, local_ray, monkeypatch):
    evaluate(config(run))
    first = contents(run)
    written = []
    monkeypatch.setattr(job.ScoreFolder, "write", lambda *_: written.append(1))
    evaluate(config(run))
    monkeypatch.undo()
    assert written == []  # nothing is computed again
    assert contents(run) == first
    partition = sorted((run / "run/scores").iterdir())[0]
    partition.unlink()  # as if killed before it was put
    (run / "run/metrics.json").unlink()
    (run / "run/scores/stranger.parquet").write_bytes(b"of a plan that is no more")
    evaluate(config(run, batch_size=16))
    assert contents(run).keys() == first.keys()
    for row, again in zip(scores(run), [r for r in _rows(first, run)], strict=True):
        assert row == pytest.approx(again, abs=1e-6, nan_ok=True)


def _rows(files: dict[str, bytes], folder: Path) -> list[dict]:
    import io

    names = [f"{manifest.partition}.parquet" for manifest in Run(str(folder / "run")).manifests]
    return [row for name in names for row in pq.read_table(io.BytesIO(files[name])).to_pylist()]


@pytest.mark.faults
def test_a_replica_that_dies_is_replaced_and_its_partition_scored_again(run, local_ray, monkeypatch, tmp_path):
    died = tmp_path / "died"

    class Mortal(job.ScoringReplica):
        def score(self, manifest):
            import os

            if not died.exists():
                died.write_text("once")
                os._exit(1)
            return super().score(manifest)

    monkeypatch.setattr(job, "ScoringReplica", Mortal)
    evaluate(config(run))
    assert died.exists()
    assert len(scores(run)) == 5


def test_other_metrics_or_other_pairs_are_scored_anew_and_other_batches_are_not(run, local_ray):
    made = Run(str(run / "run"))
    for manifest in made.manifests:
        score_partition(scorer(config(run), made), made, manifest)
    folder = job.ScoreFolder(made.store)
    assert folder.missing(made.manifests, job.fingerprint(config(run, batch_size=1, report=False))) == []
    assert len(folder.missing(made.manifests, job.fingerprint(config(run, metrics={"pixels": True})))) == 2
    file = next((run / "run/manifest").iterdir())
    file.write_text(json.dumps({**json.loads(file.read_text()), "sha256": "another"}))
    changed = Run(str(run / "run"))
    assert len(folder.missing(changed.manifests, job.fingerprint(config(run)))) == 1
    assert len(list(folder.tables(changed.manifests))) == 1


def test_a_run_half_done_is_scored_as_far_as_it_is(tmp_path, local_ray):
    scenes = examples(2)
    write_run(
        tmp_path / "run", [[pair(s.id, s.picture(), s.picture("dog")) for s in scenes]], planned=3, complete=False
    )
    found = evaluate(EvaluateConfig.model_validate({"run": str(tmp_path / "run")}))
    assert found["complete"] is False
    assert found["partitions"] == {"planned": 3, "committed": 1, "scored": 1}
    assert found["all"]["mse"]["count"] == 2


def test_the_command_writes_scores_metrics_and_a_report_and_says_what_it_found(run, local_ray, capsys, tmp_path):
    path = tmp_path / "evaluate.yaml"
    path.write_text(f"run: {run / 'run'}\ncollection: {{uri: {run / 'world.parquet'}}}\nmetrics: {{truth: true}}\n")
    assert main(["evaluate", str(path), "batch_size=4"]) == 0
    said = capsys.readouterr().out
    assert "5 pairs, of which 1 failed and 1 can't be read" in said
    assert "truth_mse" in said
    assert (run / "run/report/index.html").exists()
    assert ray.is_initialized()


def test_a_wrong_configuration_is_one_sentence(run, capsys):
    assert main(["evaluate", f"run={run / 'nowhere'}"]) == 2
    assert "is not a run" in capsys.readouterr().err
    for settings, words in (
        (["masks.column=mask"], "collection.uri"),
        (["metrics.background=stlpips-alex"], "masks.model"),
        (["metrics.clip={model: mini, prompt: a photo}"], r"write \{\} once"),
        (["metrics.clips=mini"], "did you mean metrics.clip"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(None, [f"run={run / 'run'}", *settings], EvaluateConfig)


def test_scores_can_be_filtered_as_a_students_pairs_are(run, local_ray):
    evaluate(config(run))
    shutil.rmtree(run / "run/report", ignore_errors=True)
    table = pq.read_table(run / "run/scores")
    [(_, kept)] = Condition("mask_overlap >= 0.7").passed(table)
    assert kept.sum() >= 1
    assert not kept[table["mask_overlap"].is_null().to_numpy()].any()
