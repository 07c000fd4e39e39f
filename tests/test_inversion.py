"""The regularization of the noise is the paper's, image by image; the way up and the way down are one way."""

import pytest
import torch
from torch import Tensor

from p2pz_ray import Editor, InversionSettings
from p2pz_ray.editing.inversion import draw_shifts, invert, kl_loss, pair_loss, pair_loss_full, pyramid, regularize
from p2pz_ray.editing.schedule import Schedule, ddim_step


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def direct_full_sum(eps: Tensor) -> Tensor:
    """Σ over levels and channels of the shifts' average of mean(n·roll_y)² and mean(n·roll_x)², cell by cell."""
    totals = []
    for image in eps:
        total = 0.0
        for level in pyramid(image[None]):
            for n in level[0].tolist():
                height, width = len(n), len(n[0])
                for shift in range(1, height):
                    products = [n[y][x] * n[(y - shift) % height][x] for y in range(height) for x in range(width)]
                    total += (sum(products) / len(products)) ** 2 / (height - 1)
                for shift in range(1, width):
                    products = [n[y][x] * n[y][(x - shift) % width] for y in range(height) for x in range(width)]
                    total += (sum(products) / len(products)) ** 2 / (width - 1)
        totals.append(total)
    return torch.tensor(totals, dtype=eps.dtype)


@pytest.mark.parametrize("shape", [(2, 2, 16, 16), (1, 3, 12, 16), (1, 1, 7, 7)])
def test_the_full_sum_by_fourier_transform_is_the_direct_sum(shape: tuple[int, ...]) -> None:
    eps = noise(*shape)
    torch.testing.assert_close(pair_loss_full(eps), direct_full_sum(eps), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(pair_loss_full(eps.float()).double(), direct_full_sum(eps), rtol=1e-5, atol=1e-5)


def test_a_sampled_shift_is_what_torch_roll_gives() -> None:
    eps = noise(2, 3, 16, 16)
    shifts = draw_shifts(eps.shape, generators(1, 2))
    expected = torch.zeros(2, dtype=eps.dtype)
    for n, level in zip(pyramid(eps), shifts, strict=True):
        for b in range(2):
            for c in range(3):
                r = int(level[b, c])
                assert 1 <= r < n.shape[-1] // 2
                one = n[b, c]
                expected[b] += (one * one.roll(r, 0)).mean() ** 2 + (one * one.roll(r, 1)).mean() ** 2
    torch.testing.assert_close(pair_loss(eps, shifts), expected)


@pytest.mark.parametrize("which", ["sampled", "full", "kl"])
def test_gradients_agree_with_finite_differences(which: str) -> None:
    eps = noise(2, 2, 10, 10).requires_grad_()
    shifts = draw_shifts(eps.shape, generators(5, 6))
    loss = {"sampled": lambda e: pair_loss(e, shifts), "full": pair_loss_full, "kl": kl_loss}[which]
    assert torch.autograd.gradcheck(loss, (eps,))


@pytest.mark.parametrize("kind", ["sampled", "full"])
def test_regularization_makes_correlated_noise_whiter(kind: str) -> None:
    smooth = torch.nn.functional.avg_pool2d(noise(1, 4, 18, 18, dtype=torch.float32), 3, 1)
    smooth = (smooth - smooth.mean()) / smooth.std()
    better = regularize(smooth, generators(0), InversionSettings(regularization=kind))  # type: ignore[arg-type]
    assert pair_loss_full(better) < 0.9 * pair_loss_full(smooth)
    loud = regularize(2 * smooth, generators(0), InversionSettings(regularization=kind))  # type: ignore[arg-type]
    assert kl_loss(loud) < 0.5 * kl_loss(2 * smooth)


@pytest.mark.parametrize("kind", ["sampled", "full"])
def test_an_images_regularization_ignores_its_neighbours(kind: str) -> None:
    eps = noise(3, 4, 16, 16, dtype=torch.float32)
    settings = InversionSettings(regularization=kind)  # type: ignore[arg-type]
    together = regularize(eps, generators(7, 8, 9), settings)
    alone = regularize(eps[1:2], generators(8), settings)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_a_ddim_step_up_and_the_same_step_down_meet() -> None:
    x, eps = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    torch.testing.assert_close(ddim_step(ddim_step(x, eps, 0.9, 0.3), eps, 0.3, 0.9), x)


def test_a_trajectory_holds_every_step_of_the_checkpoints_schedule(tiny_model) -> None:  # type: ignore[no-untyped-def]
    editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=5))
    clean = noise(2, 4, 16, 16, dtype=torch.float32)
    found = invert(editor.model, clean, ["a cat", "a dog"], [1, 2], editor.inversion)
    assert found.trajectory.shape == (6, 2, 4, 16, 16)
    assert torch.equal(found.trajectory[0], clean)
    assert found.schedule == Schedule.of(editor.model.scheduler, 5)
    assert found.schedule.timesteps == (1, 201, 401, 601, 801)


def test_a_way_up_of_second_order_differs_and_is_each_images_own(tiny_model) -> None:  # type: ignore[no-untyped-def]
    editor = Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=6, regularization="none", order=2))
    clean = noise(2, 4, 16, 16, dtype=torch.float32)
    found = invert(editor.model, clean, ["a cat", "a dog"], [1, 2], editor.inversion)
    plain = invert(editor.model, clean, ["a cat", "a dog"], [1, 2], InversionSettings(steps=6, regularization="none"))
    # The first two steps have nothing to extrapolate from.
    assert torch.equal(found.trajectory[:3], plain.trajectory[:3])
    assert not torch.allclose(found.trajectory[3:], plain.trajectory[3:])
    alone = invert(editor.model, clean[1:], ["a dog"], [2], editor.inversion)
    torch.testing.assert_close(alone.trajectory, found.trajectory[:, 1:], rtol=1e-4, atol=1e-4)
