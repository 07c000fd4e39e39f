"""Muon's steps are orthogonal and of AdamW's size, and every weight is moved by exactly one of the two."""

import pytest
import torch
from torch import nn

from p2pz_ray.mini.training.muon import Muon, optimizers, orthogonal


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_a_steps_singular_values_are_all_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    skewed = torch.randn(3, *shape) * torch.logspace(0, 2, shape[1])  # directions a hundred times apart
    values = torch.linalg.svdvals(orthogonal(skewed))
    assert values.max() < 1.3
    assert values.median() > 0.6
    spread = torch.linalg.svdvals(skewed)
    assert values[:, 0].div(values[:, -1]).max() < 0.5 * spread[:, 0].div(spread[:, -1]).min()
    assert torch.equal(orthogonal(torch.zeros(1, *shape)), torch.zeros(1, *shape))


def test_a_convolutions_step_is_of_the_rates_size_and_goes_down() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3)
    muon = Muon([conv.weight])
    muon.param_groups[0]["lr"] = 1e-2
    before = conv.weight.detach().clone()
    conv.weight.grad = torch.randn_like(conv.weight)
    muon.step()
    move = conv.weight.detach() - before
    assert move.square().mean().sqrt() == pytest.approx(0.2 * 1e-2, rel=0.3)
    assert (move * conv.weight.grad).sum() < 0


def test_the_ends_and_all_vectors_are_adams_and_the_rest_muons() -> None:
    network = nn.Sequential()
    network.add_module("conv_in", nn.Conv2d(3, 4, 3))
    network.add_module("inner", nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 8)))
    network.add_module("conv_out", nn.Conv2d(8, 3, 3))
    moving = optimizers(network.named_parameters(), decay=0.1)
    moved = {name: {id(p) for group in one.param_groups for p in group["params"]} for name, one in moving.items()}
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[number] for number in moved["muon"]} == {"inner.0.weight", "inner.2.weight"}
    assert moved["muon"] | moved["optimizer"] == set(names)
    assert not moved["muon"] & moved["optimizer"]
