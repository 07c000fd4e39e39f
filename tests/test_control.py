"""ControlNets and T2I-Adapters say what they say in diffusers' own pipelines, and a sketch is a collection's column."""

import io
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from PIL import Image
from tiny_families import save_tiny_sdxl
from tiny_job import tiny_settings, translated

from p2pz_ray import EditDirection, Editor, InversionSettings
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing.canny import edges
from p2pz_ray.editing.checkpoint.kind import read_json
from p2pz_ray.editing.control import Control, check_control
from p2pz_ray.editing.paper import guided
from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.truth import Truth
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.report.report import write_report

WORDS = ["a photo of a cat", "the cat sleeps in the snow"]


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return save_tiny_sdxl(tmp_path_factory.mktemp("sdxl"), tiny_model / "tokenizer")


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, sdxl: Path) -> dict[tuple[str, str], Path]:
    """(family, kind) → a folder of random weights."""
    made = {}
    for family, folder in (("sd1", tiny_model), ("sdxl", sdxl)):
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        channels = list(unet.config.block_out_channels)
        torch.manual_seed(5)
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8))
        kind: dict[str, Any] = (
            {"adapter_type": "full_adapter_xl", "downscale_factor": 8} if family == "sdxl" else {"downscale_factor": 4}
        )
        channels += channels[-1:] if family == "sdxl" else []
        adapter = T2IAdapter(in_channels=3, channels=channels, num_res_blocks=1, **kind)
        for name, module in (("net", net), ("adapter", adapter)):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
            made[family, name] = tmp_path_factory.mktemp(f"{family}-{name}")
            module.save_pretrained(made[family, name])
    return made


def lines(count: int = 1) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)


PIPELINES = {
    ("sd1", "net"): "StableDiffusionControlNetPipeline",
    ("sd1", "adapter"): "StableDiffusionAdapterPipeline",
    ("sdxl", "net"): "StableDiffusionXLControlNetPipeline",
    ("sdxl", "adapter"): "StableDiffusionXLAdapterPipeline",
}


@pytest.mark.parametrize(("family", "kind"), PIPELINES)
def test_a_guided_prediction_is_that_of_diffusers_own_pipeline(
    family: str, kind: str, tiny_model: Path, sdxl: Path, controls: dict[tuple[str, str], Path]
) -> None:
    checkpoint, folder = {"sd1": tiny_model, "sdxl": sdxl}[family], controls[family, kind]
    module = (ControlNetModel if kind == "net" else T2IAdapter).from_pretrained(folder)
    own: dict[str, Any] = {"controlnet" if kind == "net" else "adapter": module}
    if family == "sd1":
        own |= {"safety_checker": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers, PIPELINES[family, kind]).from_pretrained(checkpoint, **own)
    pipeline.set_progress_bar_config(disable=True)
    x = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}

    class Seen(Exception):  # noqa: N818
        pass

    def step(noise: torch.Tensor, t: torch.Tensor, *_: object, **__: object) -> None:
        seen.update(noise=noise, t=t)
        raise Seen

    pipeline.scheduler.set_timesteps(3)
    pipeline.scheduler.scale_model_input = lambda latents, t: x.repeat(len(latents), 1, 1, 1)
    pipeline.scheduler.step = step
    scale = "controlnet_conditioning_scale" if kind == "net" else "adapter_conditioning_scale"
    with pytest.raises(Seen):
        pipeline(
            WORDS[1], negative_prompt=WORDS[0], image=Image.fromarray(lines()[0]), height=64, width=96,
            num_inference_steps=3, guidance_scale=5.0, latents=x, **{scale: 0.7},
        )  # fmt: skip
    predictions = []
    for weight in (0.7, 0.0):
        editor = Editor.from_pretrained(checkpoint, controls=[Control(folder, weight)])
        hints = editor.controls.hints([lines()])
        c_neg, c = (editor.model.embed([words]).shown(hints) for words in WORDS)
        with torch.no_grad():
            predictions.append(guided(editor.model, x, int(seen["t"]), c_neg, c, 5.0, 0.5)[0])
    torch.testing.assert_close(predictions[0], seen["noise"], rtol=1e-4, atol=1e-4)
    assert (predictions[1] - predictions[0]).abs().max() > 1e-2


def edited(model: Path, told: list[Control], act: Any = "edit", rows: slice = slice(None)) -> Any:
    editor = Editor.from_pretrained(
        model,
        inversion=InversionSettings(steps=3),
        controls=told,
        controls_act=act,
    )
    images = np.random.default_rng(3).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    given = [lines(2)[rows] if control.source == "given" else None for control in told]
    inversion = editor.invert(images[rows], WORDS[rows], [1, 2][rows], given)
    dog: list[EditDirection] = [editor.direction(["a cat"], [f"a {word}"]) for word in ("dog", "horse")]
    return inversion, editor.edit_latents(inversion, dog)


def test_several_act_each_image_as_if_alone_and_weight_0_is_none(
    tiny_model: Path, controls: dict[tuple[str, str], Path]
) -> None:
    net, adapter = controls["sd1", "net"], controls["sd1", "adapter"]
    plain, without = edited(tiny_model, [])
    _, weightless = edited(tiny_model, [Control(net, 0.0), Control(adapter, 0.0)], "all")
    assert torch.equal(weightless, without)
    made = {}
    for act in ("edit", "all"):
        told = [Control(net), Control(adapter, 0.5), Control(net, 0.3, "edges")]
        inversion, made[act] = edited(tiny_model, told, act)
        assert torch.equal(inversion.trajectory[-1], plain.trajectory[-1]) == (act == "edit")
        _, alone = edited(tiny_model, told, act, slice(1, 2))
        torch.testing.assert_close(alone[0], made[act][1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(made["edit"], without, atol=1e-2)
    assert not torch.allclose(made["edit"], made["all"], atol=1e-3)


def test_what_is_no_control_or_of_another_family_is_refused(
    tiny_model: Path, sdxl: Path, controls: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    for kind in ("net", "adapter"):
        for control, model in ((controls["sdxl", kind], tiny_model), (controls["sd1", kind], sdxl)):
            with pytest.raises(ConfigError, match="made for another family"):
                check_control(control, read_json(model / "unet" / "config.json"))
    for wrong, says in ((tmp_path, "no ControlNet"), (tiny_model / "unet", "is a UNet2DConditionModel")):
        with pytest.raises(ConfigError, match=says):
            Editor.from_pretrained(tiny_model, controls=[Control(wrong)])
    with pytest.raises(ConfigError, match="form official doesn't support conditions"):
        Editor.from_pretrained(tiny_model, controls=[Control(controls["sd1", "net"])], parity="official")


def test_a_sketch_is_a_column_and_one_that_is_missing_or_broken_an_error_row(
    tiny_model: Path, controls: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    given: dict[str, Any] = tiny_settings(tmp_path, tiny_model, images=3, per_partition=3)
    [file] = (tmp_path / "world").glob("*.parquet")
    table = pq.read_table(file)
    sketches = [table["mask"][0].as_py(), None, {"bytes": b"no picture", "path": None}]
    pq.write_table(table.append_column("sketch", pa.array(sketches, table.schema.field("mask").type)), file)
    plain = translated(given | {"output": str(tmp_path / "plain")})
    net = str(controls["sd1", "net"])
    conditions = [{"model": net, "column": "sketch"}, {"model": net, "from": "edges"}]
    pairs = translated(given | {"conditions": conditions, "output_format": {"conditions": True}})
    first, missing, broken = (pairs[id, "cat2dog"] for id in table["id"].to_pylist())
    assert first["error"] is None
    assert first["edited_image"] != plain[first["id"], "cat2dog"]["edited_image"]
    assert missing["error"] == "It has no sketch."
    assert broken["error"].startswith("Its sketch can't be used: ")
    source, sketch, lines = (
        Image.open(io.BytesIO(first[name]["bytes"])).convert("RGB")
        for name in ("source_image", "condition_1", "condition_2")
    )
    assert sketch.tobytes() == Image.open(io.BytesIO(sketches[0]["bytes"])).convert("RGB").resize(source.size).tobytes()
    assert np.array_equal(np.asarray(lines), edges(np.asarray(source)))
    assert missing["condition_1"] is None
    page = Path(write_report(given["output"])).read_text()
    assert page.count("condition 1") == page.count("condition 2") > 0


@pytest.mark.slow
def test_the_miniatures_own_controlnet_draws_the_edit_where_the_sketch_says(tmp_path: Path) -> None:
    folder = write_world(str(tmp_path / "world"), 6, seed=4)
    given: dict[str, Any] = {
        "input": {"uri": folder},
        "edits": {"cat2dog": {"source": "cat", "target": "dog"}},
        "inversion": {"steps": 5},
    }
    sketched = {"conditions": [{"model": "mini", "column": "sketch_cat2dog"}]}
    truth, errors = Truth(folder), []
    for name, more in (("plain", {}), ("sketched", sketched)):
        pairs = translated({**given, **more, "output": str(tmp_path / name)})
        found = [
            truth.error(*key, row["source_image"]["bytes"], row["edited_image"]["bytes"]) for key, row in pairs.items()
        ]
        errors.append(np.mean([error.edited for error in found if error]))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "give it column, or from: edges"),
        ({"column": "a", "from": "edges"}, "give it column, or from: edges"),
        ({"from": "depth"}, "no depth model is here"),
    ],
)
def test_a_condition_without_its_picture_is_refused(values: dict[str, str], says: str) -> None:
    given = {"input": {"uri": "a"}, "output": "b", "edits": {"e": {"source": "cat", "target": "dog"}}}
    with pytest.raises(ValueError, match=says):
        TranslateConfig.model_validate({**given, "conditions": [{"model": "c", **values}]})


def test_edges_are_one_pixel_wide_where_the_picture_steps() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 8:] = 255
    found = edges(picture)[..., 0]
    assert set(np.unique(found)) == {0, 255}
    assert (found > 0).sum(axis=1).tolist() == [1] * 16
    assert set(np.argmax(found, axis=1).tolist()) <= {7, 8}
    assert not edges(np.full((16, 16, 3), 90, np.uint8)).any()
