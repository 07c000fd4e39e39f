"""From a configuration: masks that keep the background, composed directions, and edits of several strengths."""

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_job import pairs_of, tiny_settings, translated

from p2pz_ray.config import TranslateConfig, load
from p2pz_ray.engines.direction import load_direction
from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.translator import Translator

IMAGES = 3
POLICY = DecodePolicy((64, 64))


def settings(folder: Path, model: Path, **more: Any) -> dict[str, Any]:
    return {**tiny_settings(folder, model, images=IMAGES, per_partition=IMAGES), **more}


def masked(given: dict[str, Any], column: str = "mask") -> dict[str, Any]:
    return {**given, "input": {**given["input"], "columns": {"mask": column}}}


def test_a_column_of_masks_keeps_the_sources_background_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    given = masked(settings(tmp_path, tiny_model))
    pairs = translated(given)
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "world").to_pylist()}
    assert len(pairs) == IMAGES * 2
    for (id, _), pair in pairs.items():
        white = decode(rows[id]["mask"]["bytes"], POLICY).mean(axis=2) > 8
        source, edited = (decode(pair[name]["bytes"], POLICY) for name in ("source_image", "edited_image"))
        assert np.array_equal(edited[~white], source[~white])
        assert not np.array_equal(edited[white], source[white])


def test_an_image_without_a_usable_mask_is_an_error_row_and_its_neighbours_go_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    given = masked(settings(tmp_path, tiny_model))
    [file] = (tmp_path / "world").glob("*.parquet")
    table = pq.read_table(file)
    masks = [None, {"bytes": b"no picture", "path": None}, table["mask"][2].as_py()]
    place = table.schema.get_field_index("mask")
    pq.write_table(table.set_column(place, "mask", pa.array(masks, table.schema.field("mask").type)), file)
    pairs = translated(given)
    said = [pairs[id, "cat2dog"]["error"] for id in table["id"].to_pylist()]
    assert said[0] == "It has no mask."
    assert said[1].startswith("Its mask can't be used")
    assert said[2] is None


def test_a_mask_column_that_is_not_there_is_named_before_anything_starts(tiny_model: Path, tmp_path: Path) -> None:
    given = masked(settings(tmp_path, tiny_model), "outline")
    with pytest.raises(ConfigError, match="no mask column 'outline'"):
        prepare(TranslateConfig.model_validate(given))
    [file] = (tmp_path / "world").glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.append_column("number", pa.array(range(len(table)))), file)
    with pytest.raises(ConfigError, match="mask column 'number' has type int64"):
        prepare(TranslateConfig.model_validate(masked(given, "number")))


def test_several_strengths_are_an_edit_each_of_one_direction(tiny_model: Path, tmp_path: Path) -> None:
    words = {"source": "cat", "target": "dog", "count": 8}
    given = settings(tmp_path, tiny_model, edits={"cat2dog": {**words, "strength": [0, 0.5, 1]}, "plain": words})
    pairs = translated(given)
    ids = {id for id, _ in pairs}
    assert {edit for _, edit in pairs} == {"cat2dog-0", "cat2dog-50", "cat2dog-100", "plain"}
    for id in ids:
        made = {edit: pairs[id, edit]["edited_image"]["bytes"] for edit in ("cat2dog-0", "cat2dog-100", "plain")}
        assert made["cat2dog-0"] != made["cat2dog-100"]
        assert np.abs(_pixels(made["plain"]) - _pixels(made["cat2dog-100"])).max() <= 1


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, POLICY).astype(int)


def test_a_composed_edit_is_the_sum_of_others_at_their_strengths(tiny_model: Path, tmp_path: Path) -> None:
    edits = {
        "both": {"compose": ["cat2dog", "cat2horse"]},
        "cat2dog": {"source": "cat", "target": "dog", "count": 8},
        "cat2horse": {"source": "cat", "target": "horse", "count": 8, "strength": 0.5},
    }
    found = prepare(TranslateConfig.model_validate(settings(tmp_path, tiny_model, edits=edits)))
    assert found is not None
    kept = {name: load_direction(found[0].folder, name) for name in edits}
    both, dog, horse = (direction.embedding for direction in kept.values() if direction is not None)
    torch.testing.assert_close(both, dog + 0.5 * horse)
    again = prepare(TranslateConfig.model_validate(settings(tmp_path, tiny_model, edits=edits)))
    assert again is not None
    assert again[0].fingerprint == found[0].fingerprint


WORDS = "source: cat, target: dog"


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        (f"{{a: {{{WORDS}}}, b: {{compose: [a, c]}}}}", "composes b from 'c'"),
        (f"{{a: {{{WORDS}}}, b: {{compose: [a]}}}}", "compose"),
        (f"{{a: {{{WORDS}, compose: [a, a]}}}}", "only compose"),
        (f"{{a: {{{WORDS}, strength: [1, much]}}}}", "strength"),
        (f"{{a: {{{WORDS}, strength: []}}}}", "strength"),
        (f"{{a: {{{WORDS}, strength: [1, 1.001]}}}}", "same in percent"),
    ],
)
def test_edits_that_make_no_sense_are_refused_in_one_sentence(tmp_path: Path, edits: str, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"input: {{uri: photos}}\noutput: run\nedits: {edits}\n")
    with pytest.raises(ConfigError, match=says) as caught:
        load(str(file), [], TranslateConfig)
    assert str(caught.value).count("\n") <= 1


def test_without_a_batch_size_batches_double_while_there_is_room_and_memory_that_runs_out_ends_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pz_ray.translation.translator.SMALLEST", 1)
    monkeypatch.setattr("p2pz_ray.translation.translator.room_for_twice", lambda device: True)
    given = {**tiny_settings(tmp_path, tiny_model, images=12, per_partition=12), "batch_size": None}
    prepared = prepare(TranslateConfig.model_validate(given))
    assert prepared is not None
    job, plan = prepared
    translator = Translator(job)
    edit, asked = translator.engine.edit, []

    def counted(pictures: list) -> list:
        asked.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("too much")
        return edit(pictures)

    translator.engine.edit = counted  # type: ignore[method-assign]
    for partition in plan.partitions:
        translator.translate(partition)
    assert asked == [1, 2, 4, 2, 2, 2, 2, 1]
    assert {row["status"] for row in pairs_of(given["output"]).values()} == {"ok"}


def test_a_run_at_a_size_that_is_not_square_masks_and_all(tiny_model: Path, tmp_path: Path) -> None:
    pairs = translated(masked(settings(tmp_path, tiny_model, image={"size": [64, 96]})))
    assert {row["status"] for row in pairs.values()} == {"ok"}
    for row in pairs.values():
        for name in ("source_image", "edited_image"):
            assert Image.open(io.BytesIO(row[name]["bytes"])).size == (96, 64)


def test_masks_made_of_what_stands_out_confine_an_edit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "jobs")
    given, masks = settings(tmp_path, tiny_model), importlib.import_module("masks")
    try:
        made = masks.main([str(tmp_path / "world"), str(tmp_path / "masked"), "--size", "64", "--grow", "2"])
        masks.Saliency()
    except ConfigError as error:
        pytest.skip(str(error))
    assert made == 0
    pairs = translated({**given, "input": {"uri": str(tmp_path / "masked"), "columns": {"mask": "mask"}}})
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "masked").to_pylist()}
    assert {id for id, _ in pairs} == set(rows)
    for (id, _), pair in pairs.items():
        white = decode(rows[id]["mask"]["bytes"], POLICY).mean(axis=2) > 8
        assert 0 < white.mean() < 1
        source, edited = (decode(pair[name]["bytes"], POLICY) for name in ("source_image", "edited_image"))
        assert np.array_equal(edited[~white], source[~white])
        assert np.array_equal(source, decode(rows[id]["image"]["bytes"], POLICY))
    assert masks.main([str(tmp_path / "world"), str(tmp_path / "masked")]) == 2
