"""What a safety checker flags: the row says so, and holds what it was told to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from tiny_job import pairs_of, tiny_settings, translated
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config import TranslateConfig
from p2pz_ray.config.engine import SafetyConfig
from p2pz_ray.engines.safety import Safety
from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.translation.prepare import prepare

POLICY = DecodePolicy((64, 64))
SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
Key = tuple[str, str]


def save_checker(folder: Path, concept: torch.Tensor | None = None, threshold: float = 2.0) -> Path:
    """A checker of random weights whose first concept is flagged above a cosine; nothing else is."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**SMALL, image_size=32, patch_size=8, projection_dim=8)
    config = CLIPConfig(text_config=CLIPTextConfig(**SMALL).to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    checker = StableDiffusionSafetyChecker(config)
    for name, parameter in checker.vision_model.named_parameters():
        if name.endswith("weight") and parameter.ndim > 1:
            parameter.data *= 30  # so that pictures look unlike to it
    checker.concept_embeds_weights.data.fill_(2.0)
    checker.special_care_embeds_weights.data.fill_(2.0)
    if concept is not None:
        checker.concept_embeds.data[0] = concept
        checker.concept_embeds_weights.data[0] = threshold
    checker.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[Key, Any]]:
    folder = tmp_path_factory.mktemp("plain")
    given = tiny_settings(folder, tiny_model, images=3, per_partition=3)
    return given, translated(given)


@pytest.fixture(scope="module")
def checker(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Key]:
    """A checker that flags one row's picture, and the row."""
    folder, (_, rows) = tmp_path_factory.mktemp("checker"), plain
    safety = Safety(SafetyConfig(model=str(save_checker(folder / "any"))))
    seen = torch.stack([safety._seen(picture(row)) for row in rows.values()])
    with torch.no_grad():
        found = safety.checker.visual_projection(safety.checker.vision_model(seen)[1])
    found = torch.nn.functional.normalize(found)
    others = (found @ found[1])[[i for i in range(len(found)) if i != 1]].max()
    assert others < 0.99  # the checker counts in thousandths
    return save_checker(folder / "one", found[1], float(1 + others) / 2), list(rows)[1]


def picture(row: dict[str, Any]) -> np.ndarray:
    return decode(row["edited_image"]["bytes"], POLICY)


@pytest.mark.parametrize("holds", ["kept", "blurred", "none"])
def test_a_flagged_row_says_so_and_holds_what_it_was_told_to(
    plain: Any, checker: tuple[Path, Key], tmp_path: Path, holds: str
) -> None:
    given, before = plain
    model, flagged = checker
    given = {**given, "safety": {"model": str(model), "holds": holds}, "output": str(tmp_path / "run")}
    rows = translated(given)
    assert {key for key, row in rows.items() if row["status"] == "flagged"} == {flagged}
    assert rows[flagged]["error"] == "The safety checker flagged it."
    assert all(row == before[key] for key, row in rows.items() if key != flagged)
    right, held = picture(before[flagged]), rows[flagged]["edited_image"]
    if holds == "none":
        assert held is None
    elif holds == "kept":
        assert np.array_equal(picture(rows[flagged]), right)
    else:
        blurred = picture(rows[flagged]).astype(float)
        assert np.abs(np.diff(blurred, axis=1)).mean() < np.abs(np.diff(right.astype(float), axis=1)).mean() / 2
    [manifest] = RunFolder(given["output"]).manifests(RunFolder(given["output"]).plan().ids).values()  # type: ignore[union-attr]
    assert (manifest.ok, manifest.failed, manifest.flagged, manifest.rows) == (5, 0, 1, 6)
    assert pairs_of(given["output"]) == rows


def test_what_is_no_safety_checker_is_refused_before_ray_starts(plain: Any, tiny_model: Path, tmp_path: Path) -> None:
    given = {**plain[0], "output": str(tmp_path / "run")}
    for model, says in (
        (str(tiny_model / "text_encoder"), "is no StableDiffusionSafetyChecker"),
        (str(tmp_path / "absent"), "There is no folder"),
    ):
        with pytest.raises(ConfigError, match=says):
            prepare(TranslateConfig.model_validate({**given, "safety": {"model": model}}))


def test_a_checkpoints_own_safety_checker_is_found_in_its_folder(tmp_path: Path) -> None:
    save_checker(tmp_path / "model" / "safety_checker")
    safety = Safety(SafetyConfig(model=str(tmp_path / "model")))
    assert safety.flagged(np.zeros((1, 40, 64, 3), np.uint8)) == [False]
