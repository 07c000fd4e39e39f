"""A second run over the same images with other words inverts nothing, and a bad cache costs time and nothing else."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_job import pairs_of, tiny_settings

from p2pz_ray.config import TranslateConfig, difference, fingerprint, record
from p2pz_ray.errors import ConfigError
from p2pz_ray.running.log import LOG
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.translator import Translator

IMAGES, STEPS = 3, 2
HORSE = {"cat2horse": {"source": "cat", "target": "horse", "count": 4}}


def settings(folder: Path, model: Path, run: str = "run", **inversion: Any) -> dict[str, Any]:
    given = tiny_settings(folder, model, images=IMAGES, per_partition=IMAGES)
    cache = {"cache": str(folder / "cache")}
    # One image a batch: with others beside it its numbers are rounded otherwise, and these tests compare bytes.
    given |= {"output": str(folder / run), "batch_size": 1}
    return {**given, "inversion": {"steps": STEPS, **cache, **inversion}}


def run(given: dict[str, Any]) -> tuple[int, dict]:
    """Translate without Ray: how many pictures the UNet was asked about, and the pairs."""
    prepared = prepare(TranslateConfig.model_validate(given))
    assert prepared is not None
    job, plan = prepared
    translator = Translator(job)
    asked = 0

    def count(_: torch.nn.Module, args: tuple) -> None:
        nonlocal asked
        asked += len(args[0])

    translator.engine.editor.model.unet.register_forward_pre_hook(count)
    for partition in plan.partitions:
        translator.translate(partition)
    return asked, pairs_of(given["output"])


def test_other_words_need_no_inversion_and_make_the_same_pairs(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, expected = run({**settings(tmp_path, tiny_model, "plain", cache=None), "edits": HORSE})
    run(settings(tmp_path, tiny_model))
    LOG.propagate = True
    with caplog.at_level(logging.INFO, "p2pz_ray"):
        asked, pairs = run({**settings(tmp_path, tiny_model, "other"), "edits": HORSE})
    assert plain - asked == IMAGES * STEPS
    assert {key: row["status"] for key, row in pairs.items()} == dict.fromkeys(expected, "ok")
    assert pairs == expected
    entries = [entry for entry in caplog.records if entry.getMessage() == "inversions taken from the cache"]
    said = {entry.p2pz["partition"]: entry.p2pz for entry in entries}  # type: ignore[attr-defined]
    assert [(found["cached"], found["images"]) for found in said.values()] == [(IMAGES, IMAGES)]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def broken(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "cut off":
        file.write_bytes(data[: len(data) // 2])
    elif how == "no table":
        file.write_bytes(b"something else")
    elif how == "a flipped bit":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif how == "another table":
        pq.write_table(pa.table({"key": ["a"], "trajectory": [1.0]}), file)
    elif how == "another shape":
        table = pq.read_table(file)
        short = [value.as_py()[:64] for value in table["trajectory"]]
        pq.write_table(table.set_column(2, "trajectory", pa.array(short, pa.binary())), file)
    elif how == "a folder in its place":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize(
    "how", ["cut off", "no table", "a flipped bit", "another table", "another shape", "a folder in its place"]
)
def test_a_damaged_or_foreign_cache_is_made_again(tiny_model: Path, tmp_path: Path, how: str) -> None:
    whole, expected = run(settings(tmp_path, tiny_model))
    [file] = (tmp_path / "cache").iterdir()
    broken(file, how)
    asked, pairs = run(settings(tmp_path, tiny_model, "again"))
    # What was read before the flipped bit was met is good.
    assert asked == whole or (how == "a flipped bit" and whole - IMAGES * STEPS < asked < whole)
    assert pairs == expected
    if how != "a folder in its place":
        asked, pairs = run(settings(tmp_path, tiny_model, "third"))
        assert asked == whole - IMAGES * STEPS
        assert pairs == expected


@pytest.mark.slow
def test_another_caption_seed_setting_or_model_is_another_inversion(
    tiny_model: Path, tiny_v_model: Path, tmp_path: Path
) -> None:
    whole, _ = run(settings(tmp_path, tiny_model))
    others: dict[str, dict[str, Any]] = {
        "caption": {"captions": {"column": None, "otherwise": "a drawing"}},
        "seed": {"seed": 1},
        "regularization": {"inversion": {"steps": STEPS, "rolls": 2, "cache": str(tmp_path / "cache")}},
        "model": {"model": str(tiny_v_model)},
    }
    for name, other in others.items():
        asked, _ = run({**settings(tmp_path, tiny_model, name), **other})
        assert asked == whole, name


def test_a_seed_matters_only_where_shifts_are_drawn(tiny_model: Path, tmp_path: Path) -> None:
    whole, _ = run(settings(tmp_path, tiny_model, regularization="none"))
    asked, _ = run({**settings(tmp_path, tiny_model, "other", regularization="none"), "seed": 1})
    assert asked == whole - IMAGES * STEPS


def test_the_cache_is_no_part_of_what_a_run_is(tiny_model: Path, tmp_path: Path) -> None:
    with_one, without = (
        TranslateConfig.model_validate(settings(tmp_path, tiny_model, cache=cache))
        for cache in (str(tmp_path / "cache"), None)
    )
    assert fingerprint(with_one) == fingerprint(without)
    assert difference(record(with_one), record(without)) == []
    assert "key" not in json.dumps(record(with_one.model_copy(update={"inversion": _secret(with_one)})))


def _secret(config: TranslateConfig) -> Any:
    return replace(config.inversion, cache_storage_options={"key": "of mine"})


def test_a_cache_among_the_images_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    given = settings(tmp_path, tiny_model, cache=str(tmp_path / "world" / "cache"))
    with pytest.raises(ConfigError, match=r"inversion\.cache .* lies inside input\.uri"):
        prepare(TranslateConfig.model_validate(given))
