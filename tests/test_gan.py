"""The two networks, their losses, augmentation and the average: each is the formula it stands for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p2pz_ray.config.distill import AugmentationConfig, DiscriminatorConfig
from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.distill.augmentation import Augmentation
from p2pz_ray.distill.average import average, decay
from p2pz_ray.distill.discriminator import Discriminator
from p2pz_ray.distill.losses import discriminator_loss, generator_loss, l1, r1_penalty
from p2pz_ray.student.generator import CoModGenerator, NetworkDraws
from p2pz_ray.student.layers import Filter, ModulatedConv, width
from p2pz_ray.student.mobile import MobileGenerator

SMALL = {"base": 64, "max": 8, "code": 16}


def small(size: int = 16, seed: int = 0, **settings: Any) -> CoModGenerator:
    torch.manual_seed(seed)
    return CoModGenerator(GeneratorConfig(**(SMALL | settings)), size)


def judge(size: int = 16, group: int = 2, dtype: torch.dtype = torch.float32) -> Discriminator:
    torch.manual_seed(1)
    return Discriminator(DiscriminatorConfig(base=64, max=8), size, group).to(dtype)


def textbook(layer: ModulatedConv, x: Tensor, style: Tensor) -> Tensor:
    """The form of the paper: each picture's own weights, scaled and then demodulated; a grouped convolution."""
    s = layer.affine(style)
    w = (layer.weight * layer.gain)[None] * s[:, None, :, None, None]
    if layer.demodulate:
        w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    made = []
    for picture, weight in zip(x, w, strict=True):
        if layer.filter is None:
            made.append(F.conv2d(picture[None], weight, padding=layer.kernel // 2))
            continue
        wide = torch.zeros(1, picture.shape[0], picture.shape[1] * 2 - 1, picture.shape[2] * 2 - 1)
        wide[..., ::2, ::2] = picture
        spread = F.conv2d(F.pad(wide, (2, 2, 2, 2)), weight.flip((2, 3)))
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        kernel = (taps[:, None] * taps).expand(spread.shape[1], 1, 4, 4)
        made.append(F.conv2d(F.pad(spread, (1, 1, 1, 1)), kernel, groups=spread.shape[1]))
    return torch.cat(made)


@pytest.mark.parametrize(
    ("kernel", "up", "demodulate"), [(3, False, True), (3, True, True), (1, False, False), (3, True, False)]
)
def test_scaling_activations_equals_the_textbooks_scaling_of_weights(kernel: int, up: bool, demodulate: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(6, 5, kernel, 7, up=up, demodulate=demodulate)
    nn.init.normal_(layer.affine.bias, 1.0)
    x, style = torch.randn(3, 6, 8, 8), torch.randn(3, 7)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, style), textbook(layer, x, style), rtol=0, atol=1e-5)


def test_styles_are_one_at_first_and_a_layer_keeps_the_variance() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(64, 64, 3, 16)
    assert torch.equal(layer.affine(torch.zeros(2, 16)), torch.ones(2, 64))
    with torch.no_grad():
        y = layer(torch.randn(4, 64, 16, 16), torch.randn(4, 16))[:, :, 1:-1, 1:-1]
    assert 0.8 < float(y.std()) < 1.2


def test_the_filter_keeps_a_flat_picture_flat_in_both_directions() -> None:
    flat = torch.full((1, 3, 8, 8), 0.7)
    assert torch.allclose(Filter().down(flat)[..., 1:-1, 1:-1], flat[..., 1:3, 1:3].expand(1, 3, 2, 2))
    assert torch.allclose(Filter().up(flat)[..., 2:-2, 2:-2], torch.tensor(0.7))
    assert Filter().up(flat).shape[2:] == (16, 16)


def test_widths_are_the_papers_at_full_size() -> None:
    assert [width(side, 32768, 512) for side in (4, 64, 128, 256, 512)] == [512, 512, 256, 128, 64]
    wanted = GeneratorConfig()
    assert (wanted.base, wanted.max, wanted.code, wanted.dropout) == (32768, 512, 1024, 0.5)


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("residual", [False, True])
def test_the_generator_answers_at_its_size_each_picture_as_if_alone(size: int, residual: bool) -> None:
    model = small(size, residual=residual)
    x = torch.rand(3, 3, size, size) * 2 - 1
    with torch.no_grad():
        y = model(x)
        assert y.shape == x.shape
        assert torch.equal(y, model(x))
        assert residual == torch.equal(y, x)  # an untrained residual student is the identity
        torch.testing.assert_close(torch.cat([model(one[None]) for one in x]), y, rtol=0, atol=1e-5)


def test_every_weight_of_the_generator_is_trained() -> None:
    model = small(z=6, mapping_layers=2, noise=True)
    draws = NetworkDraws(
        torch.randn(2, 6), torch.full((2, 16), 2.0), [torch.randn(2, 1, s, s) for s in model.noise_sides]
    )
    model(torch.rand(2, 3, 16, 16), draws=draws).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_z_noise_and_dropout_change_the_answer_and_are_off_when_served() -> None:
    model = small(z=6, mapping_layers=2, noise=True)
    for layer in model.modules():
        if getattr(layer, "strength", None) is not None:
            nn.init.constant_(layer.strength, 0.5)
    x, draws = torch.rand(2, 3, 16, 16), torch.Generator().manual_seed(0)
    noise = [torch.randn(2, 1, s, s, generator=draws) for s in model.noise_sides]
    cases = [
        NetworkDraws(torch.randn(2, 6, generator=draws)),
        NetworkDraws(dropout=torch.zeros(2, 16)),
        NetworkDraws(noise=noise),
    ]
    with torch.no_grad():
        served = model(x)
        assert all(not torch.allclose(model(x, draws=draws), served, atol=1e-3) for draws in cases)
        assert torch.equal(model(x), served)


def test_the_served_w_is_the_average_of_those_drawn() -> None:
    mapping = small(z=6, mapping_layers=2).mapping
    assert mapping is not None
    z = torch.randn(4096, 6)
    for _ in range(2000):
        mapping.track(z)
    torch.testing.assert_close(mapping.mean, mapping(z).mean(0), rtol=1e-2, atol=1e-3)


def test_the_mobile_student_is_the_identity_at_first_and_all_of_it_is_trained() -> None:
    torch.manual_seed(0)
    model = MobileGenerator(GeneratorConfig(architecture="mobile", base=128, max=8, blocks=2), 16)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(x), x)
    nn.init.normal_(model.to_rgb.weight)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert model(torch.rand(1, 3, 24, 32)).shape == (1, 3, 24, 32)


def test_the_style_is_trained_and_a_direction_of_zeros_is_the_source() -> None:
    torch.manual_seed(0)
    model = CoModGenerator(GeneratorConfig(**SMALL, style=6, z=4, mapping_layers=1), 16, directions=3)
    x, direction = torch.rand(2, 3, 16, 16), torch.randn(2, 3)
    model(x, direction, NetworkDraws(torch.randn(2, 4))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(x, torch.zeros(2, 3)), x)
        assert not torch.allclose(model(x, direction), model(x, direction.flip(0)), atol=1e-3)


def test_demodulation_is_of_full_precision_whatever_the_rest_is_computed_in() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(6, 5, 3, 7)
    nn.init.constant_(layer.affine.bias, 3000.0)  # whose squares, summed, are beyond half precision
    nn.init.zeros_(layer.affine.weight)
    x, style = torch.randn(2, 6, 8, 8), torch.randn(2, 7)
    with torch.no_grad():
        wanted = layer(x, style)
        with torch.autocast("cpu", torch.float16):
            found = (
                layer(x / 3000, style) * 3000
            )  # what goes in is scaled, so that the convolution itself stays in range
    torch.testing.assert_close(found.float(), wanted, rtol=2e-2, atol=2e-2)


def test_the_discriminator_asks_for_the_edit_that_is_named() -> None:
    torch.manual_seed(1)
    model = Discriminator(DiscriminatorConfig(base=64, max=8), 16, 2, directions=3)
    x, c, direction = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16), torch.randn(4, 3)
    with torch.no_grad():
        assert not torch.allclose(model(x, c, direction), model(x, c, -direction), atol=1e-3)


def test_the_discriminator_looks_at_the_condition_and_at_its_group_alone() -> None:
    model, draws = judge(group=2), torch.Generator().manual_seed(0)
    x, c = torch.rand(4, 3, 16, 16, generator=draws), torch.rand(4, 3, 16, 16, generator=draws)
    with torch.no_grad():
        logits = model(x, c)
        assert logits.shape == (4,)
        torch.testing.assert_close(torch.cat([model(x[:2], c[:2]), model(x[2:], c[2:])]), logits, rtol=0, atol=1e-5)
        assert not torch.allclose(model(x, c.flip(1)), logits, atol=1e-3)
        alike = torch.cat([x[:1], x[:1], x[2:]])  # without a neighbour that differs, the first is judged differently
        assert not torch.allclose(model(alike, c)[0], logits[0], atol=1e-5)


def test_the_losses_are_their_formulas() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(generator_loss(fake), torch.log1p(torch.exp(-fake)))
    torch.testing.assert_close(
        discriminator_loss(real, fake), torch.log1p(torch.exp(fake)) + torch.log1p(torch.exp(-real))
    )
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(l1(x, x + 0.25), torch.full((2,), 0.25))


def test_the_r1_penalty_and_its_own_gradient_agree_with_finite_differences() -> None:
    model = judge(size=8, dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    x, c = (torch.rand(2, 3, 8, 8, generator=draws, dtype=torch.float64) for _ in range(2))

    def penalty() -> Tensor:
        picture = x.clone().requires_grad_()
        return r1_penalty(model(picture, c), picture).sum()

    # The penalty itself: its gradient, from differences of the logits.
    squares, epsilon = 0.0, 1e-5
    with torch.no_grad():
        for i in range(x.numel()):
            step = torch.zeros_like(x).view(-1)
            step[i] = epsilon
            step = step.view_as(x)
            squares += float((model(x + step, c) - model(x - step, c)).sum() / (2 * epsilon)) ** 2
    assert penalty().item() == pytest.approx(squares, rel=1e-5)

    # What trains the discriminator: the penalty's gradient by each of its parameters, in a random direction.
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        with torch.no_grad():
            parameter += epsilon * direction
        above = penalty().item()
        with torch.no_grad():
            parameter -= 2 * epsilon * direction
        below = penalty().item()
        with torch.no_grad():
            parameter += epsilon * direction
        expected = (above - below) / (2 * epsilon)
        found = 0.0 if gradient is None else float((gradient * direction).sum())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


ALL = AugmentationConfig(flip=0.5, shift=0.25, colour=0.3, cutout=0.3, noise=0.1)


def test_pictures_that_belong_together_are_augmented_together() -> None:
    augment = Augmentation(ALL)
    draw = augment.draw(8, 16, torch.Generator().manual_seed(0))
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    out = augment.apply(x, draw)
    assert torch.equal(out, augment.apply(x, draw))
    assert not torch.allclose(out, x, atol=0.05)
    half = augment.apply(x[4:], draw.part(slice(4, 8), "cpu"))
    assert torch.equal(half, out[4:])  # a worker's rows are the same as in the whole batch


def test_flips_and_shifts_move_pixels_and_change_none() -> None:
    augment = Augmentation(AugmentationConfig(flip=1.0, shift=0.25))
    draw = augment.draw(1, 8, torch.Generator().manual_seed(3))
    down, right = draw.shift[0].tolist()
    assert (down, right) != (0, 0)
    x = torch.rand(1, 3, 8, 8)
    out, flipped = augment.apply(x, draw)[0], x[0].flip(2)
    for row in range(8):
        for column in range(8):
            from_row, from_column = min(7, max(0, row - down)), min(7, max(0, column - right))
            assert torch.equal(out[:, row, column], flipped[:, from_row, from_column])


def test_cutout_blanks_a_square_of_its_share() -> None:
    augment = Augmentation(AugmentationConfig(cutout=0.5))
    draw = augment.draw(1, 16, torch.Generator().manual_seed(0))
    draw.cutout[:] = 0.5
    assert int((augment.apply(torch.ones(1, 1, 16, 16), draw) == 0).sum()) == 64


def test_augmentation_can_be_differentiated_twice() -> None:
    augment = Augmentation(ALL.model_copy(update={"noise": 0.0}))
    draw = augment.draw(2, 4, torch.Generator().manual_seed(0))
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: augment.apply(x, draw).square(), (x,))


def test_the_average_forgets_half_in_its_half_life_and_faster_in_the_beginning() -> None:
    assert decay(10**9, 100, 10_000) == pytest.approx(0.5 ** (1 / 100))
    assert decay(1000, 50, 10_000) == pytest.approx(0.5)
    assert decay(0, 50, 10_000) < 1e-6
    into, of = small(seed=0, z=4), small(seed=1, z=4)
    of.mapping.mean += 1  # type: ignore[union-attr]
    wanted = [0.75 * a + 0.25 * b for a, b in zip(into.parameters(), of.parameters(), strict=True)]
    average(into, of, 0.75)
    for found, expected in zip(into.parameters(), wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(into.mapping.mean, of.mapping.mean)  # type: ignore[union-attr]
