"""The kind of a file, from its first bytes: for error messages that say what a file really is."""

from __future__ import annotations

CONVERT = "convert it to PNG or JPEG"
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_VIDEO = (b"isom", b"iso2", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5", b"dash")

# First bytes, the kind of file, and what to do about it.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL", "install p2pz_ray[pictures] to have it decoded"),
    (b"\xff\x0a", "JPEG XL", "install p2pz_ray[pictures] to have it decoded"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000", CONVERT),
    (b"\xff\x4f\xff\x51", "JPEG 2000", CONVERT),
    (b"8BPS", "a Photoshop document", CONVERT),
    (b"II*\x00\x10\x00\x00\x00CR", "a Canon raw picture", CONVERT),
    (b"FUJIFILMCCD-RAW", "a Fujifilm raw picture", CONVERT),
    (b"v/1\x01", "an OpenEXR picture", CONVERT),
    (b"#?RADIANCE", "a Radiance HDR picture", CONVERT),
    (b"DDS ", "a DirectDraw texture", CONVERT),
    (b"\x00\x00\x01\x00", "an icon", CONVERT),
    (b"%PDF", "a PDF document", CONVERT),
    (b"%!PS", "a PostScript document", CONVERT),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document", CONVERT),
    (b"version https://git-lfs", "a Git LFS pointer and not the picture itself", "fetch it with git lfs pull"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (b"\x1aE\xdf\xa3", "a video", "take pictures out of it"),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
)


def kind_of(data: bytes) -> tuple[str, str] | None:
    """The kind of a file that can't be decoded, and what to do about it; None if its first bytes are unknown."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _HEIC:
        return "HEIC", "install p2pz_ray[pictures] to have it decoded"
    if brand in _VIDEO:
        return "a video", "take pictures out of it"
    if brand == b"crx ":
        return "a Canon raw picture", CONVERT
    if data[128:132] == b"DICM":
        return "a DICOM picture", CONVERT
    for beginning, name, remedy in _BEGINNINGS:
        if data.startswith(beginning):
            return name, remedy
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page", "it may be a server's error message, so fetch the picture again"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "an SVG drawing", CONVERT
    if text.startswith((b"<?xml", b"<error>")):
        return "XML", "it may be a server's error message, so fetch the picture again"
    return None
