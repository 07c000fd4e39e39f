"""Masks by a segmentation checkpoint of the real layout with random weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_run import examples, pair
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.segmentation import Segmentation
from p2pz_ray.evaluation.scorer import Scorer

WORDS = {"cat2dog": {"source": "cat", "target": "dog"}}


@pytest.fixture(scope="module")
def segformer(tmp_path_factory) -> str:
    torch.manual_seed(3)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=16,
        id2label={0: "wall", 1: "Cat, feline", 2: "dog"},
        label2id={"wall": 0, "Cat, feline": 1, "dog": 2},
    )
    folder = tmp_path_factory.mktemp("segformer")
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def test_a_mask_is_where_the_words_class_is_the_likeliest(segformer):
    model = SegformerForSemanticSegmentation.from_pretrained(segformer).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    find, found = Segmentation(segformer), []
    for example in examples(3):
        x = (torch.tensor(example.picture()).permute(2, 0, 1)[None] / 255 - mean) / std
        with torch.no_grad():
            likely = F.interpolate(model(x).logits, (64, 64), mode="bilinear", align_corners=False)[0].argmax(0)
        for number, word in ((1, "cat"), (1, "a cat with glasses"), (2, "dog")):
            np.testing.assert_array_equal(find(example.picture(), word), likely.numpy() == number)
        found.append((likely == 1).any() or (likely == 2).any())
    assert any(found)


def test_a_word_that_is_no_class_is_refused_with_those_that_are(segformer):
    wanted = {"run": "run", "masks": {"model": segformer}}
    with pytest.raises(ConfigError, match=r"knows no 'horse', but cat, feline, dog, wall"):
        Scorer(EvaluateConfig.model_validate(wanted), {"a": {"source": "horse", "target": "zebra"}})
    with pytest.raises(ConfigError, match=r"masks\.model"):
        Scorer(EvaluateConfig.model_validate({"run": "run", "masks": {"model": "./nowhere"}}), WORDS)


def test_overlap_and_background_are_of_the_objects_that_were_found(segformer, monkeypatch):
    left, right, nothing = (np.zeros((64, 64), bool) for _ in range(3))
    left[:, :32], right[:, 16:48] = True, True
    scenes = examples(2)
    shown = {scenes[0].picture().tobytes(): left, scenes[1].picture().tobytes(): nothing}
    monkeypatch.setattr(Segmentation, "__call__", lambda _, picture, word: shown.get(picture.tobytes(), right))
    scorer = Scorer(EvaluateConfig.model_validate({"run": "run", "masks": {"model": segformer}}), WORDS)
    scores, _ = scorer.score([pair(s.id, s.picture(), s.picture("dog")) for s in scenes])
    assert scores["mask_overlap"] == [pytest.approx(1 / 3), None]
    assert scores["background_mse"][0] is not None
    assert scores["background_mse"][1] is None
    assert segformer in scorer.columns["mask_overlap"]
