"""λ is one number for every family and size of picture, as far as the loss's own terms decide it."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from p2pz_ray.editing.attention import CrossAttentionMaps


@pytest.mark.parametrize(
    ("name", "side", "compared"), [("SD 1.5", 64, 6.58), ("SD 2.1", 96, 6.58), ("SDXL", 128, 6.25)]
)
def test_a_latent_is_compared_at_as_many_places_in_every_family(
    name: str, side: int, compared: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places are cells of compared maps, in all layers together; at the true layouts."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "jobs")
    from gpu.layouts import TRUE

    layout = TRUE[name].unet
    with torch.device("meta"):
        unet = UNet2DConditionModel(**layout)
        maps = CrossAttentionMaps(unet)
        x, c = torch.zeros(1, 4, side, side), torch.zeros(1, 77, layout["cross_attention_dim"])
        added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)} if name == "SDXL" else None
        with torch.no_grad(), maps.record(whole=False):
            unet(x, torch.tensor(401), c, added_cond_kwargs=added)
    cells = sum(recorded.shape[2] for recorded in maps.recorded.values())
    assert cells / side**2 == pytest.approx(compared, abs=0.005)


def test_the_gradient_of_a_latent_is_as_large_in_a_large_picture_as_in_a_small_one() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 64), cross_attention_dim=32, attention_head_dim=8, norm_num_groups=8
    ).eval()
    maps = CrossAttentionMaps(unet)
    c, edited = torch.randn(2, 1, 77, 32)
    sizes, losses = [], []
    for side in (16, 32):
        x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.no_grad(), maps.record(whole=False):
            unet(x, 401, c)
        with maps.compare():
            unet(x, 401, edited)
        assert maps.loss is not None
        (gradient,) = torch.autograd.grad(maps.loss.sum(), x)
        sizes.append(float(gradient.square().mean().sqrt()))
        losses.append(float(maps.loss.detach()))
    assert losses[1] / losses[0] == pytest.approx(4, rel=0.1)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)
