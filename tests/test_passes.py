"""Rows go through the model in chunks: K edits take no more memory than one, and come out the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_families_memory import LiveBytes

from p2pz_ray import Editor, GuidanceSettings, InversionSettings
from p2pz_ray.editing.passes import Passes

WORDS = ("dog", "horse", "zebra", "fox")


@pytest.fixture
def editor(tiny_model: Path) -> Editor:
    return Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=3))


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def directions(editor: Editor) -> list[Any]:
    return [editor.direction(["a cat"], [f"a {word}"]) for word in WORDS]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("room", [1, 3, 5])
def test_chunks_of_any_size_come_out_as_all_rows_together(editor: Editor, form: Any, room: int) -> None:
    """Several images a chunk, one image, or a part of its edits."""
    editor.guidance = GuidanceSettings(form=form)
    inversion = editor.invert(pictures(3), ["a cat"] * 3, [1, 2, 3])
    right = torch.stack([editor.edit_latents(inversion, [each])[:, 0] for each in directions(editor)], 1)
    editor.model.room = room
    made = editor.edit_latents(inversion, directions(editor))
    torch.testing.assert_close(made, right, rtol=1e-3, atol=1e-4)


def test_the_chunks_are_whole_images_or_edits_of_one(editor: Editor) -> None:
    def chunks(B: int, K: int, most: int) -> list[tuple[int, int, int, int]]:
        passes = Passes(editor.model, B, K, most)
        return [(a.start, a.stop, b.start, b.stop) for a, b in passes._chunks()]

    assert chunks(3, 1, 3) == [(0, 3, 0, 3)]
    assert chunks(3, 2, 4) == [(0, 2, 0, 4), (2, 3, 4, 6)]
    assert chunks(2, 3, 2) == [(0, 1, 0, 2), (0, 1, 2, 3), (1, 2, 3, 5), (1, 2, 5, 6)]


def most_alive(editor: Editor, K: int) -> int:
    inversion = editor.invert(pictures(1), ["a cat"], [1])
    with LiveBytes() as live:
        editor.edit(inversion, directions(editor)[:K])
    return live.most


def test_a_checkpointed_pass_takes_less_memory_and_gives_the_same_bits(tiny_model: Path) -> None:
    made, alive = [], []
    for checkpointing in (False, True):
        editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=2), checkpointing=checkpointing)
        inversion = editor.invert(pictures(2), ["a cat"] * 2, [1, 2])
        with LiveBytes() as live:
            made.append(editor.edit_latents(inversion, directions(editor)[:2]))
        alive.append(live.most)
    assert torch.equal(*made)
    assert alive[1] < 0.8 * alive[0]


def test_four_edits_take_the_memory_of_one(editor: Editor) -> None:
    one, four = most_alive(editor, 1), most_alive(editor, 4)
    assert four < 1.1 * one


def failing(editor: Editor, most: int) -> Callable[..., torch.Tensor]:
    """The model's output, for which memory runs out above `most` rows with a gradient, and twice as many without."""
    output = editor.model.output

    def limited(x: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
        if len(x) > most * (1 if x.requires_grad else 2):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output(x, *args, **given)

    return limited


def test_where_memory_runs_out_rows_are_halved_and_stay_so(editor: Editor) -> None:
    inversion = editor.invert(pictures(4), ["a cat"] * 4, [1, 2, 3, 4])
    right = editor.edit_latents(inversion, directions(editor))
    editor.model.output = failing(editor, 2)  # type: ignore[method-assign]
    made = editor.edit_latents(inversion, directions(editor))
    torch.testing.assert_close(made, right, rtol=1e-3, atol=1e-4)
    assert editor.model.room == 2
    editor.model.output = failing(editor, 0)  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        editor.edit_latents(inversion, directions(editor))


def test_the_scaled_loss_keeps_a_small_gradient_in_float16(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near its reference a row's gradient is of numbers that float16 no longer has."""
    draw = torch.Generator().manual_seed(0)
    x_ref, noise = (torch.randn(2, 4, 16, 16, generator=draw) for _ in range(2))
    found = {}
    for dtype in (torch.float32, torch.float16):
        editor = Editor.from_pretrained(tiny_model, dtype=dtype)
        for scale in (1024.0, 1.0, 1e30):
            monkeypatch.setattr("p2pz_ray.editing.passes.SCALE", scale)
            passes = Passes(editor.model, 2)
            passes.record(x_ref, 401, editor.model.embed(["a cat"] * 2), 0.5, whole=False)
            c = editor.model.embed(["a dog"] * 2)
            found[dtype, scale], _ = passes.gradient(x_ref + 0.01 * noise, 401, c, 0.5)
    right = found[torch.float32, 1024.0]

    def off(scale: float) -> float:
        return ((found[torch.float16, scale] - right).norm() / right.norm()).item()

    assert torch.equal(right, found[torch.float32, 1.0])
    assert off(1024.0) < off(1.0)
    assert off(1e30) == off(1.0)  # what overflows is taken unscaled


def test_two_editors_share_a_model(editor: Editor) -> None:
    first = Editor(editor.model, inversion=InversionSettings(steps=3))
    second = Editor(editor.model, guidance=GuidanceSettings(layers=["mid_block"]))
    inversion = first.invert(pictures(1), ["a cat"], [1])
    [direction, *_] = directions(first)
    right = editor.edit_latents(inversion, [direction])
    second.edit_latents(inversion, [direction])
    assert torch.equal(first.edit_latents(inversion, [direction]), right)
