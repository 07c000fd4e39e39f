"""What is exported is read by those it is for: their own readers, and not ours."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets_hub import COMMIT, hub_server
from PIL import Image
from small_run import TARGETS, Example, examples, moved, pair, write_run

from p2pz_ray.arguments import FORMATS
from p2pz_ray.cli import main
from p2pz_ray.commit.run import Run
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.evaluation.scores import ScoreFolder
from p2pz_ray.export import forms, hub
from p2pz_ray.export.forms import Format, writer
from p2pz_ray.export.job import export
from p2pz_ray.export.pair import ExportPair, side_of
from p2pz_ray.picture.codec import encode
from p2pz_ray.picture.mark import SOURCE_TYPE, Provenance, xmp
from p2pz_ray.storage.store import Store

MARK = xmp(Provenance("mini", "0", "cat2dog"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Example], Path]:
    """Two edits of twelve scenes, of which the first eight overlap well and the last failed."""
    folder, scenes = tmp_path_factory.mktemp("run"), examples(12)
    rows = [
        pair(s.id, s.picture(), encode(s.picture(TARGETS[edit]), xmp=MARK), edit=edit)
        for s in scenes[:11]
        for edit in TARGETS
    ]
    rows += [pair(scenes[11].id, edit=edit, status="error", error="It is a text.") for edit in TARGETS]
    write_run(folder / "run", [rows], edits=list(TARGETS), config={"output_format": {"mark": "xmp"}})
    [manifest] = Run(str(folder / "run")).manifests
    overlaps = {"mask_overlap": [0.9] * 16 + [0.1] * 6 + [None] * 2}
    keys = [(row["id"], row["edit"]) for row in rows]
    ScoreFolder(Store(str(folder / "run"))).write(manifest, "f", keys, overlaps, {"mask_overlap": "a test"}, 0)
    return scenes, folder


def verb(folder: Path, out: Path | str, format: str, *more: str) -> int:
    return main(["export", str(folder / "run"), str(out), "--format", format, *more])


def array(picture: Any) -> np.ndarray:
    return np.asarray((Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture).convert("RGB"))


def test_instruct_pix2pixs_trainer_finds_its_columns(run: tuple[list[Example], Path], tmp_path: Path) -> None:
    scenes, folder = run
    chosen = ["--edit", "cat2dog", "--filter", "mask_overlap >= 0.7", "--test", "0.3"]
    assert verb(folder, tmp_path / "out", "instructpix2pix", *chosen) == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = {row["id"]: row for split in loaded.values() for row in split}
    assert sorted(rows) == [s.id for s in scenes[:8]]
    for name, split in loaded.items():
        assert {side_of(row["id"], 0.3) for row in split} == {name}
    first = rows[scenes[0].id]
    assert first["edit_prompt"] == "turn the cat into a dog"
    np.testing.assert_array_equal(array(first["input_image"]), scenes[0].picture())
    np.testing.assert_array_equal(array(first["edited_image"]), scenes[0].picture("dog"))
    assert "mask_overlap >= 0.7" in (tmp_path / "out/README.md").read_text()


def test_img2img_turbo_finds_its_folders(run: tuple[list[Example], Path], tmp_path: Path) -> None:
    scenes, folder = run
    assert verb(folder, tmp_path, "img2img-turbo", "--edit", "cat2dog", "--prompt", "a dog") == 0
    count = 0
    for side in ("train", "test"):
        prompts = (
            json.loads((tmp_path / f"{side}_prompts.json").read_text()) if (tmp_path / f"{side}_A").exists() else {}
        )
        assert set(prompts.values()) <= {"a dog"}
        for name in prompts:
            before, after = (array(Image.open(tmp_path / f"{side}_{which}" / name)) for which in "AB")
            [scene] = [s for s in scenes if name.startswith(s.id)]
            np.testing.assert_array_equal(before, scene.picture())
            np.testing.assert_array_equal(after, scene.picture("dog"))
            count += 1
    assert count == 11


def test_webdataset_reads_the_tars(
    run: tuple[list[Example], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, folder = run
    monkeypatch.setattr(forms, "SHARD_PAIRS", 4)
    assert verb(folder, tmp_path, "webdataset", "--test", "0") == 0
    tars = sorted(str(tar) for tar in tmp_path.glob("*.tar"))
    assert [Path(tar).name for tar in tars] == [f"train-{i:05}.tar" for i in range(6)]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert {(s["json"]["id"], s["json"]["edit"]) for s in samples} == {(s.id, e) for s in scenes[:11] for e in TARGETS}
    for sample in samples:
        [scene] = [scene for scene in scenes if scene.id == sample["json"]["id"]]
        target = TARGETS[sample["json"]["edit"]]
        assert sample["txt"] == f"turn the cat into a {target}"
        assert sample["json"]["mask_overlap"] in (0.9, 0.1)
        np.testing.assert_array_equal(np.asarray(sample["source.png"]), scene.picture())
        np.testing.assert_array_equal(np.asarray(sample["edited.png"]), scene.picture(target))
    hf = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert hf.num_rows == 22


def test_hugging_faces_image_folder_reads_the_folders(
    run: tuple[list[Example], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, folder = run
    monkeypatch.setattr(forms, "SHARD_PAIRS", 4)
    assert verb(folder, tmp_path / "out", "imagefolder", "--test", "0.3") == 0
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = [row for split in loaded.values() for row in split]
    assert {(row["id"], row["edit"]) for row in rows} == {(s.id, e) for s in scenes[:11] for e in TARGETS}
    for row in rows:
        [scene] = [scene for scene in scenes if scene.id == row["id"]]
        np.testing.assert_array_equal(array(row["source"]), scene.picture())
        np.testing.assert_array_equal(array(row["edited"]), scene.picture(TARGETS[row["edit"]]))
        assert (row["prompt"], row["caption"]) == (f"turn the cat into a {TARGETS[row['edit']]}", "a cat")


def test_parquet_keeps_a_runs_own_columns_and_its_scores(run: tuple[list[Example], Path], tmp_path: Path) -> None:
    scenes, folder = run
    assert verb(folder, tmp_path / "out", "parquet", "--test", "0", "--edit", "cat2horse") == 0
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["id"] for row in rows] == [s.id for s in scenes[:11]]
    assert set(rows.column_names) == {
        *("id", "edit", "strength", "source_image", "edited_image", "prompt", "caption", "mask_overlap")
    }
    np.testing.assert_array_equal(array(rows[0]["edited_image"]), scenes[0].picture("horse"))


@pytest.mark.parametrize("format", FORMATS)
def test_the_mark_of_an_edited_picture_is_kept(run: tuple[list[Example], Path], tmp_path: Path, format: str) -> None:
    _, folder = run
    assert verb(folder, tmp_path, format) == 0
    found = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.suffix in (".tar", ".png"))
    for file in tmp_path.rglob("*.parquet"):
        found += b"".join(picture["bytes"] for picture in pq.read_table(file)["edited_image"].to_pylist())
    assert found.count(SOURCE_TYPE.encode()) == 22
    assert "DigitalSourceType" in (tmp_path / "README.md").read_text()


def test_a_shard_is_written_when_it_is_large_enough_and_never_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "SHARD_BYTES", 100)
    writing = writer("webdataset", Store(str(tmp_path)))
    for i in range(5):
        writing.add("train", ExportPair(str(i), "e", "p", bytes(20), bytes(20)))
        assert len(list(tmp_path.glob("*.tar"))) == i // 2
    writing.close()
    counts = []
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as tar:
            counts.append(len(tar.getnames()))
    assert counts == [8, 8, 4]


@pytest.mark.parametrize("format", ["img2img-turbo", "webdataset", "imagefolder"])
def test_ids_that_are_no_file_names_become_some_and_stay_apart(tmp_path: Path, format: Format) -> None:
    ids = ["../../etc/passwd", "a/b", "a?b", "a.b", "ü" * 300, ".hidden", "caf\udce9"]
    writing = writer(format, Store(str(tmp_path / "out")))
    for id in ids:
        writing.add("train", ExportPair(id, "cat2dog", "p", b"\x89PNG", b"\x89PNG"))
    writing.close()
    if format == "webdataset":
        samples = list(webdataset.WebDataset(str(tmp_path / "out/train-00000.tar"), shardshuffle=False))
        assert [json.loads(sample["json"])["id"] for sample in samples] == ids
    else:
        assert len([file for file in (tmp_path / "out").rglob("*.png")]) == 14
    assert [file for file in tmp_path.rglob("*") if file.name == "passwd"] == []


def test_near_duplicates_are_dropped_with_all_their_edits(tmp_path: Path) -> None:
    a, b = examples(2)
    pictures = {"a": a.picture(), "again": a.picture(), "b": b.picture(), "nearly": moved(b.picture(), 1)}
    rows = [pair(id, pixels, pixels, edit=edit) for id, pixels in pictures.items() for edit in TARGETS]
    write_run(tmp_path / "run", [rows], edits=list(TARGETS))
    found = export(str(tmp_path / "run"), str(tmp_path / "out"), "parquet", duplicates=1.5, test=0)
    assert (found.train, found.left_out["no near duplicate of another"]) == (4, 4)
    assert export(str(tmp_path / "run"), str(tmp_path / "all"), "parquet", duplicates=0, test=0).train == 8


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (["{source} to {target}"], {"cat2dog": {"cat to dog"}, "cat2horse": {"cat to horse"}}),
        (["make it {a_target}", "from {a_source}"], {"cat2dog": {"make it a dog", "from a cat"}}),
        (["cat2dog=woof", "neigh"], {"cat2dog": {"woof"}, "cat2horse": {"neigh"}}),
        (["cat2dog=a=b", "cat2dog=c", "{target}"], {"cat2dog": {"a=b", "c"}, "cat2horse": {"horse"}}),
    ],
)
def test_prompts_are_filled_in_and_chosen_by_the_seed(
    run: tuple[list[Example], Path], tmp_path: Path, templates: list[str], said: dict[str, set[str]]
) -> None:
    _, folder = run

    def prompts(name: str, seed: int) -> list[tuple[str, str]]:
        export(str(folder / "run"), str(tmp_path / name), "parquet", instruction=templates, test=0, seed=seed)
        table = pq.read_table(tmp_path / name / "data/train-00000.parquet")
        return list(zip(table["edit"].to_pylist(), table["prompt"].to_pylist(), strict=True))

    found = prompts("a", 1)
    assert found == prompts("b", 1)
    for edit, expected in said.items():
        assert {prompt for name, prompt in found if name == edit} == expected
    if any(len(sentences) > 1 for sentences in said.values()):
        assert found != prompts("c", 2)


WRONG: dict[str, tuple[list[str], str]] = {
    "a wrong filter": (["--filter", "beauty > 1"], "beauty"),
    "no such edit": (["--edit", "cat2cow"], "has no edit cat2cow: it has cat2dog, cat2horse"),
    "an unknown word in a prompt": (["--prompt", "a {colour} dog"], "'a {colour} dog' can't be filled in"),
    "a brace too many": (["--prompt", "a {target"], "can't be filled in"),
    "a prompt for one edit alone": (["--prompt", "cat2dog=x"], "No --prompt is for the edit cat2horse"),
    "all for tests": (["--test", "1"], "--test is 1.0"),
    "a push elsewhere": (["--push", "s3://b/x"], "give hf://datasets/OWNER/NAME"),
}


@pytest.mark.parametrize("case", [*WRONG])
def test_what_can_not_be_exported_is_one_sentence(
    run: tuple[list[Example], Path], tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = WRONG[case]
    assert verb(run[1], tmp_path / "out", "parquet", *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_no_run_a_taken_folder_and_an_edit_without_words_are_one_sentence(
    run: tuple[list[Example], Path], tmp_path: Path
) -> None:
    _, folder = run
    with pytest.raises(ConfigError, match="is not a run"):
        export(str(folder / "nowhere"), str(tmp_path / "out"), "parquet")
    export(str(folder / "run"), str(tmp_path / "out"), "parquet")
    with pytest.raises(ConfigError, match="holds an export"):
        export(str(folder / "run"), str(tmp_path / "out"), "parquet")
    [scene] = examples(1)
    edits = {"edits": {"cat2dog": {"direction": "d.safetensors"}}}
    write_run(tmp_path / "run", [[pair(scene.id, scene.picture(), scene.picture("dog"))]], config=edits)
    with pytest.raises(ConfigError, match="has no words: give a prompt for it with --prompt 'cat2dog=…'"):
        export(str(tmp_path / "run"), str(tmp_path / "another"), "parquet")


def test_a_push_is_one_commit_that_can_be_read_back_and_its_refusal_a_sentence(
    run: tuple[list[Example], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = run
    files: dict[str, bytes] = {}
    commits: list[list[str]] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    export(str(folder / "run"), str(tmp_path / "out"), "parquet")
    with hub_server(files, commits=commits) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "writes")
        assert COMMIT in hub.push(str(tmp_path / "out"), "hf://datasets/me/cats")
        exported = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert [set(commit) - {".gitattributes"} for commit in commits] == [exported]
        assert all(files[name] == (tmp_path / "out" / name).read_bytes() for name in exported)
        monkeypatch.setenv("HF_TOKEN", "reads")
        with pytest.raises(P2PZError, match=r"can't be written \(.*401.*\): log in"):
            hub.push(str(tmp_path / "out"), "hf://datasets/me/cats")
