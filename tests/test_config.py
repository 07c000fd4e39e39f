"""Configurations: what loads, what is refused and with which sentence, and when two runs are the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from p2pz_ray.config import DirectionConfig, TranslateConfig, difference, fingerprint, load, record
from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.editing.settings import GuidanceSettings, InversionSettings
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import Template, TextFile
from p2pz_ray.report.ablation import AblationConfig

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = ["input.uri=photos", "edits.cat2dog={source: cat, target: dog}", "output=runs/x"]


def small(*overrides: str) -> TranslateConfig:
    return load(None, [*SMALL, *overrides], TranslateConfig)


def refusal(*overrides: str, path: Path | None = None, kind: Any = TranslateConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(path) if path else None, [*(SMALL if path is None else []), *overrides], kind)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "pydantic" not in message
    return message


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    kinds: dict[str, Any] = {
        "direction": DirectionConfig,
        "distill": DistillConfig,
        "evaluate": EvaluateConfig,
        "ablation": AblationConfig,
    }
    kind = kinds.get(path.name.split("-")[0].removesuffix(".yaml"), TranslateConfig)
    config = load(str(path), [], kind)
    assert (config.run if kind is EvaluateConfig else config.output).startswith("runs/")


def test_a_direction_needs_no_file() -> None:
    config = load(None, ["source=cat", "target=dog", "output=cat2dog.safetensors"], DirectionConfig)
    assert (config.model.name, config.source, config.target, config.count) == ("mini", "cat", "dog", 1000)
    assert config.sentences.source("source") == Template()


def test_overrides_win_over_the_file_and_are_typed_as_yaml(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: mini\ninput: {uri: a}\nedits: {e: {source: cat, target: dog}}\noutput: o\nseed: 1\n")
    overrides = [
        "seed=7",
        "input.uri=s3://bucket/b=c",
        "image.size=[64, 96]",
        "guidance.lambda_xa=1e-3",
        "guidance.cfg=3",
        'guidance.negative=""',
        "captions.column=",
        "edits.e.strength=1.5",
        "input.storage_options.client_kwargs.endpoint_url=http://localhost:9000",
    ]
    config = load(str(path), overrides, TranslateConfig)
    assert config.seed == 7
    assert config.input.uri == "s3://bucket/b=c"
    assert config.image.size == (64, 96)
    assert (config.guidance.lambda_xa, config.guidance.cfg, config.guidance.negative) == (0.001, 3.0, "")
    assert config.captions.column is None
    assert config.edits["e"].strength == 1.5
    assert config.input.storage_options == {"client_kwargs": {"endpoint_url": "http://localhost:9000"}}


TEXTS = [
    *("x/cats #2", "#1", "[new] cats", "{old} cats", "%cats", "@x", "*.png", "&x", "!x", "|", ">", "- x", "? x", "`x"),
    *("2024", "1e3", "0x1F", "1_000", "yes", "off", "true", "null", "~", "2024-02-30", "12:30", "a: b: c", "a:", "---"),
    *("it's", 'a "b" c', "'", " x ", "x\\n", "Läufe/写真", "caf\udce9"),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "key",
    [
        "input.uri",
        "output",
        "edits.cat2dog.sentences.endpoint.model",
        "model",
        "model.name",
        "input.columns.id",
        "guidance.negative",
    ],
)
def test_a_text_is_set_as_it_stands(key: str, text: str) -> None:
    endpoint = "edits.cat2dog.sentences.endpoint={base_url: http://h/v1, model: m}"
    found: Any = small(endpoint, f"{key}={text}")
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert (found.name if key == "model" else found) == text


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_is_read_where_a_text_may_be_left_out(text: str) -> None:
    assert small(f"captions.column={text}").captions.column is None
    assert small("captions.column=nulls").captions.column == "nulls"


@pytest.mark.parametrize(
    ("value", "text"), [("'a #b'", "a #b"), ('"[x]"', "[x]"), ('"tab\\t"', "tab\t"), ("''", ""), ("'a' b'", "'a' b'")]
)
def test_quotation_marks_around_a_whole_text_are_taken_off(value: str, text: str) -> None:
    assert small(f"guidance.negative={value}").guidance.negative == text


def test_lists_mappings_and_numbers_are_read_where_the_key_takes_them() -> None:
    config = small("guidance.layers=[mid_block, 'up #1']", "edits={e: {source: cat, target: dog, strength: 2.0}}")
    assert config.guidance.layers == ["mid_block", "up #1"]
    assert config.edits["e"].strength == 2.0
    free = small("input.storage_options.a=5", "input.storage_options.b=x #y", "input.storage_options.c=[1, x]")
    assert free.input.storage_options == {"a": 5, "b": "x #y", "c": [1, "x"]}
    assert load(None, ["pairs.runs=x #2", "output=o"], DistillConfig).pairs.runs == ["x #2"]
    assert load(None, ["pairs.runs=[x, y]", "output=o", "export=[onnx]"], DistillConfig).pairs.runs == ["x", "y"]
    evaluation = load(None, ["run=2024", "metrics.clip=[new] clip", "metrics.pixels=off"], EvaluateConfig)
    assert (evaluation.run, evaluation.metrics.pixels) == ("2024", False)
    assert evaluation.metrics.clip.model.name == "[new] clip"


def test_an_override_of_one_alias_leaves_the_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("input: {uri: a}\noutput: o\nedits:\n  a: &e {source: cat, target: dog}\n  b: *e\n")
    config = load(str(path), ["edits.a.strength=2.0"], TranslateConfig)
    assert (config.edits["a"].strength, config.edits["b"].strength) == (2.0, 1.0)


def test_short_forms_stand_for_the_long_ones() -> None:
    config = small("model=mini", "image.size=128", "captions.model=blip", "edits.cat2dog.sentences=template")
    assert config == small("model={name: mini}", "image.size=[128, 128]", "captions.model.name=blip")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("inversion.stepz=5", ["no key inversion.stepz", "did you mean inversion.steps"]),
        ("steps=5", ["no key steps", "did you mean inversion.steps"]),
        ("lambda_x=5", ["did you mean guidance.lambda_xa"]),
        ("edits.cat2dog.sorce=cat", ["did you mean edits.cat2dog.source"]),
        ("replicas.qqq=1", ["no key replicas.qqq", "replicas has count, min, max"]),
        ("seed=many", ["seed is 'many'", "a whole number"]),
        ("seed=1.5", ["seed is 1.5", "a whole number"]),
        ("seed=-1", ["seed is -1", "at least 0"]),
        ("inversion.steps=true", ["inversion.steps is true", "a whole number"]),
        (
            "inversion.regularization=all",
            ["inversion.regularization is 'all'", "'sampled', 'full', 'official' or 'none'"],
        ),
        ("guidance.cfg=.nan", ["guidance.cfg", "finite"]),
        ("tolerance.failed_images=2", ["tolerance.failed_images is 2", "at most 1"]),
        ("model={name: m, revision: 1234567}", ["model.revision is 1234567", "quotes"]),
        ("output=", ["output is null", "text"]),
        ('output=""', ["output is empty"]),
        ("image.size=[64]", ["image.size is [64]", "[HEIGHT, WIDTH]"]),
        ("image.size=4", ["image.size is 4", "at least 8"]),
        ("edits={}", ["edits is empty"]),
        ("edits=cat2dog", ["edits is 'cat2dog'", "a mapping"]),
        ("edits.cat2dog={source: cat}", ["edits.cat2dog names no edit", "source and target"]),
        ("edits.cat2dog.direction=d.safetensors", ["edits.cat2dog has a direction and words"]),
        ("edits={a/b: {source: cat, target: dog}}", ["edits names an edit 'a/b'"]),
        ("edits={d: {direction: d.safetensors}}", ["captions.otherwise is missing"]),
        (
            "edits.cat2dog.sentences={text_model: m, files: {source: a, target: b}}",
            ["edits.cat2dog.sentences has both files and text_model"],
        ),
        (
            "edits.cat2dog.sentences.endpoint={base_url: http://h/v1, model: m, api_key: sk-secret}",
            ["no key edits.cat2dog.sentences.endpoint.api_key", "api_key_env"],
        ),
        ("replicas={count: 2, min: 1}", ["replicas has count together with min or max"]),
        ("replicas={min: 3, max: 2}", ["replicas has min 3 above max 2"]),
        ("seed", ["'seed'", "KEY=VALUE"]),
        ("=3", ["'=3'", "KEY=VALUE"]),
        ("input..uri=x", ["KEY=VALUE"]),
        ("output.uri=x", ["Can't set output.uri", "output is 'runs/x'"]),
        ("image.size=[64, 64", ["image.size", "not valid YAML"]),
        ("seed=5 #6", ["seed is '5 #6'", "a whole number"]),
        ("seed=[5]", ["seed is [5]", "a whole number"]),
        ("device=[cpu]", ["device is '[cpu]'"]),
    ],
)
def test_a_wrong_override_is_refused_in_one_sentence_that_names_the_key(override: str, parts: list[str]) -> None:
    message = refusal(override)
    for part in parts:
        assert part in message


def test_secrets_are_not_repeated_in_a_refusal() -> None:
    assert "sk-secret" not in refusal(
        "edits.cat2dog.sentences.endpoint={base_url: http://h/v1, model: m, api_key: sk-secret}"
    )
    assert "sk-secret" not in refusal("input.storage_options=sk-secret")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"input: {uri: x}\noutput: [o\n", ["line 3"]),
        (b"seed: 1\noutput: o\nseed: 2\n", ["line 3", "'seed' stands twice"]),
        (b"\ttabs: 1\n", ["line 1"]),
        (b"- a\n- b\n", ["no mapping"]),
        (b"\xff\xfe\xfa", ["not valid YAML"]),
        (b"input: {uri: x}\nedits: {e: {source: cat, target: dog}}\n", ["output is missing", "output=VALUE"]),
        (b"", ["input is missing"]),
        (b"!!python/object/apply:os.system [ls]\n", ["line 1"]),
    ],
)
def test_a_broken_file_is_refused_naming_file_and_line_or_key(tmp_path: Path, text: bytes, parts: list[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(text)
    message = refusal(path=path)
    assert str(path) in message
    for part in parts:
        assert part in message


def test_a_missing_file_or_a_folder_is_refused_naming_it(tmp_path: Path) -> None:
    assert f"no configuration file {tmp_path}/absent.yaml" in refusal(path=tmp_path / "absent.yaml")
    assert str(tmp_path) in refusal(path=tmp_path)


def test_the_fallback_caption_names_the_source_unless_it_is_set() -> None:
    assert small().caption_otherwise == "a photo of a cat"
    assert small("edits.cat2dog.source=owl").caption_otherwise == "a photo of an owl"
    assert small("captions.otherwise=a drawing").caption_otherwise == "a drawing"


def test_replicas_are_a_fixed_number_or_between_bounds() -> None:
    assert small().replicas.bounds == (1, 1)
    assert small("replicas.count=4").replicas.bounds == (4, 4)
    assert small("replicas.max=8").replicas.bounds == (1, 8)
    assert small("replicas={min: 2, max: 8}").replicas.bounds == (2, 8)


def test_sentence_settings_name_one_source_a_side() -> None:
    files = small("edits.cat2dog.sentences.files={source: cat.txt, target: dog.txt}").edits["cat2dog"].sentences
    assert files.source("source") == TextFile("cat.txt")
    assert files.source("target") == TextFile("dog.txt")
    endpoint = small("edits.cat2dog.sentences.endpoint={base_url: http://h/v1, model: m}").edits["cat2dog"]
    assert endpoint.sentences.source("target").base_url == "http://h/v1"  # type: ignore[attr-defined]
    model = small("edits.cat2dog.sentences.text_model=folder").edits["cat2dog"].sentences
    assert model.source("source", device="cuda").device == "cuda"  # type: ignore[attr-defined]


def test_settings_have_the_method_s_own_fields_and_defaults() -> None:
    config = small()
    assert config.inversion.settings == InversionSettings()
    assert config.guidance == GuidanceSettings()


def test_only_keys_that_decide_pixels_or_rows_change_the_fingerprint() -> None:
    same = small(
        "replicas.count=7",
        "ray.address=auto",
        "tolerance.failed_images=0.5",
        "batch_size=1",
        "device=cpu",
        "output=elsewhere",
        "input.storage_options.key=k",
        "output_storage_options.key=k",
    )
    assert fingerprint(same) == fingerprint(small())
    assert difference(record(same), record(small())) == []
    deciding = [
        "seed=1",
        "model=other",
        "input.uri=other",
        "input.max_images=3",
        "image.fit=pad",
        "captions.otherwise=x",
        "edits.cat2dog.strength=1.1",
        "edits.cat2dog.count=10",
        "edits.other={source: a, target: b}",
        "edits.cat2dog.sentences.text_model=m",
        "output_format.format=jpeg",
        "inversion.steps=20",
        "guidance.cfg=2",
        "dtype=float16",
    ]
    for override in deciding:
        assert fingerprint(small(override)) != fingerprint(small()), override


def test_the_difference_names_each_key_with_its_old_and_new_value() -> None:
    old, new = record(small()), record(small("seed=3", "edits.zebra={source: horse, target: zebra}", "batch_size=2"))
    lines = difference(old, new)
    assert "seed was 0 and is 3" in lines
    assert 'edits.zebra.source was not set and is "horse"' in lines
    assert not any("batch_size" in line for line in lines)
    # Sources that come and go with a section show too.
    swapped = record(small("edits.cat2dog.sentences.files={source: a, target: b}"))
    assert any("edits.cat2dog.sentences.files" in line for line in difference(old, swapped))


def test_a_record_is_a_configuration_again_without_storage_options(tmp_path: Path) -> None:
    config = small("image.size=[64, 32]", "input.storage_options.secret=hunter2", "seed=5")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(record(config)))
    assert "hunter2" not in path.read_text()
    again = load(str(path), [], TranslateConfig)
    assert fingerprint(again) == fingerprint(config)
    assert again.image.size == (64, 32)


def test_three_sizes_of_a_student_are_one_recipe() -> None:
    folder = Path(__file__).parents[1] / "configs" / "mini"
    sizes = [load(str(folder / f"distill-{size}.yaml"), [], DistillConfig) for size in ("tiny", "small", "base")]
    recipes = [config.model_dump(exclude={"generator", "output"}) for config in sizes]
    assert recipes[0] == recipes[1] == recipes[2]
    wide = [config.generator.model_dump(exclude={"base", "max", "code"}) for config in sizes]
    assert wide[0] == wide[1] == wide[2]
    assert sizes[0].generator.base < sizes[1].generator.base < sizes[2].generator.base
