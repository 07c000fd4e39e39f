import json
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from small_run import examples, pair, write_run

from p2pz_ray.collection.store import Store
from p2pz_ray.evaluation.export import Kept, export, half
from p2pz_ray.evaluation.run import Run
from p2pz_ray.evaluation.scores import ScoreFolder

JOB = Path(__file__).parents[1] / "jobs/export.py"


@pytest.fixture
def run(tmp_path):
    """Twelve pairs, of which the first eight overlap well and one failed."""
    scenes = examples(12)
    rows = [pair(s.id, s.picture(), s.picture("dog")) for s in scenes[:11]]
    rows.append(pair(scenes[11].id, status="error", error="It is a text."))
    write_run(tmp_path / "run", [rows])
    [manifest] = Run(str(tmp_path / "run")).manifests
    overlaps = {"mask_overlap": [0.9] * 8 + [0.1] * 3 + [None]}
    keys = [(row["id"], row["edit"]) for row in rows]
    ScoreFolder(Store(str(tmp_path / "run"))).write(manifest, "f", keys, overlaps, {"mask_overlap": "a test"}, 0)
    return scenes, tmp_path


def job(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(JOB), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOB), run_name="__main__")
    return ended.value.code


def test_kept_pairs_are_a_dataset_with_the_columns_of_instruct_pix2pix(run, monkeypatch):
    scenes, folder = run
    out = str(folder / "out")
    kind = ["--format", "instructpix2pix", "--filter", "mask_overlap >= 0.7", "--test", "0.3"]
    assert job(monkeypatch, str(folder / "run"), out, *kind) == 0
    loaded = datasets.load_dataset(out, cache_dir=str(folder / "cache"))
    rows = {row["id"]: row for split in loaded.values() for row in split}
    assert sorted(rows) == [s.id for s in scenes[:8]]
    for name, split in loaded.items():
        assert {half(row["id"], 0.3) for row in split} == {name}
    first = rows[scenes[0].id]
    assert first["edit_prompt"] == "turn the cat into a dog"
    np.testing.assert_array_equal(np.asarray(first["input_image"]), scenes[0].picture())
    np.testing.assert_array_equal(np.asarray(first["edited_image"]), scenes[0].picture("dog"))
    assert "mask_overlap >= 0.7" in (folder / "out/README.md").read_text()


def test_kept_pairs_are_folders_as_img2img_turbo_reads_them(run, monkeypatch):
    scenes, folder = run
    out = folder / "out"
    assert job(monkeypatch, str(folder / "run"), str(out), "--format", "img2img-turbo", "--prompt", "a dog") == 0
    count = 0
    for side in ("train", "test"):
        prompts = json.loads((out / f"{side}_prompts.json").read_text()) if (out / f"{side}_A").exists() else {}
        assert set(prompts.values()) <= {"a dog"}
        for name in prompts:
            before, after = (np.asarray(Image.open(out / f"{side}_{half}" / name)) for half in "AB")
            [scene] = [s for s in scenes if name.startswith(s.id)]
            np.testing.assert_array_equal(before, scene.picture())
            np.testing.assert_array_equal(after, scene.picture("dog"))
            count += 1
    assert count == 11


def test_ids_that_are_no_file_names_become_some_and_stay_apart(tmp_path):
    ids = ["../../etc/passwd", "a/b", "a?b", "ü" * 300, ".hidden"]
    store = Store(str(tmp_path / "out"))
    export([Kept(id, "cat2dog", "p", b"\x89PNG", b"\x89PNG") for id in ids], store, "img2img-turbo", 0.0, "")
    files = list((tmp_path / "out/train_A").iterdir())
    assert len(files) == 5
    assert all(file.name[0].isalnum() or file.name[0] in "_-" for file in files)
    assert [file for file in tmp_path.rglob("*") if file.name == "passwd"] == []


def test_a_wrong_filter_or_no_run_is_one_sentence(run, monkeypatch, capsys):
    _, folder = run
    kind = ["--format", "instructpix2pix"]
    assert job(monkeypatch, str(folder / "nowhere"), str(folder / "out"), *kind) == 2
    assert "is not a run" in capsys.readouterr().err
    assert job(monkeypatch, str(folder / "run"), str(folder / "out"), *kind, "--filter", "beauty > 1") == 2
    assert "beauty" in capsys.readouterr().err
