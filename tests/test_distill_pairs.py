"""Which pairs a student learns from, and in what order: chosen by a condition, once each, and found again at any
position."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_run import Example, examples, image, pair, write_run, write_truth

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config.distill import DistillConfig, PairsConfig
from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.distill.condition import Condition
from p2pz_ray.distill.pairs import PairSource
from p2pz_ray.distill.shards import Order, Shards, Turns, prepare_pairs
from p2pz_ray.editing import EditDirection
from p2pz_ray.engines.direction import load_direction, save_direction
from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import encode
from p2pz_ray.student.student import to_pixels, to_tensor

SCENES = examples(24)


def config(out: Path, **pairs: Any) -> DistillConfig:
    whole = {"pairs": {"test": 0.25, **pairs}, "output": str(out), "seed": 3}
    return DistillConfig.model_validate(whole)


def run(folder: Path, scenes: list[Example], scores: list[dict[str, Any]] | None = None, **options: Any) -> str:
    """A run of these scenes whose edited pictures are the exact truth, with scores beside it."""
    rows = [pair(scene.id, scene.picture(), scene.picture("dog")) for scene in scenes]
    write_run(folder, [rows[:7], rows[7:]], **options)
    if scores is not None:
        (folder / "scores").mkdir()
        pq.write_table(pa.Table.from_pylist(scores), folder / "scores" / "all.parquet")
    return str(folder)


def score(scene: Example, **values: Any) -> dict[str, Any]:
    return {"id": scene.id, "edit": "cat2dog", **values}


def prepared(wanted: DistillConfig) -> tuple[dict[str, Any], RunFolder]:
    folder = RunFolder(wanted.output)
    return prepare_pairs(wanted, folder), folder


def ids(folder: RunFolder, index: dict[str, Any], part: str) -> list[str]:
    files = [Path(folder.uri, shard["file"]) for shard in index[part]]
    return [id for file in files for id in pa.ipc.open_file(file).read_all()["id"].to_pylist()]


def test_a_run_without_scores_gives_all_its_good_pairs_each_once(tmp_path: Path) -> None:
    index, folder = prepared(config(tmp_path / "out", runs=run(tmp_path / "run", SCENES)))
    found = ids(folder, index, "train") + ids(folder, index, "test")
    assert sorted(found) == sorted(scene.id for scene in SCENES)
    assert (index["size"], list(index["edits"])) == (64, ["cat2dog"])
    train = Shards(folder, index, "train", held=2)
    x, y, direction = train.read([0, len(train) - 1])
    assert direction.shape == (2, 0)  # one edit at one strength needs none
    for row, id in ((0, ids(folder, index, "train")[0]), (1, ids(folder, index, "train")[-1])):
        scene = next(scene for scene in SCENES if scene.id == id)
        assert np.array_equal(to_pixels(x)[row], scene.picture())
        assert np.array_equal(to_pixels(y)[row], scene.picture("dog"))


def test_tables_with_two_pictures_a_row_are_pairs_too(tmp_path: Path) -> None:
    write_truth(tmp_path / "world" / "scenes.parquet", SCENES[:8])
    wanted = config(
        tmp_path / "out", tables=str(tmp_path / "world"), columns={"edited": "truth_cat2dog"}, filter="caption != 'x'"
    )
    index, folder = prepared(wanted)
    assert len(ids(folder, index, "train") + ids(folder, index, "test")) == 8
    with pytest.raises(ConfigError, match=r"scenes\.parquet: there is no image column 'truth_cat2fox'"):
        prepared(config(tmp_path / "b", tables=str(tmp_path / "world"), columns={"edited": "truth_cat2fox"}))


def test_the_filter_joins_scores_and_the_index_says_what_each_part_took(tmp_path: Path) -> None:
    scores = [score(scene, overlap=i / 24, gain=0.2 if i % 2 else 0.0) for i, scene in enumerate(SCENES[:20])]
    uri = run(tmp_path / "run", SCENES, scores)
    index, folder = prepared(config(tmp_path / "out", runs=uri, filter="overlap >= 0.5 and gain >= 0.1"))
    found = ids(folder, index, "train") + ids(folder, index, "test")
    assert sorted(found) == [scene.id for i, scene in enumerate(SCENES[:20]) if i >= 12 and i % 2]
    # A pair without scores keeps to no threshold.
    assert index["dropped"] == {"status is ok": 0, "overlap >= 0.5": 12 + 4, "gain >= 0.1": 4}


def test_where_no_pair_survives_the_sentence_says_which_threshold_took_how_many(tmp_path: Path) -> None:
    scores = [score(scene, overlap=0.8 if i < 9 else 0.1, gain=0.05) for i, scene in enumerate(SCENES)]
    rows = run(tmp_path / "run", SCENES, scores)
    with pytest.raises(ConfigError) as caught:
        prepared(config(tmp_path / "out", runs=rows, filter="overlap >= 0.7 and gain >= 0.1"))
    assert str(caught.value) == (
        "No pair is left to learn from, of 24: “overlap >= 0.7” took 15, “gain >= 0.1” took 9. "
        "Loosen pairs.filter, or make more pairs."
    )
    assert not (tmp_path / "out" / "pairs" / "index.json").exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a > 1", [0, 0, 1, 0, 0]),
        ("a >= 1 and not b", [0, 0, 1, 0, 0]),
        ("0 < a <= 1", [0, 1, 0, 0, 0]),
        ("a < 0 or b", [1, 1, 0, 1, 0]),
        ("t == 'x' and a - c / 2 != 0", [1, 0, 1, 0, 0]),
        ("-(a * 2) + 1 < 0", [0, 1, 1, 0, 0]),
    ],
)
def test_a_condition_means_what_it_says_and_holds_for_no_missing_value(text: str, kept: list[int]) -> None:
    table = pa.table(
        {
            "a": pa.array([-1.0, 1.0, 2.0, None, float("nan")]),
            "b": [False, True, False, True, False],
            "c": [0.0, 2.0, 2.0, 1.0, 1.0],
            "t": ["x", "x", "x", "y", "y"],
        }
    )
    assert np.logical_and.reduce([held for _, held in Condition(text).passed(table)]).tolist() == [
        bool(k) for k in kept
    ]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch x')",
        "a.b > 1",
        "a[0] > 1",
        "(lambda: 1)() > 0",
        "f'{a}' > 'x'",
        "a > [1]",
        "a ** 9 > 1",
    ],
)
def test_a_condition_that_would_run_something_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="which isn't understood"):
        Condition(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a >", "is not a condition"),
        ("a + 1", "compares nothing"),
        ("a > 'x'", "can't be evaluated"),
        ("d > 1", "the columns are a"),
    ],
)
def test_a_condition_that_fits_no_table_is_said_to(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Condition(text).passed(pa.table({"a": [1.0]}))


def test_all_pairs_of_one_source_are_on_one_side(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, SCENES) for name in ("a", "b")]
    index, folder = prepared(config(tmp_path / "out", runs=runs, duplicates=0.0))
    train, test = ids(folder, index, "train"), ids(folder, index, "test")
    assert len(train) + len(test) == 48
    assert not set(train) & set(test)
    assert 0 < len(test) < 24


def test_near_duplicates_are_left_out_and_others_are_not(tmp_path: Path) -> None:
    rows = [pair(scene.id, scene.picture(), scene.picture("dog")) for scene in SCENES[:6]]
    like = np.clip(SCENES[0].picture().astype(int) + 1, 0, 255).astype(np.uint8)
    rows.append(pair("again", like, SCENES[0].picture("dog")))
    write_run(tmp_path / "run", [rows])
    index, folder = prepared(config(tmp_path / "out", runs=str(tmp_path / "run"), duplicates=2.0))
    assert "again" not in ids(folder, index, "train") + ids(folder, index, "test")
    assert index["dropped"]["is no near duplicate of another"] == 1


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [pair(scene.id, scene.picture(), scene.picture("dog")) for scene in SCENES[:6]]
    rows += [pair("broken", SCENES[6].picture(), b"no picture"), pair("failed", SCENES[7].picture(), None)]
    write_run(tmp_path / "run", [rows])
    index, _ = prepared(config(tmp_path / "out", runs=str(tmp_path / "run")))
    assert sum(shard["rows"] for part in ("train", "test") for shard in index[part]) == 6
    assert sum(index["dropped"].values()) == 2
    assert index["dropped"]["can be decoded"] == 1


def test_pictures_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    rows = [pair(scene.id, scene.picture(), scene.picture("dog")) for scene in SCENES[:3]]
    rows[2]["edited_image"] = image(np.repeat(np.repeat(SCENES[2].picture("dog"), 2, 0), 2, 1))
    write_run(tmp_path / "run", [rows])
    with pytest.raises(
        ConfigError, match=r"pair scene-002 has pictures of \(64, 64\) and \(128, 128\).*set image.size"
    ):
        prepared(config(tmp_path / "a", runs=str(tmp_path / "run")))
    wanted = config(tmp_path / "b", runs=str(tmp_path / "run"))
    index, _ = prepared(wanted.model_copy(update={"image": wanted.image.model_copy(update={"size": (32, 32)})}))
    assert index["size"] == 32


def test_what_is_no_run_or_has_several_edits_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing is not a run: it has no plan\.json"):
        prepared(config(tmp_path / "out", runs=str(tmp_path / "nothing")))
    rows = [pair(s.id, s.picture(), s.picture("dog"), edit=e) for s in SCENES[:2] for e in ("cat2dog", "cat2horse")]
    write_run(tmp_path / "run", [rows], edits=("cat2dog", "cat2horse"))
    with pytest.raises(
        ConfigError, match=r"cat2dog, cat2horse in 2 ways .* generator\.style is 0.*set generator\.style"
    ):
        prepared(config(tmp_path / "out", runs=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match=r"pairs\.edit is cat2fox, but the pairs are of cat2dog, cat2horse"):
        prepared(config(tmp_path / "out", runs=str(tmp_path / "run"), edit="cat2fox"))
    index, _ = prepared(config(tmp_path / "out", runs=str(tmp_path / "run"), edit="cat2horse"))
    assert list(index["edits"]) == ["cat2horse"]


def swept_run(folder: Path, scenes: list[Example]) -> str:
    """A run of dogs at two strengths, of horses at one, and of both at once."""
    edits: dict[str, dict[str, Any]] = {
        "cat2dog-50": {"source": "cat", "target": "dog", "strength": 0.5},
        "cat2dog-100": {"source": "cat", "target": "dog", "strength": 1.0},
        "cat2horse": {"source": "cat", "target": "horse", "strength": 1.0},
        "both": {"compose": ["cat2dog-50", "cat2horse"], "strength": 0.8},
    }
    rows = [pair(s.id, s.picture(), s.picture("dog"), edit=name) for s in scenes for name in edits]
    write_run(folder, [rows], edits=("cat2dog",), config={"edits": edits})
    model = torch.Generator().manual_seed(0)
    dog, horse = (EditDirection(torch.randn(5, 4, generator=model)) for _ in range(2))
    made = {"cat2dog-50": dog, "cat2dog-100": dog, "cat2horse": horse, "both": dog * 0.5 + horse}
    for direction in made.values():
        save_direction(RunFolder(str(folder)), direction)
    ingredients = {"directions": {name: direction.digest for name, direction in made.items()}}
    (folder / "ingredients.json").write_text(json.dumps(ingredients))
    return str(folder)


def test_a_runs_edits_strengths_and_directions_reach_the_training(tmp_path: Path) -> None:
    uri = swept_run(tmp_path / "run", SCENES[:12])
    wanted = config(tmp_path / "out", runs=uri).model_copy(update={"generator": GeneratorConfig(style=8)})
    index, folder = prepared(wanted)
    shards = Shards(folder, index, "train", held=9)
    known = shards.repertoire
    assert {name: skill.strongest for name, skill in known.skills.items()} == {"cat2dog": 1.0, "cat2horse": 1.0}
    assert known.width == 4
    mean = load_direction(RunFolder(uri), "cat2horse").embedding.mean(0)  # type: ignore[union-attr]
    np.testing.assert_allclose(known.skills["cat2horse"].direction, mean / mean.norm(), rtol=1e-6)
    assert set(shards.edits) == {"cat2dog", "cat2horse", "cat2dog + cat2horse"}
    dog, horse = (torch.tensor(known.skills[name].direction) for name in ("cat2dog", "cat2horse"))
    for edit, sums in {
        "cat2dog": [0.5 * dog, dog],
        "cat2horse": [horse],
        "cat2dog + cat2horse": [0.4 * dog + 0.8 * horse],
    }.items():
        [shard] = [n for n, name in enumerate(shards.edits) if name == edit]
        first = sum(shards.rows[:shard])
        _, _, found = shards.read(range(first, first + shards.rows[shard]))
        assert all(any(torch.allclose(row, one) for one in sums) for row in found)
        assert all(any(torch.allclose(row, one) for row in found) for one in sums)
    train, test = ids(folder, index, "train"), ids(folder, index, "test")
    assert not set(train) & set(test)
    assert len(train) + len(test) == 12 * 4  # a source with several edits is no duplicate of itself
    alone = config(tmp_path / "one", runs=uri, edit="cat2dog")
    one, _ = prepared(alone.model_copy(update={"generator": wanted.generator}))
    assert list(one["edits"]) == ["cat2dog"]
    with pytest.raises(ConfigError, match=r"cat2dog in 2 ways"):
        prepared(config(tmp_path / "none", runs=uri, edit="cat2dog"))
    (tmp_path / "run" / "ingredients.json").unlink()  # as a student's own run has none
    axes, _ = prepared(wanted.model_copy(update={"output": str(tmp_path / "axes")}))
    assert [edit["direction"] for edit in axes["edits"].values()] == [[1.0, 0.0], [0.0, 1.0]]


def test_one_name_for_two_directions_is_refused(tmp_path: Path) -> None:
    uris = [swept_run(tmp_path / name, SCENES[:2]) for name in ("a", "b")]
    other = EditDirection(torch.ones(5, 4))
    save_direction(RunFolder(uris[1]), other)
    (tmp_path / "b" / "ingredients.json").write_text(json.dumps({"directions": {"cat2horse": other.digest}}))
    wanted = config(tmp_path / "out", runs=uris).model_copy(update={"generator": GeneratorConfig(style=8)})
    with pytest.raises(ConfigError, match=r"cat2horse is one direction in .*/a and another in .*/b"):
        prepared(wanted)


def test_each_edit_is_shown_as_often_whatever_its_pairs_are() -> None:
    rows, edits = [6, 2, 6, 4], ["dog", "glasses", "dog", "both"]
    turns = Turns(rows, edits, window=2, seed=1)
    whole = turns.at(0, 36)
    of = np.repeat(edits, rows)
    assert [of[number] for number in whole[:6]] == ["dog", "glasses", "both"] * 2
    assert sorted(whole[0::3]) == [*range(6), *range(8, 14)]  # every dog once before any comes again
    assert sorted(whole[1::3]) == sorted([6, 7] * 6)
    assert Turns(rows, edits, 2, 1).at(7, 11) == whole[7:18]
    assert Turns([5, 3], ["", ""], 1, seed=4).at(0, 20) == Order([5, 3], 1, seed=4).at(0, 20)


def test_at_most_so_many_pairs_are_of_sources_drawn_by_their_ids(tmp_path: Path) -> None:
    uri = run(tmp_path / "run", SCENES)
    found = []
    for most in (10, 6):
        index, folder = prepared(config(tmp_path / str(most), runs=uri, max_pairs=most))
        found.append(sorted(ids(folder, index, "train") + ids(folder, index, "test")))
    assert [len(each) for each in found] == [10, 6]
    assert set(found[1]) < set(found[0])
    assert found[0] != sorted(scene.id for scene in SCENES)[:10]
    index, _ = prepared(config(tmp_path / "split", runs=uri, max_pairs=16))
    assert index["train"]
    assert index["test"]  # who is drawn doesn't decide who is held out


@pytest.mark.parametrize("window", [1, 2, 100])
def test_the_order_shows_each_pair_once_an_epoch_and_is_found_again_at_any_position(window: int) -> None:
    rows = [5, 3, 4, 6, 2]
    order = Order(rows, window, seed=1)
    whole = order.at(0, 60)
    for epoch in range(3):
        assert sorted(whole[epoch * 20 : (epoch + 1) * 20]) == list(range(20))
    assert whole[:20] != whole[20:40] != sorted(whole[20:40])
    assert Order(rows, window, seed=1).at(13, 30) == whole[13:43]
    assert Order(rows, window, seed=2).at(0, 60) != whole


def test_a_reader_needs_no_more_than_a_window_of_shards_at_a_time() -> None:
    rows = [10] * 8
    shown = [number // 10 for number in Order(rows, 2, seed=0).at(0, 80)]
    assert all(len(set(shown[start : start + 20])) == 2 for start in range(0, 80, 20))


def test_pixels_come_back_as_they_were() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_pixels(to_tensor(pixels)), pixels)
    assert to_tensor(pixels).aminmax() == (-1.0, 1.0)


def test_pictures_in_a_folder_become_a_table_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "jobs"))
    main = importlib.import_module("pairs").main
    folder, out = tmp_path / "pictures", tmp_path / "pairs.parquet"
    folder.mkdir()
    assert main([str(folder), str(out)]) == 2
    assert "has no pictures named NAME_source and NAME_edited" in capsys.readouterr().err
    for scene in SCENES[:3]:
        (folder / f"{scene.id}_source.png").write_bytes(encode(scene.picture()))
        (folder / f"{scene.id}_edited.png").write_bytes(encode(scene.picture("dog")))
    assert main([str(folder), str(out)]) == 0
    source = PairSource(PairsConfig(tables=[str(out)]))
    found = {one.id: (before, after) for one, before, after in source.pictures(source.candidates())}
    assert found == {scene.id: (encode(scene.picture()), encode(scene.picture("dog"))) for scene in SCENES[:3]}
    assert main([str(folder), str(out), "--only", SCENES[2].id]) == 0
    assert [one.id for one in PairSource(PairsConfig(tables=[str(out)])).candidates()] == [SCENES[2].id]
    (folder / f"{SCENES[1].id}_edited.png").unlink()
    assert main([str(folder), str(out)]) == 2
    assert f"has only one picture of {SCENES[1].id}" in capsys.readouterr().err
