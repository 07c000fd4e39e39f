"""What lives at once: the maps of one step, at SD 1.4's own layout too, and memory by images, not edits or steps."""

import os
import resource
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, T2IAdapter, UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from p2pz_ray import GuidanceSettings, InversionSettings
from p2pz_ray.editing.control import Control, Controls, Hint
from p2pz_ray.editing.inversion import invert
from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.paper import edit
from p2pz_ray.editing.text import Condition

STEPS, HALVES, HALF_PRECISION = 50, 2, 2
TOKENS, WIDTH = 77, 768
ADAPTERS = ("full_adapter", "full_adapter_xl")


class LiveBytes(TorchDispatchMode):
    """Within: the bytes of every tensor that operations made and that is still alive, and the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def _gone(self, key: int, bytes: int) -> None:
        self._known.discard(key)
        self.now -= bytes


@dataclass(frozen=True)
class Words:
    """Conditions of the right shape without a text encoder; `pooled` is the width of that part, 0 for none."""

    width: int = WIDTH
    pooled: int = 0

    def embed(self, sentences: list[str]) -> Condition:
        device, n = torch.get_default_device(), len(sentences)
        tokens = torch.randn(n, TOKENS, self.width, device=device)
        return Condition(tokens, torch.randn(n, self.pooled, device=device) if self.pooled else None)


def sd14(device: str) -> DiffusionModel:
    """Stable Diffusion 1.4's UNet with random weights, or on the meta device with none at all."""
    return of_layout(device, {"sample_size": 64, "cross_attention_dim": WIDTH, "attention_head_dim": 8}, Words())


def of_layout(device: str, layout: dict[str, Any], words: Words, spacing: str = "leading") -> DiffusionModel:
    with torch.device(device):
        unet = UNet2DConditionModel(**layout)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing=spacing,
    )
    vae: Any = torch.nn.Module()
    vae.config = SimpleNamespace(block_out_channels=(128, 256, 512, 512), scaling_factor=0.18215)
    return DiffusionModel(vae, unet, words, scheduler)  # type: ignore[arg-type]


def run(model: DiffusionModel, steps: int, B: int = 1, K: int = 1, hints: tuple[Hint, ...] = ()) -> tuple[int, int]:
    """One whole edit of B latents under K directions: the most bytes of maps kept and of tensors alive. `hints` are
    conditions', in the edit's own passes."""
    maps, side = model.maps, int(model.unet.config.sample_size)
    kept = 0
    meet = maps.meet

    def watch(layer: str, found: torch.Tensor) -> None:
        nonlocal kept
        meet(layer, found)
        kept = max(kept, sum(recorded.nbytes for recorded in maps.recorded.values()))

    maps.meet = watch  # type: ignore[method-assign]
    with torch.device(model.device), LiveBytes() as live:
        x = torch.randn(B, 4, side, side)
        inversion = invert(model, x, ["a cat"] * B, [0] * B, InversionSettings(steps=steps, regularization="none"))
        inversion = replace(inversion, hints=hints)
        directions = model.embed(["a dog"] * K).each(lambda c: 0.1 * c)
        edited = edit(model, inversion, directions, GuidanceSettings())
    assert edited.shape == (B, K, 4, side, side)
    assert not maps.recorded
    return kept, live.most


def store_bytes(unet: UNet2DConditionModel) -> int:
    """What the reference code keeps of one image: every layer's maps of every step, both halves, in half precision."""
    cells = {"down_blocks.0": 64, "down_blocks.1": 32, "down_blocks.2": 16, "mid_block": 8}
    cells |= {"up_blocks.1": 16, "up_blocks.2": 32, "up_blocks.3": 64}
    layers = [name for name in unet.attn_processors if ".attn2." in name]
    rows = sum(cells[name.split(".attentions")[0]] ** 2 for name in layers)
    return STEPS * HALVES * HALF_PRECISION * 8 * rows * TOKENS


@pytest.fixture(scope="module")
def measured() -> Callable[..., tuple[int, int]]:
    """`run` at SD 1.4's layout without its weights, each case once. The meta device fuses no attention, so more tensors
    live than on a real one."""
    model = sd14("meta")
    return cache(lambda steps, B=1, K=1: run(model, steps, B, K))


@pytest.mark.slow
def test_the_maps_kept_at_sd14s_layout_are_one_steps_and_forty_times_less_than_the_references_store(
    measured: Callable[..., tuple[int, int]],
) -> None:
    store = store_bytes(sd14("meta").unet)
    assert 3.0 < store / 2**30 < 3.2
    kept, _ = measured(2)
    assert kept == measured(4)[0]
    assert store / kept >= 40


@pytest.mark.slow
def test_memory_grows_with_images_and_hardly_with_directions_and_with_steps_by_the_trajectory_alone(
    measured: Callable[..., tuple[int, int]],
) -> None:
    one, longer = measured(2)[1], measured(4)[1]
    # An image's latent is 64 KiB a step: once in the trajectory, once in the list that it is made of, while it is made.
    assert longer - one <= 2 * 2 * (4 * 64 * 64 * 4)
    two, four = measured(2, 2)[1], measured(2, 4)[1]
    assert (four - two) / 2 == pytest.approx(two - one, rel=0.05)
    # The edits of an image go through one after another: what is added is their latents and conditions.
    assert measured(2, 1, 4)[1] <= 1.1 * one
    assert measured(2, 2, 2)[1] <= 1.1 * two


@pytest.mark.slow
def test_four_edits_at_sdxls_layout_take_the_memory_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of an edit of 1,024 px, without its weights."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "jobs")
    from gpu.layouts import TRUE

    model = of_layout("meta", TRUE["SDXL"].unet, Words(2048, 1280), spacing="trailing")
    one, four = (run(model, 1, K=K)[1] for K in (1, 4))
    assert 20 * 2**30 < one <= four <= 1.1 * one


@pytest.mark.slow
@pytest.mark.parametrize("family", ["SD 1.5", "SDXL"])
def test_what_a_condition_adds_at_the_true_layouts(
    family: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step without weights: `pytest -m slow -k condition_adds -s` prints what each kind costs."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "jobs")
    from gpu.layouts import TRUE

    xl = family == "SDXL"
    model = of_layout("meta", TRUE[family].unet, Words(2048, 1280) if xl else Words(), spacing="trailing")
    side = 8 * int(model.unet.config.sample_size)
    channels = list(model.unet.config.block_out_channels)
    with torch.device("meta"):
        picture = torch.zeros(1, 3, side, side)
        net = ControlNetModel.from_unet(model.unet, load_weights_from_unet=False)
        adapter = T2IAdapter(3, channels if not xl else [*channels, channels[-1]], 2, 16 if xl else 8, ADAPTERS[xl])
        features = tuple(adapter(picture))
    most: dict[str, int] = {}
    passes: dict[str, list[int]] = {}
    kinds: dict[str, tuple[list[Any], Hint]] = {"none": ([], ()), "net": ([net], (picture,))}
    kinds["adapter"] = ([adapter], features)
    for kind, (modules, hint) in kinds.items():
        counts = [_passes(each) for each in (model.unet, *modules)]
        model.controls = Controls([Control(Path(kind))] * len(modules), modules)
        most[kind] = run(model, 1, hints=(hint,) if hint else ())[1]
        passes[kind] = [len(each) for each in counts]
    with capsys.disabled():
        print(f"\n{family}, tensors alive beside none: {most['none'] / 2**30:.2f} GiB")
        for kind in ("net", "adapter"):
            print(f"  {kind}: {most[kind] / most['none']:.3f} times, passes of the UNet and its own {passes[kind]}")
    assert passes["net"][0] == passes["adapter"][0] == passes["none"][0]
    assert passes["net"][1] == 2  # of a step: where the edit's maps are compared, and where its ε is predicted
    assert passes["adapter"][1] == 0  # its features were made once, before the steps
    assert most["none"] <= most["adapter"] < most["net"] < 1.5 * most["none"]


def _passes(module: torch.nn.Module) -> list[None]:
    """A list that grows by one with each pass of a module from here on."""
    seen: list[None] = []
    module.register_forward_hook(lambda *_: seen.append(None))
    return seen


@pytest.mark.slow
@pytest.mark.skipif(
    "P2PZ_FULL_SIZE" not in os.environ, reason="takes minutes and 8 GiB: set P2PZ_FULL_SIZE=1 to run it"
)
def test_sd14s_whole_layout_edits_in_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    model = sd14("cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    kept, alive = run(model, 2)
    spent = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with capsys.disabled():
        print(
            f"\nSD 1.4 at 512 px, two steps, float32, {spent:.0f} s: peak {peak / 2**20:.2f} GiB, "
            f"{(peak - before) / 2**20:.2f} above the loaded weights ({alive / 2**30:.2f} of live tensors), "
            f"maps {kept / 2**20:.1f} MiB, {store_bytes(model.unet) / kept:.0f}× less than all steps' in half precision"
        )
    assert store_bytes(model.unet) / kept >= 40
