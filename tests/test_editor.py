"""Every image comes out as if it had been edited alone, under each direction as if it had been the only one."""

import shutil
import warnings
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray import EditDirection, Editor, GuidanceSettings, InversionSettings
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.editing.passes import attention_gradient
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini import MODEL
from p2pz_ray.mini.world import caption, render, sample_scene

COUNT = 6


@pytest.fixture(scope="module")
def cats() -> tuple[NDArray[np.uint8], list[str]]:
    rng = np.random.default_rng(5)
    scenes = [sample_scene(rng, kind="cat", held_out=True) for _ in range(COUNT)]
    return np.stack([render(s)[0] for s in scenes]), [caption(s, rng) for s in scenes]


@pytest.fixture(scope="module", params=["tiny", "mini"])
def editor(request: pytest.FixtureRequest) -> Editor:
    folder = MODEL if request.param == "mini" else request.getfixturevalue("tiny_model")
    return Editor.from_pretrained(folder, inversion=InversionSettings(steps=5))


@pytest.fixture(scope="module")
def directions(editor: Editor) -> list[EditDirection]:
    cat = template_bank("cat", 40)
    return [editor.direction(cat, template_bank(word, 40)) for word in ("dog", "horse", "zebra")]


def edit(editor: Editor, cats: tuple, order: list[int], directions: list[EditDirection]) -> NDArray[np.uint8]:
    images, captions = cats
    inversion = editor.invert(images[order], [captions[i] for i in order], [100 + i for i in order])
    return editor.edit(inversion, directions)


def grey_levels(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.slow
def test_together_in_any_order_or_alone_is_the_same(editor: Editor, cats: tuple, directions: list) -> None:
    together = edit(editor, cats, list(range(COUNT)), directions[:1])
    shuffled = [3, 1, 5, 0, 2, 4]
    assert grey_levels(edit(editor, cats, shuffled, directions[:1]), together[shuffled]) <= 1
    for i in range(COUNT):
        assert grey_levels(edit(editor, cats, [i], directions[:1]), together[i : i + 1]) <= 1


@pytest.mark.slow
def test_directions_together_equal_each_alone(editor: Editor, cats: tuple, directions: list) -> None:
    together = edit(editor, cats, [0, 1], directions)
    assert together.shape == (2, 3, 64, 64, 3)
    for k, direction in enumerate(directions):
        assert grey_levels(edit(editor, cats, [0, 1], [direction]), together[:, k : k + 1]) <= 1


def test_both_references_edit_and_a_strength_of_zero_differs_from_one(tiny_model: Path, cats: tuple) -> None:
    made = {}
    for reference in ("trajectory", "reconstruction"):
        editor = Editor.from_pretrained(
            tiny_model, inversion=InversionSettings(steps=4), guidance=GuidanceSettings(reference=reference)
        )
        direction = editor.direction(["a cat"], ["a dog"])
        inversion = editor.invert(cats[0][:2], cats[1][:2], [1, 2])
        made[reference] = editor.edit_latents(inversion, [direction, direction], [1.0, 0.0])
        assert torch.isfinite(made[reference]).all()
        assert not torch.allclose(made[reference][:, 0], made[reference][:, 1])
    assert not torch.allclose(made["trajectory"], made["reconstruction"])


def test_a_checkpoints_strength_multiplies_an_edits_own_and_gives_way_to_a_set_one(
    tiny_model: Path, cats: tuple
) -> None:
    editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=2))
    direction = editor.direction(["a cat"], ["a dog"])
    inversion = editor.invert(cats[0][:1], cats[1][:1], [1])
    plain, threefold = (editor.edit_latents(inversion, [direction], [by]) for by in (1.0, 3.0))
    editor.model.defaults = {**editor.model.defaults, "strength": 1.5}
    assert torch.allclose(editor.edit_latents(inversion, [direction], [2.0]), threefold, atol=1e-5)
    editor.guidance = GuidanceSettings(strength=1.0)
    assert torch.equal(editor.edit_latents(inversion, [direction]), plain)
    assert not torch.allclose(plain, threefold, atol=1e-3)


def test_the_attention_gradient_agrees_with_finite_differences(tiny_model: Path) -> None:
    editor = Editor.from_pretrained(tiny_model)
    editor.model.unet.double()
    draw = torch.Generator().manual_seed(0)
    x_ref, x = (torch.randn(1, 4, 16, 16, dtype=torch.float64, generator=draw) for _ in range(2))
    c = editor.model.embed(["a cat"])
    c_edit = editor.model.embed(["a dog on the grass"])

    def distance(latent: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            with editor.maps.record():
                editor.model.predict(x_ref, 401, c, 0.5)
            with editor.maps.compare():
                editor.model.predict(latent, 401, c_edit, 0.5)
        assert editor.maps.loss is not None
        return editor.maps.loss.sum()

    distance(x)
    with torch.no_grad(), editor.maps.record():
        editor.model.predict(x_ref, 401, c, 0.5)
    found, _ = attention_gradient(editor.model, x, 401, c_edit, 0.5)
    way = torch.randn(x.shape, dtype=torch.float64, generator=draw)
    h = 1e-5
    numeric = (distance(x + h * way) - distance(x - h * way)) / (2 * h)
    torch.testing.assert_close((found * way).sum(), numeric, rtol=1e-6, atol=1e-10)


def test_no_maps_stay_alive_and_weights_get_no_gradient(tiny_model: Path, cats: tuple) -> None:
    editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=3))
    seen: list[int] = []
    meet = editor.maps.meet

    def watch(layer: str, maps: torch.Tensor) -> None:
        meet(layer, maps)
        seen.append(len(editor.maps.recorded))

    editor.maps.meet = watch  # type: ignore[method-assign]
    edit(editor, cats, [0], [editor.direction(["a cat"], ["a dog"])])
    layers = sum(".attn2." in name for name in editor.model.unet.attn_processors)
    assert max(seen) == layers
    assert editor.maps.recorded == {}
    assert editor.maps.loss is None
    assert all(p.grad is None for p in editor.model.unet.parameters())


def test_pil_images_are_taken_and_misfits_named(tiny_model: Path, cats: tuple) -> None:
    editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=2))
    pictures = [Image.fromarray(p) for p in cats[0][:2]]
    from_arrays = editor.invert(cats[0][:2], ["a cat"] * 2, [1, 2])
    assert torch.equal(editor.invert(pictures, ["a cat"] * 2, [1, 2]).trajectory, from_arrays.trajectory)
    with pytest.raises(ValueError, match="2 images, 1 captions"):
        editor.invert(pictures, ["a cat"], [1, 2])
    with pytest.raises(ValueError, match="sizes"):
        editor.invert([pictures[0], pictures[1].resize((32, 32))], ["a cat"] * 2, [1, 2])
    from_list = editor.invert(list(cats[0][:2]), ["a cat"] * 2, [1, 2])
    assert torch.equal(from_list.trajectory, from_arrays.trajectory)
    with pytest.raises(ValueError, match="captions is one text, 'a cat'"):
        editor.invert(pictures, "a cat", [1, 2])


def test_images_far_larger_than_the_model_knows_are_warned_of(tiny_model: Path, cats: tuple) -> None:
    editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=2, regularization="none"))
    side = editor.size[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        editor.invert([Image.new("RGB", (2 * side, 2 * side))], ["a cat"], [1])
    with pytest.warns(UserWarning, match=f"9 times the pixels .* Resize them to {side} × {side}"):
        editor.invert([Image.new("RGB", (3 * side, 3 * side))], ["a cat"], [1])


@pytest.mark.parametrize(
    ("name", "says"), [("nobody/nothing", "hub"), ("/nowhere/at/all", "model_index"), ("./absent", "model_index")]
)
def test_a_checkpoint_that_is_not_there_is_named(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Editor.from_pretrained(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_at_a_uri_is_the_same_checkpoint(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PZ_CACHE", str(tmp_path))
    memory = fsspec.filesystem("memory")
    memory.put(str(tiny_model), "/models/tiny", recursive=True)
    local = Editor.from_pretrained(tiny_model)
    for _ in range(2):
        assert Editor.from_pretrained("memory://models/tiny").fingerprint == local.fingerprint
    assert len([kept for kept in tmp_path.iterdir() if kept.is_dir()]) == 1
    with pytest.raises(ConfigError, match=r"memory://models/other.*model_index"):
        Editor.from_pretrained("memory://models/other")


def test_a_damaged_checkpoint_is_named(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    weights = tmp_path / "model" / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ConfigError, match="can't be loaded"):
        Editor.from_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="text encoder"):
        TextEncoder.load(tmp_path / "model")


@pytest.mark.slow
def test_a_compiled_editor_edits_as_any_other_and_its_compared_passes_are_not_compiled(
    tiny_model: Path, cats: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as for real, then run without the minutes that kernels take."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    made, compiled = [], []
    for compile in (False, True):
        editor = Editor.from_pretrained(tiny_model, compile=compile, inversion=InversionSettings(steps=3))
        fast = editor.model.fast
        editor.model.fast = lambda *args, fast=fast, **given: compiled.append(len(args[0])) or fast(*args, **given)
        made.append(edit(editor, cats, [0, 1], [editor.direction(["a cat"], ["a dog"])]))
    assert compiled == 2 * [2, 2, 2, 4, 4, 4]
    assert grey_levels(*made) <= 1


def test_where_there_is_no_compiler_compile_is_refused_at_load(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(module: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch, "compile", none)
    with pytest.raises(ConfigError, match=r"no kernel here \(Failed to find C compiler\): install gcc"):
        Editor.from_pretrained(tiny_model, compile=True)


def test_in_half_precision_latents_losses_and_the_compared_maps_stay_float32(tiny_model: Path, cats: tuple) -> None:
    made = {}
    for dtype in (torch.float32, torch.bfloat16):
        editor = Editor.from_pretrained(tiny_model, dtype=dtype, inversion=InversionSettings(steps=4))
        seen: list[torch.dtype] = []
        meet = editor.maps.meet

        def watch(layer: str, maps: torch.Tensor, editor=editor, meet=meet, seen=seen) -> None:  # type: ignore[no-untyped-def]
            meet(layer, maps)
            seen.append(maps.dtype)
            seen.extend([editor.maps.loss.dtype] if editor.maps.loss is not None else [])

        editor.maps.meet = watch  # type: ignore[method-assign]
        inversion = editor.invert(cats[0][:2], cats[1][:2], [1, 2])
        assert inversion.trajectory.dtype == torch.float32
        made[dtype] = editor.edit_latents(inversion, [editor.direction(["a cat"], ["a dog"])])
        assert next(editor.model.unet.parameters()).dtype == dtype
        assert made[dtype].dtype == torch.float32
        assert set(seen) == {torch.float32}
    whole, half = made.values()
    assert 0 < (half - whole).norm() < 0.2 * whole.norm()  # bfloat16 has three digits, and random weights forgive none


@pytest.mark.parametrize("form", ["paper", "official"])
def test_whoever_watches_is_called_after_each_step_and_sees_the_picture_come(
    tiny_model: Path, cats: tuple, form: str
) -> None:
    guidance = GuidanceSettings(form=form, cfg=2.0)  # type: ignore[arg-type]
    editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=4), guidance=guidance)
    directions = [editor.direction(["a cat"], [f"a {word}"]) for word in ("dog", "fox")]
    seen: list[torch.Tensor | None] = []
    editor.watch = seen.append
    made = editor.edit_latents(editor.invert(cats[0][:3], cats[1][:3], [1, 2, 3]), directions)
    assert seen[:4] == [None] * 4
    distances = [float((predicted - made).norm()) for predicted in seen[4:] if predicted is not None]
    assert len(distances) == 4
    assert {tuple(predicted.shape) for predicted in seen[4:] if predicted is not None} == {tuple(made.shape)}
    assert distances[-1] < distances[0] / 10
