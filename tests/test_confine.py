"""Edits confined to where the model itself finds the object."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_job import tiny_settings, translated

from p2pz_ray import Editor, GuidanceSettings, InversionSettings
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.editing.confine import Wanted
from p2pz_ray.editing.direction import EditDirection
from p2pz_ray.evaluation.metrics.saliency import overlap
from p2pz_ray.evaluation.scorer import COLUMNS, Scorer
from p2pz_ray.mini.world import Scene, render
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.report.report import write_report

CONFINE = GuidanceSettings(confine="attention")


@pytest.fixture(scope="module")
def editor(tiny_model: Path) -> Editor:
    return Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=4), guidance=CONFINE)


def pictures() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def test_a_cat_is_found_where_it_is_and_all_else_stays_the_sources_own() -> None:
    editor = Editor.from_pretrained("mini", guidance=GuidanceSettings(confine="attention", confine_widen=0))
    scenes = [Scene(kind="cat"), Scene(kind="cat", coat="white", ground="wood", sky="night", x=0.47, flip=True)]
    images, animals = (np.stack(each) for each in zip(*map(render, scenes), strict=True))
    captions = ["a ginger cat on the grass", "a white cat on the wooden floor at night"]
    direction = editor.direction(["a photo of a cat"], ["a photo of a dog"], source="cat")
    made = editor.edit_each(editor.invert(images, captions, [1, 2]), [direction])
    assert made.masks is not None
    masks = made.masks[:, 0] > 0
    assert all(overlap(mask, animal) > 0.6 for mask, animal in zip(masks, animals, strict=True))
    assert np.array_equal(made.pixels[:, 0][~masks], images[~masks])
    assert not np.array_equal(made.pixels[:, 0][masks], images[masks])


def test_masks_are_an_images_and_an_edits_own(editor: Editor) -> None:
    """The second caption lacks both words: its masks are of what each direction changes."""
    captions = ["a cat and a dog", "an empty field"]
    directions = [
        editor.direction([f"a {source}"], [f"a {target}"], source=source)
        for source, target in (("cat", "dog"), ("dog", "horse"))
    ]
    together = editor.edit_each(editor.invert(pictures(), captions, [1, 2]), directions).masks
    assert together is not None
    for i in range(2):
        inversion = editor.invert(pictures()[i : i + 1], captions[i : i + 1], [1 + i])
        for k in range(2):
            alone = editor.edit_each(inversion, [directions[k]]).masks
            assert alone is not None
            assert np.array_equal(alone[0, 0], together[i, k])
            assert 0 < alone.mean() < 1
        assert not np.array_equal(together[i, 0], together[i, 1])


def test_a_given_mask_and_a_found_one_confine_together(editor: Editor) -> None:
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    given = np.zeros((2, 64, 64), np.float32)
    given[:, :32] = 0.5
    direction = editor.direction(["a cat"], ["a dog"], source="cat")
    found, both = (editor.edit_each(inversion, [direction], masks=masks).masks for masks in (None, given))
    assert found is not None
    assert both is not None
    assert np.array_equal(both[:, 0], np.minimum(found[:, 0], given))


def test_words_of_several_tokens_and_of_composed_directions_are_found(editor: Editor) -> None:
    def of(*sources: str) -> EditDirection:
        first, *others = (EditDirection(torch.zeros(1, 1), {"source": source}) for source in sources)
        return sum(others, first)

    tokenizer = editor.model.text.tokenizers[0]
    tokens = tokenizer("a tabby tomcat and a zebra").input_ids
    long = Wanted.of(editor.model, of("tabby tomcat"))
    assert len(long.words[0]) > 1
    at = long.places(tokens)
    assert [tokens[i] for i in at] == list(long.words[0])
    assert at == list(range(at[0], at[0] + len(at)))
    assert set(Wanted.of(editor.model, of("zebra", "tabby tomcat")).places(tokens)) > set(at)
    assert Wanted.of(editor.model, of("rabbit")).places(tokens) == []


def test_a_run_keeps_its_masks_on_request_for_the_report_and_the_scores(tiny_model: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = tiny_settings(tmp_path, tiny_model, images=2, per_partition=2)
    given |= {"guidance": {"confine": "attention"}, "output_format": {"masks": True}}
    pairs = translated(given)
    policy = DecodePolicy((64, 64))
    for pair in pairs.values():
        source, edited, mask = (decode(pair[k]["bytes"], policy) for k in ("source_image", "edited_image", "mask"))
        assert np.array_equal(edited[mask == 0], source[mask == 0])
        assert 0 < (mask > 0).mean() < 1
    config = EvaluateConfig.model_validate({"run": given["output"], "masks": {"model": "run"}})
    row = {name: pair[name] for name in COLUMNS}
    assert np.array_equal(Scorer(config, {})._pair(row).mask, mask.max(axis=2) > 0)
    write_report(given["output"])
    assert 'alt="mask"' in Path(given["output"], "report", "index.html").read_text()
