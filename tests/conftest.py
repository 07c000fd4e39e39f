"""Checkpoints of the real layout with a few random weights, for tests that need no trained model; and what the whole
run of the tests holds them to (P2PZ_STRICT=1)."""

import json
import os
import resource
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's workers hardly run beside other tests

import pytest
import ray
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from gcs_server import gcs_server
from s3_server import s3_server
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

torch.set_num_threads(1)
# A worker of pytest-xdist ignores Ctrl-C, and what a test starts and ends by it would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


STRICT = os.environ.get("P2PZ_STRICT") == "1"
LONG = {"ray", "faults", "train", "slow"}
LONGEST = 10.0
"""Seconds of processor time, this process's and its children's, that a test without one of the marks above may take.
It is to take half as long; a busy machine doubles it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "local_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips for want of a package, or is long and doesn't say so, fails where that is asked for."""
    report = yield
    if not STRICT:
        return report
    if report.skipped and "could not import" in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped: {report.longrepr[-1]}"
    elif report.when == "call" and report.passed and not LONG & {mark.name for mark in item.iter_markers()}:
        spent = _processor_seconds() - item.stash[_STARTED]
        if spent > LONGEST:
            report.outcome, report.longrepr = "failed", f"{item.nodeid} took {spent:.1f} s: shorten it, or mark it."
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    item.stash[_STARTED] = _processor_seconds()


_STARTED = pytest.StashKey[float]()


def _processor_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def save_tiny_checkpoint(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a Stable Diffusion 1.x-layout pipeline: 64 px, 16×16×4 latents, some ten thousand random weights."""
    torch.manual_seed(seed)
    words = folder / "words"
    words.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789-'.,")
    vocabulary = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=24)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    parts = (vae, text, tokenizer, unet, scheduler)
    pipeline = StableDiffusionPipeline(
        *parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ε-prediction checkpoint."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v-prediction checkpoint."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny_v"), "v_prediction", seed=1)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray on this machine for all tests that need one in their own process; `translate` uses it as it finds it."""
    os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 32)  # as the project does, so that no token lands in the home folder
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Options of an S3 with the bucket "bucket"."""
    with s3_server() as options:
        yield options


@pytest.fixture(scope="module")
def gs() -> Iterator[dict[str, Any]]:
    """Options of a GCS with the bucket "bucket"."""
    with gcs_server() as options:
        yield options
