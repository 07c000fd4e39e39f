"""The learned distance: it is the published one, it can be trained through, and it says what it lacks."""

import hashlib
import sys
import types
from pathlib import Path

import pytest
import torch

from p2pz_ray import perceptual
from p2pz_ray.errors import ConfigError
from p2pz_ray.perceptual import load_perceptual


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=draw), size=64, mode="bilinear") * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=draw)).clamp(-1, 1)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_it_is_the_published_distance(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stlpips_pytorch")
    # The package's own code imports modules that it neither declares nor needs here.
    for name in ("IPython", "torchsummary", "torchvision", "torchvision.models", "cv2", "skimage", "skimage.color"):
        module = types.ModuleType(name)
        module.__dict__.update(embed=None, summary=None, models=None, __path__=[])
        monkeypatch.setitem(sys.modules, name, module)
    theirs = pytest.importorskip("stlpips_pytorch.stlpips").LPIPS(net=backbone, variant="shift_tolerant", verbose=False)
    x, y = pictures()
    with torch.no_grad():
        wanted, found = theirs(x, y).flatten(), load_perceptual(f"stlpips-{backbone}")(x, y)  # type: ignore[arg-type]
    assert wanted.min() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_equal_pictures_are_at_distance_nothing_and_their_gradient_is_finite() -> None:
    pytest.importorskip("stlpips_pytorch")
    distance = load_perceptual("stlpips-alex")
    x, y = pictures()
    assert distance(x, x).abs().max() == 0
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)  # a picture in which some features are zero everywhere
    distance(flat, y[:1]).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    assert flat.grad.abs().max() > 0


def test_weights_of_another_content_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "stlpips_pytorch"
    file = package / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
    file.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    torch.save({"weight": torch.zeros(1)}, file)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stlpips_pytorch", raising=False)
    with pytest.raises(ConfigError, match=r"alex_shift_tolerant\.pth is not the file that stlpips-pytorch"):
        load_perceptual("stlpips-alex")
    monkeypatch.setitem(perceptual.SHA256, "alex", hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(KeyError):  # past the check it is read
        load_perceptual("stlpips-alex")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps stlpips-pytorch"):
        load_perceptual("stlpips-vgg")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=r"backbone's weights at .*vgg16-397923af\.pth"):
        load_perceptual("lpips-vgg")


def test_the_papers_own_distance_takes_its_backbone_from_torchs_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    backbone = models.alexnet()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(backbone.state_dict(), folder / "alexnet-owt-7be5be79.pth")
    distance, (x, y) = load_perceptual("lpips-alex"), pictures()
    with torch.no_grad():
        assert distance(x, x).abs().max() == 0
        assert distance(x, y).shape == (2,)
        assert distance(x, y).min() > 0
