"""Any file may be given to the decoder: it comes out as pixels of the stated size, or as a sentence."""

import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.picture import codec
from p2pz_ray.picture.codec import DecodePolicy, decode, encode

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
        (b"<!DOCTYPE html><html></html>", "a web page"),
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


# What people's files hold beyond a plain 8-bit sRGB picture


def with_text(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks, before its pixels and after them."""
    more = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    end = data.rindex(b"IEND") - 4
    return data[:33] + more + data[33:end] + more + data[end:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"workflow\0" + b"x" * (2 << 20)),
        (b"zTXt", b"prompt\0\0" + zlib.compress(bytes(200 << 20))),
        (b"iTXt", b"parameters\0\0\0\0\0" + b"y" * (3 << 20)),
        (b"iTXt", b"compressed\0\1\0\0\0" + zlib.compress(bytes(200 << 20))),
        (b"zTXt", b"broken\0\0nothing compressed"),
    ],
    ids=lambda chunk: chunk[0].decode() + str(len(chunk[1])),
)
def test_a_pngs_text_is_no_matter_of_its_picture(chunk: tuple[bytes, bytes]) -> None:
    pixels = noise(32, 32)
    assert np.array_equal(decode(with_text(encode(pixels), chunk), POLICY), pixels)


RAMP = np.repeat(np.linspace(0, 1, 32)[None], 32, axis=0)


def deep_png(values: np.ndarray) -> bytes:
    """(H, W, 3) or (H, W, 4) uint16 as a PNG of 16 bits, which Pillow can't write."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def deep_tiff(values: np.ndarray, order: str = "<") -> bytes:
    """(H, W, 3) uint16 as an uncompressed TIFF of 16 bits."""
    height, width, _ = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    entries = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 2), (273, 4, 0), (277, 3, 3)]
    entries += [(278, 4, height), (279, 4, len(pixels))]
    bits = 8 + 2 + 12 * len(entries) + 4
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        count, value = (3, bits) if tag == 258 else (1, bits + 6 if tag == 273 else value)
        body += struct.pack(f"{order}HHI", tag, kind, count)
        short = kind == 3 and count == 1
        body += struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    body += struct.pack(f"{order}I", 0) + struct.pack(f"{order}HHH", 16, 16, 16)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + body + pixels


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["I;16 PNG", "int32 TIFF", "uint16 TIFF", "RGB PNG", "RGBA PNG", "RGB TIFF", "RGB MM"])
def test_samples_that_fill_fewer_bits_than_their_file_keep_their_brightness(form: str, bits: int) -> None:
    values = np.round(RAMP * ((1 << bits) - 1)).astype(np.uint16)
    colours = np.stack([values, values[:, ::-1], values], axis=2)
    opaque = np.full((32, 32, 1), 65535, np.uint16)
    data = {
        "I;16 PNG": lambda: saved(Image.fromarray(values)),
        "int32 TIFF": lambda: saved(Image.fromarray(values.astype(np.int32)), "TIFF"),
        "uint16 TIFF": lambda: saved(Image.fromarray(values), "TIFF"),
        "RGB PNG": lambda: deep_png(colours),
        "RGBA PNG": lambda: deep_png(np.concatenate([colours, opaque], axis=2)),
        "RGB TIFF": lambda: deep_tiff(colours),
        "RGB MM": lambda: deep_tiff(colours, ">"),
    }[form]()
    said: list[str] = []
    pixels = decode(data, POLICY, said.append)
    assert np.abs(pixels[..., 0] - RAMP * 255).max() <= 1
    if "RGB" in form:
        assert np.abs(pixels[..., 1] - RAMP[:, ::-1] * 255).max() <= 1
    assert len(said) == (bits < 16)
    assert all(f"{bits} bits" in sentence for sentence in said)


@pytest.mark.parametrize("largest", [1000, 4095, 50_000])
def test_a_tag_that_names_the_largest_value_sets_the_scale(largest: int) -> None:
    values = np.round(RAMP * largest * 0.5).astype(np.uint16)  # a dark picture, and it stays dark
    said: list[str] = []
    pixels = decode(saved(Image.fromarray(values), "TIFF", tiffinfo={281: largest}), POLICY, said.append)
    assert np.abs(pixels[..., 0] - RAMP * 127.5).max() <= 1
    assert said == [f"It is scaled by its tag, from 0 … {largest} to 0 … 255."]


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 3)])
def test_a_black_picture_of_16_bits_stays_black(shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.uint16)
    said: list[str] = []
    data = deep_png(values) if len(shape) == 3 else saved(Image.fromarray(values))
    assert decode(data, POLICY, said.append).max() == 0
    assert said == []


def profile(gamma: float, red: tuple[float, float], green: tuple[float, float], blue: tuple[float, float]) -> bytes:
    """An ICC profile of these primaries (xy) with the white of D50 and a gamma curve, written by hand."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    white = np.array([0.9642, 1.0, 0.8249])
    columns = columns * np.linalg.solve(columns, white)

    def fixed(values: np.ndarray) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"text\0\0\0\0none\0\0\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(4 + 4 + 2 + 1 + 67)
    description += bytes(-len(description) % 4)
    tags = [(b"desc", description), (b"cprt", text), (b"wtpt", b"XYZ \0\0\0\0" + fixed(white))]
    tags += [(name, b"XYZ \0\0\0\0" + fixed(columns[:, i])) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(white)
    return head.ljust(128, b"\0") + table + body


WIDE = {  # primaries adapted to D50
    "Adobe RGB": (2.2, (0.648, 0.331), (0.230, 0.702), (0.156, 0.066)),
    "ProPhoto RGB": (1.8, (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)),
    "Display P3": (2.2, (0.693, 0.317), (0.274, 0.681), (0.156, 0.075)),
    "Rec. 2020": (2.2, (0.7177, 0.2881), (0.1849, 0.7740), (0.1318, 0.0534)),
}


@pytest.mark.parametrize("space", [*WIDE])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "RGBA", "P"])
def test_wide_colours_become_srgb(space: str, form: str) -> None:
    colour = np.full((32, 32, 3), (180, 90, 60), np.uint8)
    image = Image.fromarray(colour)
    icc = profile(*WIDE[space])
    if form in ("RGBA", "P"):
        image = image.convert(form)
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    data = saved(image, form if form not in ("RGBA", "P") else "PNG", icc_profile=icc, **options)
    red, _, blue = decode(data, POLICY)[9, 9].astype(int)
    plain = decode(saved(image), POLICY)[9, 9].astype(int)
    assert red - plain[0] >= 8  # the same numbers name a stronger red in a wider space
    assert red - blue > plain[0] - plain[2]


def test_a_profile_that_says_srgb_is_broken_or_of_other_pixels_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise(32, 32)
    for icc in (srgb, b"no profile", srgb[:200], bytes(300)):
        assert np.array_equal(decode(saved(Image.fromarray(pixels), icc_profile=icc), POLICY), pixels)
    grey = Image.new("L", (32, 32), 90)
    assert decode(saved(grey, icc_profile=profile(*WIDE["Adobe RGB"])), POLICY)[0, 0].tolist() == [90, 90, 90]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "It is JPEG 2000"),
        (b"\xff\x4f\xff\x51" + bytes(99), "It is JPEG 2000"),
        (b"8BPS\0\1" + bytes(99), "It is a Photoshop document"),
        (b"\0\0\0\x18ftypmp42" + bytes(99), "It is a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"\xef\xbb\xbf<!DOCTYPE html><title>404</title>", "It is a web page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "It is an SVG drawing"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "It is XML"),
        (b"PK\x03\x04" + bytes(99), "It is a zip archive"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "It is a Canon raw picture"),
        (bytes(128) + b"DICM" + bytes(99), "It is a DICOM picture"),
    ],
)
def test_what_is_named_like_a_picture_and_is_something_else_says_what_it_is(data: bytes, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, POLICY)
    assert_sentence(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(("package", "format"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_heic_and_jpeg_xl_are_decoded_where_their_packages_are(
    package: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip(package)
    if format == "HEIF":
        module.register_heif_opener()
    data = saved(Image.fromarray(quarters(64)), format, quality=95)
    codec._registered.cache_clear()
    assert np.abs(decode(data, POLICY).astype(int)[4:12, 4:12] - (255, 0, 0)).max() <= 12
    codec._registered.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImageError, match=r"It is (HEIC|JPEG XL), .*install p2pz_ray\[pictures\]"):
        decode(data, POLICY)
    codec._registered.cache_clear()
