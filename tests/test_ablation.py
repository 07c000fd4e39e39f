import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from p2pz_ray import Editor
from p2pz_ray.config import load
from p2pz_ray.errors import ConfigError
from p2pz_ray.report.ablation import (
    AblationConfig,
    caption,
    evaluation,
    table,
    trade_off,
    translation,
    variants,
    words_of,
)

JOB = Path(__file__).parents[1] / "jobs" / "ablation.py"
EDITS = {"cat2dog": {"source": "cat", "target": "dog"}}
FILES = {"cat2dog": {"source": "a.txt", "target": "b.txt"}}


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
    planned = {v.name: translation(config(), v) for v in variants(config(), FILES)}
    assert len(planned) == 4 + 2 * 2
    assert len({made.output for made in planned.values()}) == 8
    swap, auto, direction, full = (planned[name] for name in ("word-swap", "l-auto", "direction", "full"))
    assert (swap.guidance.lambda_xa, swap.inversion.regularization) == (0, "none")
    assert swap.edits["cat2dog"].sentences.files.source == "a.txt"
    assert (auto.guidance.lambda_xa, auto.inversion.regularization) == (0, "sampled")
    assert (direction.guidance.lambda_xa, direction.edits["cat2dog"].count) == (0, 1000)
    assert (full.guidance.lambda_xa, full.inversion.regularization) == (None, "sampled")
    assert [made.guidance.strength for made in (swap, auto, direction, full)] == [1, 1, None, None]
    assert {made.captions.column for made in (swap, auto, direction, full)} == {None}
    assert {made.inversion.cache for made in planned.values()} == {"out/inversions"}
    point = planned["strength-2-guidance-0.3"]
    assert (point.edits["cat2dog"].strength, point.guidance.lambda_xa, point.guidance.cfg) == (2.0, 0.3, 3.0)
    assert point.captions.column == "caption"
    assert evaluation(config(), variants(config(), FILES)[0]).run == "out/word-swap"


def test_a_one_sentence_direction_under_one_caption_is_the_words_swap(tiny_model):
    editor = Editor.from_pretrained(tiny_model)
    swap = editor.direction([caption("cat")], [caption("dog")])
    own, swapped = (editor.model.embed([caption(word)]).tokens for word in ("cat", "dog"))
    torch.testing.assert_close(own + swap.embedding, swapped, atol=1e-6, rtol=0)


def test_edits_without_words_or_of_several_sources_are_refused():
    for edits, words in (
        ({"a": {"direction": "x.safetensors"}}, "a has no words"),
        ({**EDITS, "dog2cat": {"source": "dog", "target": "cat"}}, "begin with cat and dog"),
        ({}, "begin with none"),
    ):
        with pytest.raises(ConfigError, match=words):
            words_of(config(translate={"input": {"uri": "world"}, "edits": edits}))


def test_the_drawing_is_an_svg_with_a_point_a_variant_where_its_scores_say():
    planned = variants(config(), FILES)
    points = {variant: (0.01 * i, i / 10) for i, variant in enumerate(planned)}
    root = ElementTree.fromstring(trade_off(points, "clip_accuracy", "structure_distance"))
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    places = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in circles]
    assert len(places) == 8
    assert places == sorted(places, key=lambda place: (place[0], -place[1]))  # more of either is right, and up
    assert "word-swap" in "".join(root.itertext())


def test_the_table_has_a_line_a_variant_and_says_where_there_is_no_score():
    planned = variants(config(), FILES)[:2]
    found = {planned[0]: {"mse": {"mean": 0.5, "low": 0.4, "high": 0.6}}, planned[1]: {}}
    lines = table(found, ["mse"])
    assert "0.500 [0.400, 0.600]" in lines[1]
    assert lines[2].split() == ["l-auto", "–"]


def test_the_job_translates_scores_and_draws_every_variant(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("ablation_job", JOB)
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    made = {}

    def translate(wanted):
        made[wanted.output] = wanted
        return "done"

    def evaluate(wanted):
        share = made[wanted.run].guidance.lambda_xa or 0.0
        return {"all": {name: {"mean": share, "low": 0, "high": 1, "count": 9} for name in ("clip_accuracy", "mse")}}

    for name, stand_in in (("connected", lambda _: nullcontext()), ("translate", translate), ("evaluate", evaluate)):
        monkeypatch.setattr(job, name, stand_in)
    wanted = config(output=str(tmp_path / "out"), structure="mse")
    assert job.ablate(wanted)["full"]["run"] == str(tmp_path / "out/full")
    words = made[str(tmp_path / "out/word-swap")].edits["cat2dog"].sentences.files
    assert Path(words.source).read_text() == "a photo of a cat\n"
    assert Path(words.target).read_text() == "a photo of a dog\n"
    assert len(made) == 8
    assert (
        json.loads((tmp_path / "out/ablation.json").read_text())["strength-2-guidance-0.3"]["scores"]["mse"]["mean"]
        == 0.3
    )
    assert (tmp_path / "out/tradeoff.svg").read_text().count("<circle") == 8
    job.ablate(config(output=str(tmp_path / "none")))
    assert "no run has both clip_accuracy and structure_distance" in capsys.readouterr().out


def test_a_wrong_key_is_named():
    with pytest.raises(ConfigError, match=r"did you mean guidance"):
        load(None, ["output=o", "translate={}", "evaluate={}", "guidanse=[1]"], AblationConfig)
