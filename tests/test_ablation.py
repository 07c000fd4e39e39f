import xml.etree.ElementTree as ElementTree

import pytest

from p2pz_ray.config import load
from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.ablation import AblationConfig, evaluation, table, trade_off, translation, variants

EDITS = {"cat2dog": {"source": "cat", "target": "dog"}}
WORDS = {"cat2dog": {"source": "a.txt", "target": "b.txt"}}


def config(**more) -> AblationConfig:
    values = {
        "translate": {"input": {"uri": "world"}, "edits": EDITS, "guidance": {"cfg": 3.0}},
        "evaluate": {"metrics": {"pixels": True}},
        "output": "out",
        "guidance": [0.1, 0.3],
        "strength": [1.0, 2.0],
        **more,
    }
    return AblationConfig.model_validate(values)


def test_the_papers_variants_and_every_point_of_the_sweep_are_runs_of_their_own():
    planned = {v.name: translation(config(), v) for v in variants(config(), EDITS, WORDS)}
    assert len(planned) == 4 + 2 * 2
    assert len({made.output for made in planned.values()}) == 8
    swap, auto, direction, full = (planned[name] for name in ("word-swap", "l-auto", "direction", "full"))
    assert (swap.guidance.lambda_xa, swap.inversion.regularization) == (0, "none")
    assert swap.edits["cat2dog"].sentences.files.source == "a.txt"
    assert (auto.guidance.lambda_xa, auto.inversion.regularization) == (0, "sampled")
    assert (direction.guidance.lambda_xa, direction.edits["cat2dog"].count) == (0, 1000)
    assert full.guidance.lambda_xa is None
    point = planned["strength-2-guidance-0.3"]
    assert (point.edits["cat2dog"].strength, point.guidance.lambda_xa, point.guidance.cfg) == (2.0, 0.3, 3.0)
    assert evaluation(config(), variants(config(), EDITS, WORDS)[0]).run == "out/word-swap"


def test_the_drawing_is_an_svg_with_a_point_a_variant_where_its_scores_say():
    planned = variants(config(), EDITS, WORDS)
    points = {variant: (0.01 * i, i / 10) for i, variant in enumerate(planned)}
    root = ElementTree.fromstring(trade_off(points, "clip_accuracy", "structure_distance"))
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    places = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in circles]
    assert len(places) == 8
    assert places == sorted(places, key=lambda place: (place[0], -place[1]))  # more of either is right, and up
    assert "word-swap" in "".join(root.itertext())


def test_the_table_has_a_line_a_variant_and_says_where_there_is_no_score():
    planned = variants(config(), EDITS, WORDS)[:2]
    found = {planned[0]: {"mse": {"mean": 0.5, "low": 0.4, "high": 0.6}}, planned[1]: {}}
    lines = table(found, ["mse"])
    assert "0.500 [0.400, 0.600]" in lines[1]
    assert lines[2].split() == ["l-auto", "–"]


def test_a_wrong_key_is_named():
    with pytest.raises(ConfigError, match=r"did you mean guidance"):
        load(None, ["output=o", "translate={}", "evaluate={}", "guidanse=[1]"], AblationConfig)
