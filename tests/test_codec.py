"""Any file may be given to the decoder: it comes out as pixels of the stated size, or as a sentence."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from p2pz_ray.collection.codec import DecodePolicy, decode, encode
from p2pz_ray.errors import ConfigError, ImageError

POLICY = DecodePolicy((32, 32))
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def quarters(size: int = 32) -> np.ndarray:
    """Red, green, blue and white quarters: every flip and turn of it is told apart."""
    pixels = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    pixels[:half, :half], pixels[:half, half:] = (255, 0, 0), (0, 255, 0)
    pixels[half:, :half], pixels[half:, half:] = (0, 0, 255), (255, 255, 255)
    return pixels


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size, with next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def assert_sentence(error: ImageError) -> None:
    text = str(error)
    assert text[0].isupper()
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_png_of_the_policys_size_keeps_its_exact_pixels(fit: str) -> None:
    pixels = noise(32, 32)
    assert np.array_equal(decode(encode(pixels), DecodePolicy((32, 32), fit)), pixels)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"once upon a time", "not an image"),
        (b"<!DOCTYPE html><html></html>", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (encode(noise(64, 64))[:4000], "can't be decoded"),
        (encode(noise(64, 64), "jpeg")[:2000], "can't be decoded"),
        (encode(noise(64, 64), "webp")[:2000], ""),
        (png_header(1, 1), "1 × 1 pixels"),
        (png_header(5, 4000), "5 × 4000 pixels"),
        (png_header(11_000, 11_000), "more than the 100,000,000 allowed"),
        (png_header(60_000, 60_000), "exhaust memory"),
        (png_header(32, 32), "can't be decoded"),
        (b"%PDF-1.7 drawing", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image"),
        (bytes(POLICY.max_bytes + 1), "bytes, more than"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[:8]!r}…{len(value)}",
)
def test_what_is_no_usable_image_is_refused_with_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, POLICY)
    assert_sentence(caught.value)
    assert words in str(caught.value)


def test_a_small_pixel_limit_is_kept_and_a_large_one_allows_more_than_pillow_warns_of() -> None:
    data = encode(noise(40, 50))
    with pytest.raises(ImageError, match="50 × 40"):
        decode(data, DecodePolicy((32, 32), max_pixels=1999))
    assert decode(data, DecodePolicy((32, 32), max_pixels=2000)).shape == (32, 32, 3)
    large = saved(Image.new("1", (10_000, 9_000)))  # Pillow warns from 89,478,485 pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(large, POLICY).shape == (32, 32, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_turns_the_picture_upright(orientation: int, format: str) -> None:
    stored_to_upright = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    data = saved(Image.fromarray(quarters()), format, exif=exif, **options)
    expected = stored_to_upright[orientation](quarters()).astype(int)
    centres = np.ix_((8, 24), (8, 24))
    assert np.abs(decode(data, POLICY)[centres].astype(int) - expected[centres]).max() <= 3


def test_broken_exif_leaves_the_picture_usable() -> None:
    data = saved(Image.fromarray(quarters()), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff broken")
    assert decode(data, POLICY).shape == (32, 32, 3)


def test_transparency_shows_the_background_in_every_mode_that_has_it() -> None:
    grey = np.full((32, 32), 100, np.uint8)
    opacity = np.zeros((32, 32), np.uint8)
    opacity[:, 16:] = 255
    with_alpha = Image.fromarray(np.dstack([grey, grey, grey, opacity]))
    palette = Image.fromarray((opacity > 0).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 100, 100, 100])
    files = [
        saved(with_alpha),
        saved(with_alpha.convert("LA")),
        saved(with_alpha, "WEBP", lossless=True),
        saved(palette, transparency=0),
        saved(palette, "GIF", transparency=0),
        saved(Image.fromarray(opacity // 255 * 100), transparency=0),
    ]
    for data in files:
        pixels = decode(data, DecodePolicy((32, 32), background=(10, 20, 30)))
        assert pixels[5, 3].tolist() == [10, 20, 30]
        assert pixels[5, 28].tolist() == [100, 100, 100]
    assert decode(files[0], POLICY)[5, 3].tolist() == [255, 255, 255]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.repeat(np.linspace(0, 65535, 32)[None], 32, axis=0)
    expected = np.round(ramp / 257)
    files = [
        saved(Image.fromarray(ramp.astype(np.uint16))),
        saved(Image.fromarray(ramp.astype(np.uint16)), "TIFF"),
        saved(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        saved(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"),
        b"P5 32 32 65535\n" + ramp.astype(">u2").tobytes(),
    ]
    for data in files:
        assert np.abs(decode(data, POLICY) - expected[..., None]).max() <= 1


@pytest.mark.parametrize("value", [70_000, -1])
def test_integers_beyond_sixteen_bits_are_refused(value: int) -> None:
    with pytest.raises(ImageError, match="beyond 16 bits"):
        decode(saved(Image.fromarray(np.full((32, 32), value, np.int32)), "TIFF"), POLICY)


@pytest.mark.parametrize("value", [1e6, -0.5, np.nan])
def test_floats_of_unknown_scale_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="floating-point"):
        decode(saved(Image.fromarray(np.full((32, 32), value, np.float32)), "TIFF"), POLICY)


def test_greyscale_bilevel_and_cmyk_become_rgb() -> None:
    assert decode(saved(Image.new("L", (32, 32), 90)), POLICY)[0, 0].tolist() == [90, 90, 90]
    assert decode(saved(Image.new("1", (32, 32), 1)), POLICY)[0, 0].tolist() == [255, 255, 255]
    for format in ("JPEG", "TIFF"):
        red = decode(saved(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), format), POLICY)[0, 0]
        assert np.abs(red.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert decode(data, POLICY)[9, 9].tolist() == [255, 0, 0]


def test_crop_keeps_the_middle_and_the_proportions() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    assert (decode(encode(wide), POLICY) == 200).mean() > 0.9
    assert np.array_equal(decode(encode(wide), POLICY)[:, 8:24], wide[:, 40:56])
    tall = wide.transpose(1, 0, 2)
    assert np.array_equal(decode(encode(tall), POLICY)[8:24], tall[40:56])


def test_pad_keeps_everything_and_fills_the_rest() -> None:
    wide = np.full((16, 64, 3), 50, np.uint8)
    pixels = decode(encode(wide), DecodePolicy((32, 32), "pad", background=(1, 2, 3)))
    assert (pixels[12:20] == 50).all()
    assert (pixels[:12] == (1, 2, 3)).all()
    assert (pixels[20:] == (1, 2, 3)).all()


def test_stretch_fills_the_size_with_the_whole_image() -> None:
    pixels = decode(encode(quarters(64)[:, :, :]), DecodePolicy((16, 48), "stretch"))
    assert pixels.shape == (16, 48, 3)
    assert pixels[3, 10].tolist() == [255, 0, 0]
    assert pixels[13, 38].tolist() == [255, 255, 255]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 300),
    st.integers(8, 300),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["crop", "pad", "stretch"]),
)
def test_every_size_comes_out_as_asked(height: int, width: int, h: int, w: int, fit: str) -> None:
    data = encode(np.full((height, width, 3), 77, np.uint8))
    pixels = decode(data, DecodePolicy((h, w), fit, background=(77, 77, 77)))
    assert pixels.shape == (h, w, 3)
    assert (pixels == 77).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]), st.data())
def test_damaged_files_give_pixels_or_a_sentence_and_nothing_else(format: str, draw: st.DataObject) -> None:
    data = bytearray(saved(Image.fromarray(noise(24, 24)), format))
    for _ in range(draw.draw(st.integers(1, 8))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(data), DecodePolicy((8, 8), max_pixels=1_000_000))
    except ImageError as error:
        assert_sentence(error)
    else:
        assert pixels.shape == (8, 8, 3)
        assert pixels.dtype == np.uint8


def test_threads_decode_at_once_and_each_gets_its_own_picture() -> None:
    files = [encode(np.full((32, 32, 3), value, np.uint8)) for value in range(64)]
    with ThreadPoolExecutor(8) as pool:
        means = list(pool.map(lambda data: decode(data, POLICY).mean(), files))
    assert means == list(range(64))


@pytest.mark.parametrize(("format", "tolerance"), [("png", 0), ("jpeg", 6), ("webp", 16)])
def test_what_is_encoded_decodes_to_nearly_the_same(format: str, tolerance: int) -> None:
    row = np.linspace(0, 255, 32)
    pixels = np.stack([*np.meshgrid(row, row), np.full((32, 32), 128.0)], axis=2).astype(np.uint8)
    again = decode(encode(pixels, format), POLICY)
    assert np.abs(again.astype(int) - pixels).max() <= tolerance
    assert encode(pixels, format) == encode(pixels, format)


def test_encoding_refuses_other_pixels_and_formats() -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="uint8"):
        encode(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="format"):
        encode(noise(8, 8), "gif")


@pytest.mark.parametrize("wrong", [{"size": (0, 8)}, {"fit": "zoom"}, {"background": (0, 0, 256)}])
def test_an_impossible_policy_is_a_configuration_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DecodePolicy(**{"size": (8, 8), **wrong})


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="real photos lie beside the checkout only where it is developed")
def test_real_photos_decode() -> None:
    photos = [path for path in sorted(PHOTOS.rglob("*")) if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    assert photos
    for path in photos:
        assert decode(path.read_bytes(), DecodePolicy((64, 64))).std() > 5
