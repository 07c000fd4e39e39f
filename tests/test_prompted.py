"""diffusers' own image-to-image pipelines in the editor's place: the same rows, faults and refusals."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from tiny_job import committed_files, data_files, pairs_of, tiny_settings, translated
from tiny_pipelines import save_tiny_instructpix2pix, save_tiny_kontext

import p2pz_ray
from p2pz_ray.collection.partition import Partition
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing.pipeline import Pipeline
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import swapped
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.translation import replica as replica_module
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.replica import Replica

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas can't import this file
POLICY = DecodePolicy((64, 64))
ARGUMENTS: dict[str, dict[str, Any]] = {
    "StableDiffusionImg2ImgPipeline": {"strength": 0.5, "num_inference_steps": 4, "guidance_scale": 60},
    "StableDiffusionInstructPix2PixPipeline": {"num_inference_steps": 2, "image_guidance_scale": 1.2},
    "FluxKontextPipeline": {"num_inference_steps": 2, "_auto_resize": False, "max_sequence_length": 16},
}
SDEDIT, INSTRUCTED, KONTEXT = ARGUMENTS


@pytest.fixture(scope="module")
def checkpoints(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        SDEDIT: tiny_model,
        INSTRUCTED: save_tiny_instructpix2pix(folder / "instructed", tiny_model),
        KONTEXT: save_tiny_kontext(folder / "kontext", tiny_model / "tokenizer"),
    }


def settings(folder: Path, model: Path, pipeline: str, **engine: Any) -> dict[str, Any]:
    given = tiny_settings(folder, model, images=4, per_partition=2)
    del given["inversion"]
    words = {"cat2dog": {"source": "cat", "target": "dog"}, "cat2horse": {"source": "cat", "target": "horse"}}
    prompt = "{swapped}" if pipeline == SDEDIT else "turn the {source} into a {target}"
    engine = {"pipeline": pipeline, "prompt": prompt, "arguments": ARGUMENTS[pipeline], **engine}
    return {**given, "edits": words, "engine": engine, "image": {"size": 64}}


def pixels(row: dict[str, Any]) -> np.ndarray:
    return decode(row["edited_image"]["bytes"], POLICY)


@pytest.mark.parametrize("pipeline", ARGUMENTS)
def test_every_picture_comes_out_as_if_alone_and_each_edit_has_its_prompt(
    checkpoints: dict[str, Path], tmp_path: Path, pipeline: str
) -> None:
    given = settings(tmp_path, checkpoints[pipeline], pipeline, prompt="a {target}")
    rows = translated(given)
    assert {row["status"] for row in rows.values()} == {"ok"}
    alone = {**given, "batch_size": 1, "output": str(tmp_path / "alone")}
    assert {key: pixels(row).tobytes() for key, row in translated(alone).items()} == {
        key: pixels(row).tobytes() for key, row in rows.items()
    }
    ids = {id for id, _ in rows}
    if pipeline != KONTEXT:  # whose text towers are too small to tell one word from another
        assert all((pixels(rows[id, "cat2dog"]) != pixels(rows[id, "cat2horse"])).any() for id in ids)
    assert len({pixels(rows[id, "cat2dog"]).tobytes() for id in ids}) == len(ids)


def test_a_picture_that_is_not_finite_is_an_error_row_and_its_neighbours_stay(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path, tiny_model, SDEDIT)
    right = translated(given)
    call, calls = Pipeline.edit, []

    def broken(self: Pipeline, *asked: Any) -> Any:
        calls.append(asked)
        decoder = self.pipeline.vae.decoder.conv_out
        kept = decoder.bias.detach().clone()
        if len(calls) == 3:
            torch.nn.init.constant_(decoder.bias, float("nan"))
        try:
            return call(self, *asked)
        finally:
            decoder.bias.data.copy_(kept)

    monkeypatch.setattr(Pipeline, "edit", broken)
    rows = translated({**given, "output": str(tmp_path / "broken")})
    [(key, faulty)] = [(key, row) for key, row in rows.items() if row["status"] == "error"]
    assert faulty["error"] == "Its edited picture is not finite, in float32: try other engine.arguments."
    assert all(row == right[other] for other, row in rows.items() if other != key)


def test_outside_a_mask_the_source_stays(tiny_model: Path, tmp_path: Path) -> None:
    given = settings(tmp_path, tiny_model, SDEDIT)
    given["input"]["columns"] = {"mask": "mask"}
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "world").to_pylist()}
    for (id, _), pair in translated(given).items():
        white = decode(rows[id]["mask"]["bytes"], POLICY).mean(axis=2) > 127
        source = decode(pair["source_image"]["bytes"], POLICY)
        assert np.array_equal(pixels(pair)[~white], source[~white])
        assert not np.array_equal(pixels(pair)[white], source[white])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine": {"pipeline": "NoPipeline"}}, "has no such pipeline"),
        ({"engine": {"pipeline": "UNet2DConditionModel"}}, "has no such pipeline"),
        ({"engine": {"pipeline": "StableDiffusionPipeline"}}, "isn't told of a picture and a prompt"),
        ({"engine": {"arguments": {"strenght": 0.5}}}, "has strenght, which .* isn't to be told; it takes strength,"),
        ({"engine": {"arguments": {"image": 1}}}, "has image, which"),
        ({"engine": {"arguments": {"strength": "high"}}}, "arguments.strength is 'high', but .* a valid number"),
        ({"engine": {"prompt": "{name}"}}, r"names \{name\}: it can name \{source\}"),
        ({"engine": {"prompt": "{source"}}, "whose braces don't match"),
        ({"inversion": {"steps": 3}}, "engine has no use for inversion"),
        ({"edits": {"e": {"source": "cat", "target": "dog", "strength": 0.5}}}, r"no use for edits\.e\.strength"),
        ({"engine": {"pipeline": INSTRUCTED, "arguments": {}}}, "a UNet of 4 channels, but .* one of 8"),
        ({"engine": {"pipeline": KONTEXT, "arguments": {}}}, "has no text_encoder_2, tokenizer_2, transformer"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_said_before_ray_starts(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    given = settings(tmp_path, tiny_model, SDEDIT)
    given["engine"] |= changes.pop("engine", {})
    with pytest.raises((ConfigError, ValueError), match=says):
        prepare(TranslateConfig.model_validate(given | changes))
    assert not (tmp_path / "run").exists()


def test_code_of_a_checkpoints_own_is_never_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["mine", "MyUNet"]}))
    (folder / "unet" / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(ConfigError, match=r"has a unet with code of its own \(mine\), which is never run"):
        prepare(TranslateConfig.model_validate(settings(tmp_path, folder, SDEDIT)))


@pytest.mark.parametrize(
    ("caption", "source", "target", "right"),
    [
        ("a photo of a cat in a hat", "cat", "dog", "a photo of a dog in a hat"),
        ("An owl and two owls", "owl", "fox", "A fox and two foxes"),
        ("the Cat sleeps", "cat", "alligator", "the alligator sleeps"),
        ("a cat", "cat", "alligator", "an alligator"),
        ("a catalogue", "cat", "dog", "a photo of a dog"),
    ],
)
def test_the_word_is_swapped_in_a_caption(caption: str, source: str, target: str, right: str) -> None:
    assert swapped(caption, source, target) == right


class DiesOnce(Replica):
    """Dies by SIGKILL as it is handed its second partition, once."""

    handed = 0

    def translate(self, partition: Partition) -> Manifest:
        mark, self.handed = Path(self.job.config.output, "died"), self.handed + 1
        if self.handed == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().translate(partition)


@pytest.mark.train
@pytest.mark.faults
@pytest.mark.parametrize("pipeline", ARGUMENTS)
def test_another_teachers_run_is_killed_goes_on_is_scored_and_teaches_a_student(
    checkpoints: dict[str, Path], tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch, pipeline: str
) -> None:
    """By Ray, whole. SDEdit with a swapped word, the method's own rival, is by the miniature."""
    given = settings(tmp_path, Path("mini") if pipeline == SDEDIT else checkpoints[pipeline], pipeline)
    alone = translated({**given, "output": str(tmp_path / "alone")})
    config = TranslateConfig.model_validate(given)
    monkeypatch.setattr(replica_module, "Replica", DiesOnce)
    assert p2pz_ray.translate(config).ok == 8
    assert (tmp_path / "run" / "died").exists()
    rows = pairs_of(tmp_path / "run")
    assert {key: pixels(row).tobytes() for key, row in rows.items()} == {
        key: pixels(row).tobytes() for key, row in alone.items()
    }
    lost = next((tmp_path / "run" / "manifest").iterdir())
    lost.unlink()  # as a driver that was killed before it was there
    (tmp_path / "run" / "_SUCCESS").unlink()
    before = data_files(tmp_path / "run")
    assert p2pz_ray.translate(config).ok == 8
    assert pairs_of(tmp_path / "run") == rows
    assert lost.exists()
    assert len(before & data_files(tmp_path / "run")) == len(before) - 1
    assert committed_files(tmp_path / "run") == data_files(tmp_path / "run")
    scored = p2pz_ray.evaluate({"run": config.output, "metrics": {"clip": "mini", "accuracy": "judge"}})
    assert scored.metrics["pairs"]["scored"] == 8
    assert (tmp_path / "run" / "report" / "index.html").is_file()
    p2pz_ray.distill(
        {
            "pairs": {"runs": [config.output], "edit": "cat2dog", "test": 0.0, "duplicates": 0},
            "image": {"size": 16},
            "generator": {"base": 64, "max": 4, "code": 8},
            "discriminator": {"base": 64, "max": 4},
            "losses": {"perceptual_model": None},
            "training": {"steps": 2, "batch": 2, "checkpoint_every": 2, "log_every": 1},
            "output": str(tmp_path / "student"),
        }
    )
    student = p2pz_ray.Student.from_pretrained(str(tmp_path / "student" / "student"))
    assert list(student.repertoire.skills) == ["cat2dog"]
