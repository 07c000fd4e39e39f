import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_run import examples
from tiny_clip import save_tiny_clip
from transformers import CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics import clip, miniature
from p2pz_ray.evaluation.metrics.background import BackgroundDistance
from p2pz_ray.evaluation.metrics.clip import ClipScore
from p2pz_ray.evaluation.metrics.metric import Pair, alike
from p2pz_ray.evaluation.metrics.pixels import PixelDifference
from p2pz_ray.evaluation.metrics.saliency import MaskOverlap, Saliency, overlap
from p2pz_ray.evaluation.metrics.structure import dino
from p2pz_ray.mini.world import backdrop
from p2pz_ray.perceptual import load_perceptual


def noise(seed: int, side: int = 40) -> np.ndarray:
    """A smooth random picture."""
    grid = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    x = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    return (x[0] * 255).round().byte().permute(1, 2, 0).numpy().copy()


def pairs(count: int = 5, side: int = 40) -> list[Pair]:
    found = []
    for i in range(count):
        mask = np.zeros((side, side), bool)
        mask[4 + i : 20 + i, 6:22] = True
        found.append(
            Pair(f"p{i}", "cat2dog", noise(i, side), noise(100 + i, side), ("cat", "dog"), None, mask, (mask, mask.T))
        )
    return found


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return str(save_tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3, image_size=32, patch_size=8
    )
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def test_clip_scores_are_the_cosines_of_the_models_own_projections(clip_folder):
    found = ClipScore(clip_folder, prompt="a picture of a {}")(pairs())
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), CLIPTokenizer.from_pretrained(clip_folder)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

    def seen(picture):
        from PIL import Image

        x = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC)) / 255
        x = torch.tensor(((x - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
        hidden = model.vision_model(x).pooler_output
        return F.normalize(model.visual_projection(hidden), dim=1)[0]

    def said(text):
        ids = tokenizer([text], return_tensors="pt").input_ids
        return F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=1)[0]

    with torch.no_grad():
        cat, dog = said("a picture of a cat"), said("a picture of a dog")
        for i, pair in enumerate(pairs()):
            edited, source = seen(pair.edited), seen(pair.source)
            assert found["clip_source"][i] == pytest.approx(float(edited @ cat), abs=1e-4)
            assert found["clip_target"][i] == pytest.approx(float(edited @ dog), abs=1e-4)
            assert found["clip_gain"][i] == pytest.approx(float((edited - source) @ dog), abs=1e-4)
            inside = seen(pair.edited * pair.mask[..., None])
            assert found["clip_target_object"][i] == pytest.approx(float(inside @ dog), abs=1e-4)


def test_a_pairs_own_texts_go_before_the_edits_words_and_without_either_there_is_no_score(clip_folder):
    one = pairs(1)[0]
    own = Pair(one.id, one.edit, one.source, one.edited, ("cat", "dog"), ("a tree", "a red tree"))
    score = ClipScore(clip_folder)
    expected = float(score.image([one.edited])[0] @ score.text(["a red tree"])[0])
    found = score([own, Pair("x", "y", one.source, one.edited)])
    assert found["clip_target"] == [pytest.approx(expected, abs=1e-6), None]


@pytest.mark.parametrize("scale", ["0-1", "0-255"])
def test_structure_distance_compares_the_self_similarities_of_last_layer_keys(vit_folder, scale):
    distance = dino(vit_folder, scale=scale)
    assert list(distance.columns) == ["structure_distance" if scale == "0-1" else "structure_distance_255"]
    [found] = distance(pairs()).values()
    model = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()

    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))

    def similarity(picture):
        x = torch.tensor(picture, dtype=torch.float32).permute(2, 0, 1)[None]
        x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True) / (255 if scale == "0-1" else 1)
        x = (x - mean) / std
        before = model(x, output_hidden_states=True).hidden_states[-2][0]
        keys = model.layers[-1].attention.k_proj(model.layers[-1].layernorm_before(before))
        return torch.stack([F.cosine_similarity(key[None], keys) for key in keys])

    with torch.no_grad():
        for i, pair in enumerate(pairs()):
            expected = (similarity(pair.source) - similarity(pair.edited)).square().mean()
            assert found[i] == pytest.approx(float(expected), abs=1e-4)
            assert found[i] > 1e-5


def test_structure_of_other_shapes_keeps_their_proportions(vit_folder):
    wide, other = noise(1, 48)[:24], noise(2, 48)[:24]
    [[found]] = dino(vit_folder)([Pair("a", "b", wide, other)]).values()
    [[same]] = dino(vit_folder)([Pair("a", "b", wide, wide)]).values()
    assert found > 1e-5
    assert same == 0


def test_the_background_distance_is_the_networks_own_with_the_object_black():
    pytest.importorskip("stlpips_pytorch")
    found = BackgroundDistance("stlpips-alex")(pairs(3, 64))
    network = load_perceptual("stlpips-alex")
    for i, pair in enumerate(pairs(3, 64)):
        x, y = (np.where(pair.mask[..., None], 0, p) for p in (pair.source, pair.edited))
        x, y = (torch.tensor(p, dtype=torch.float32).permute(2, 0, 1)[None] / 127.5 - 1 for p in (x, y))
        assert found["background_stlpips"][i] == pytest.approx(float(network(x, y)), abs=1e-4)
    inside = [np.where(p.mask[..., None], p.edited, p.source) for p in pairs()]
    changed = [Pair(p.id, p.edit, p.source, edited, mask=p.mask) for p, edited in zip(pairs(), inside, strict=True)]
    assert BackgroundDistance("stlpips-alex")(changed)["background_stlpips"] == [pytest.approx(0, abs=1e-6)] * 5


def test_pixel_scores_equal_their_definitions():
    found = PixelDifference()(pairs(3))
    for i, pair in enumerate(pairs(3)):
        x, y = pair.source / 255, pair.edited / 255
        assert found["mse"][i] == pytest.approx(((x - y) ** 2).mean(), abs=1e-6)
        assert found["psnr"][i] == pytest.approx(-10 * math.log10(((x - y) ** 2).mean()), abs=1e-3)
        assert found["ssim"][i] == pytest.approx(_ssim(x, y), abs=1e-4)
        x, y = x * ~pair.mask[..., None], y * ~pair.mask[..., None]
        assert found["background_mse"][i] == pytest.approx(((x - y) ** 2).mean(), abs=1e-6)
        assert found["background_ssim"][i] == pytest.approx(_ssim(x, y), abs=1e-4)
    same = [Pair("a", "b", noise(1), noise(1))]
    assert PixelDifference()(same)["psnr"] == [100]
    assert PixelDifference()(same)["ssim"] == [pytest.approx(1)]
    assert PixelDifference()(same)["background_psnr"] == [None]


def _ssim(x, y):
    """By the definition, window by window."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for c in range(3):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


def test_no_score_depends_on_the_batch_or_on_its_order(clip_folder, vit_folder):
    for metric in (ClipScore(clip_folder), dino(vit_folder), PixelDifference(), MaskOverlap("")):
        assert_each_alone(metric, pairs())


def test_no_background_distance_depends_on_the_batch_on_its_order_or_on_those_without_a_mask():
    pytest.importorskip("stlpips_pytorch")
    hidden = Pair("hidden", "e", noise(7), noise(8), mask=np.ones((40, 40), bool))
    found = assert_each_alone(
        BackgroundDistance("stlpips-alex"), [Pair("bare", "e", noise(5), noise(6)), *pairs(), hidden]
    )
    values = found["background_stlpips"]
    assert values[0] is values[-1] is None
    assert min(values[1:-1]) > 0


def assert_each_alone(metric, given: list[Pair]) -> dict[str, list]:
    """Fail where a pair's scores depend on those beside it; returns all scores."""
    together, alone = metric(given), [metric([pair]) for pair in given]
    order = np.random.default_rng(0).permutation(len(given))
    shuffled = metric([given[i] for i in order])
    for name, values in together.items():
        for i, value in enumerate(values):
            again = alone[i][name][0], shuffled[name][list(order).index(i)]
            assert again == ((None, None) if value is None else pytest.approx((value, value), abs=1e-5)), name
    return together


def test_pairs_of_several_sizes_are_batched_by_size_and_each_comes_once():
    mixed = [*pairs(2), *pairs(3, 24), *pairs(1)]
    batches = list(alike(mixed, 2))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len({mixed[i].source.shape for i in batch}) == 1 and len(batch) <= 2 for batch in batches)


def test_overlap_is_intersection_over_union():
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[:2], other[1:3] = True, True
    assert overlap(one, other) == pytest.approx(1 / 3)
    assert overlap(one & False, other & False) == 1


def test_what_is_not_installed_is_one_sentence_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "MINI", tmp_path)
    with pytest.raises(ConfigError, match=r"miniature's CLIP is not installed"):
        ClipScore("mini")
    monkeypatch.setattr(miniature.Judge, "load", lambda: (_ for _ in ()).throw(FileNotFoundError()))
    with pytest.raises(ConfigError, match=r"miniature's judge is not installed"):
        miniature.JudgeAccuracy()
    with pytest.raises(ConfigError, match=r"metrics.structure.model"):
        dino(str(tmp_path / "nowhere"))


def test_the_object_of_a_scene_is_found_where_it_differs_from_the_scene_without_one():
    for example in examples(6):
        empty = backdrop(example.scene)
        outside = ~example.mask()
        np.testing.assert_array_equal(empty[outside], example.picture()[outside])
        assert overlap(miniature.animal(example.picture(), example.scene), example.mask()) > 0.5
        assert not miniature.animal(empty, example.scene).any()


def test_a_judge_with_random_weights_gives_accuracy_and_structure(monkeypatch):
    torch.manual_seed(0)
    judge = miniature.Judge((8, 8, 16, 16)).eval()
    monkeypatch.setattr(miniature.Judge, "load", lambda: judge)
    shown = [Pair(e.id, "cat2dog", e.picture(), e.picture("dog"), ("cat", "dog")) for e in examples(4)]
    kinds = [found["kind"] for found in judge.see(np.stack([pair.edited for pair in shown]))]
    assert miniature.JudgeAccuracy()(shown)["judge_target"] == [float(kind == "dog") for kind in kinds]
    unknown = [Pair("a", "b", shown[0].source, shown[0].edited, ("cat", "unicorn"))]
    assert miniature.JudgeAccuracy()(unknown)["judge_target"] == [None]
    [found] = miniature.judge_structure()(shown).values()
    assert all(value > 0 for value in found)


def test_u2netp_finds_a_disc_before_a_plain_ground():
    try:
        saliency = Saliency()
    except ConfigError as error:
        pytest.skip(str(error))
    y, x = np.mgrid[:128, :128]
    disc = (y - 60) ** 2 + (x - 70) ** 2 < 30**2
    picture = np.where(disc[..., None], np.uint8([220, 60, 40]), np.uint8([120, 160, 200])).astype(np.uint8)
    assert overlap(saliency(picture), disc) > 0.8
