"""Captions: an image's own, a captioning model's, or a fixed sentence."""

import threading
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from tiny_blip import SIZE, save_tiny_blip

from p2pz_ray.errors import ConfigError
from p2pz_ray.language import checkpoint
from p2pz_ray.language.captions import Blip, Captioner


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_blip(tmp_path_factory.mktemp("blip")))


def pictures(count: int, sides: Sequence[tuple[int, int]] = ((40, 56), (64, 64), (20, 90))) -> list[np.ndarray]:
    """Pictures of several sizes, each with another colour under its noise."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 226, (count, 3))
    return [(colours[i] + rng.integers(0, 30, (*sides[i % len(sides)], 3))).astype(np.uint8) for i in range(count)]


def test_an_image_s_own_caption_comes_first_and_a_blank_one_counts_as_none() -> None:
    captioner = Captioner("a photo of a cat")
    given = ["my  cat\n", None, "", " \t"]
    assert captioner(pictures(4), given) == ["my cat", "a photo of a cat", "a photo of a cat", "a photo of a cat"]


def test_a_captioning_model_sees_only_images_without_a_caption(tiny_blip: str) -> None:
    blip = Blip(tiny_blip)
    images = pictures(4)
    captions = Captioner("fallback", blip)(images, ["one", None, "three", None])
    expected = [text or "fallback" for text in blip([images[1], images[3]])]
    assert captions == ["one", expected[0], "three", expected[1]]


def test_where_the_model_writes_nothing_the_fixed_sentence_stands() -> None:
    class Speechless(Blip):
        def __init__(self) -> None:
            pass

        def __call__(self, images: Sequence[np.ndarray]) -> list[str]:
            return [""] * len(images)

    assert Captioner("a photo of a cat", Speechless())(pictures(2), [None, "x"]) == ["a photo of a cat", "x"]


def test_a_model_s_captions_are_words_of_its_own_and_the_same_alone_as_in_a_batch(tiny_blip: str) -> None:
    blip = Blip(tiny_blip, max_new_tokens=8)
    images = pictures(6)
    together = blip(images)
    assert together == [blip([image])[0] for image in images]
    assert len(set(together)) > 1
    assert not any("[" in text for text in together)
    assert blip([]) == []


def test_pixels_are_what_the_library_s_own_processor_makes(tiny_blip: str) -> None:
    # The PIL processor, which needs no torchvision, has another name in transformers 4.
    try:
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil as Processor
    except ImportError:
        from transformers import BlipImageProcessor as Processor
    blip = Blip(tiny_blip)
    for image in pictures(3):
        expected = Processor.from_pretrained(tiny_blip)(image, return_tensors="pt").pixel_values[0]
        assert blip.pixels(image).shape == (3, SIZE, SIZE)
        torch.testing.assert_close(blip.pixels(image), expected, atol=1e-5, rtol=0)


def test_a_checkpoint_out_of_reach_is_refused_in_one_sentence_naming_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ["nobody/no-such-model", str(tmp_path), str(tmp_path / "absent")]:
        with pytest.raises(ConfigError) as caught:
            Blip(name)
        message = str(caught.value)
        assert name in message
        assert "captions.model" in message
        assert "\n" not in message


def test_a_repository_that_the_hub_does_not_have_is_refused_naming_it_and_its_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Absent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    hub = ThreadingHTTPServer(("127.0.0.1", 0), Absent)
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    local = partial(HfApi, endpoint=f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setattr(checkpoint, "HfApi", local)
    try:
        with pytest.raises(ConfigError) as caught:
            Blip("nobody/no-such-model", revision="abc")
    finally:
        hub.shutdown()
        hub.server_close()
    assert "no model nobody/no-such-model at revision abc" in str(caught.value)
    assert "captions.model" in str(caught.value)
    assert "\n" not in str(caught.value)
