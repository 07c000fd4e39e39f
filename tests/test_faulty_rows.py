"""A row whose numbers went wrong becomes an error row with a sentence; its neighbours stay as they were, to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from p2pz_ray import Editor, GuidanceSettings, InversionSettings
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing.inversion import Inversion
from p2pz_ray.errors import ImageError
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.translator import Translator

CAPTIONS = ["a cat", "a cat on the grass", "the cat sleeps"]


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def spoil(editor: Editor, row: int, after: int = 0, by: float = float("nan")) -> None:
    """From the model's pass number `after` on, whatever it says of one row of a batch is `by` times what it was."""
    output, passes = editor.model.output, 0

    def spoilt(*args: Any, **given: Any) -> torch.Tensor:
        nonlocal passes
        made = output(*args, **given)
        if passes >= after:
            weights = torch.ones(len(made), 1, 1, 1)
            weights[row::3] = by
            made = made * weights
        passes += 1
        return made

    editor.model.output = spoilt  # type: ignore[method-assign]


@pytest.fixture
def editor(tiny_model: Path) -> Editor:
    return Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=3))


def test_a_nan_in_the_inversion_is_its_images_alone(editor: Editor) -> None:
    directions = [editor.direction(["a cat"], [f"a {word}"]) for word in ("dog", "horse")]
    output = editor.model.output
    right = editor.invert(pictures(), CAPTIONS, [1, 2, 3])
    spoil(editor, 1)
    inversion = editor.invert(pictures(), CAPTIONS, [1, 2, 3])
    editor.model.output = output  # type: ignore[method-assign]
    assert torch.equal(inversion.trajectory[:, ::2], right.trajectory[:, ::2])
    assert [fault is None for fault in inversion.faults] == [True, False, True]
    assert "inversion's latents are not finite, in float32: lower inversion.lambda_ac 20" in str(inversion.faults[1])
    made = editor.edit_each(inversion, directions)
    assert made.faults[1] == (inversion.faults[1],) * 2
    assert made.faults[0] == made.faults[2] == (None, None)
    with pytest.raises(ImageError, match="Image 1 under direction 0: Its inversion's latents are not finite"):
        editor.edit(inversion, directions)
    assert np.array_equal(made.pixels[::2], editor.edit(right, directions)[::2])


def test_a_nan_row_of_an_edit_leaves_its_neighbours_bit_for_bit(editor: Editor) -> None:
    direction = editor.direction(["a cat"], ["a dog"])
    inversion = editor.invert(pictures(), CAPTIONS, [1, 2, 3])
    right = editor.edit(inversion, [direction])
    spoil(editor, 2)
    made = editor.edit_each(inversion, [direction])
    assert made.faults[:2] == ((None,), (None,))
    [said] = made.faults[2]
    assert said is not None
    assert said.startswith("Its edited latents are not finite, in float32: lower guidance.lambda_xa 0.1")
    assert np.array_equal(made.pixels[:2], right[:2])


def test_latents_that_explode_are_found_and_half_precision_is_doubted_first(tiny_model: Path) -> None:
    settings = InversionSettings(steps=2, regularization="none")
    editor = Editor.from_pretrained(tiny_model, dtype=torch.bfloat16, inversion=settings)
    inversion = editor.invert(pictures(1), CAPTIONS[:1], [1])
    assert inversion.faults == (None,)
    editor.guidance = GuidanceSettings(lambda_xa=1e6)
    made = editor.edit_each(inversion, [editor.direction(["a cat"], ["a dog"])])
    [[said]] = made.faults
    assert said is not None
    assert "so they exploded, in bfloat16: set dtype to float32, or lower guidance.lambda_xa 1e+06" in said
    spoil(editor, 0, by=1e4)
    assert "exploded" in str(editor.invert(pictures(1), CAPTIONS[:1], [1]).faults[0])


def test_an_autoencoder_that_overflows_is_named(editor: Editor) -> None:
    """As SDXL's own does in float16: a black picture, where nothing looks."""
    inversion = editor.invert(pictures(), CAPTIONS, [1, 2, 3])
    decode = editor.model.vae.decode

    def overflowing(latents: torch.Tensor) -> Any:
        made = decode(latents)
        made.sample[1] = float("inf")
        return made

    editor.model.vae.decode = overflowing
    made = editor.edit_each(inversion, [editor.direction(["a cat"], ["a dog"])])
    assert [fault is None for [fault] in made.faults] == [True, False, True]
    assert "decoded picture is not finite, in float32: give another model.vae" in str(made.faults[1][0])


def test_a_partition_with_a_nan_row_has_one_error_row_and_its_inversion_is_not_kept(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for i, pixels in enumerate(pictures()):
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png")

    def rows(name: str, spoilt: bool) -> tuple[list[dict[str, Any]], int]:
        edits = {word: {"source": "cat", "target": word, "count": 4} for word in ("dog",)}
        config = {"model": str(tiny_model), "input": {"uri": str(tmp_path / "in")}, "edits": edits, "device": "cpu"}
        config |= {"output": str(tmp_path / name), "inversion": {"steps": 2, "cache": str(tmp_path / f"{name}-cache")}}
        prepared = prepare(TranslateConfig.model_validate(config))
        assert prepared is not None
        job, plan = prepared
        translator = Translator(job)
        if spoilt:
            spoil(translator.engine.editor, 1)  # type: ignore[attr-defined]
        manifest = translator.translate(plan.partitions[0])
        [cache] = (tmp_path / f"{name}-cache").glob("*.parquet")
        table = pq.read_table(tmp_path / name / manifest.file)
        assert manifest.failed == sum(row["status"] == "error" for row in table.to_pylist())
        return table.to_pylist(), pq.read_metadata(cache).num_rows

    right, kept = rows("right", False)
    made, fewer = rows("spoilt", True)
    assert (kept, fewer) == (3, 2)
    assert [row["status"] for row in made] == ["ok", "error", "ok"]
    assert made[1]["edited_image"] is None
    assert made[1]["source_image"] is not None
    assert "not finite" in made[1]["error"]
    assert made[0] == right[0]
    assert made[2] == right[2]


def test_what_a_cache_gives_back_is_looked_at_too(editor: Editor) -> None:
    inversion = editor.invert(pictures(2), CAPTIONS[:2], [1, 2])
    trajectory = inversion.trajectory.numpy().copy()
    trajectory[1, 0] = np.nan
    again: Inversion = editor.inverted(trajectory, pictures(2), CAPTIONS[:2])
    assert [fault is None for fault in again.faults] == [False, True]
