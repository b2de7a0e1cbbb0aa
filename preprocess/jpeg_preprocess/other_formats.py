"""What data is that is no image to be decoded, for the message that refuses it."""

from __future__ import annotations

from collections.abc import Sequence

from jpeg_contract.image_errors import ImageError
from jpeg_contract.jpeg_segments import END, START
from jpeg_contract.settings import DEFAULT_FORMATS, ImageFormat

from jpeg_preprocess.formats.signatures import image_format

_BASE64 = "base64 inside of base64: encode the JPEG once"
_AS_TEXT = "a JPEG that was treated as text: read and send it as binary data"
_STARTS = (
    (b"\x89PNG", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"II+\x00", "a TIFF"),
    (b"II\xbc", "a JPEG XR"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"icns", "an icon (ICNS)"),
    (b"%!PS", "a PostScript file"),
    (b"P5", "a PGM"),
    (b"P6", "a PPM"),
    (b"8BPS", "a Photoshop file"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "gzip: send the JPEG without compression"),
    (b"\x28\xb5\x2f\xfd", "zstd: send the JPEG without compression"),
    (b"PK\x03\x04", "a ZIP"),
    (b"/9j/", _BASE64),
    (b'"/9j/', _BASE64),
    (b"_9j_", _BASE64),
    (b"ffd8ff", "hexadecimal text: send the decoded bytes"),
    (b"FFD8FF", "hexadecimal text: send the decoded bytes"),
    (b"b'\\xff\\xd8", "the text of a Python bytes object: send the bytes"),
    (b"[255", "a list of numbers in JSON: send the bytes"),
    (b"[object", "the name of a JavaScript object: send its bytes"),
    (b"data:", "a data: URL inside of base64: encode the JPEG once"),
    (b"--", "multipart form data: send the bytes of the file alone"),
    (b"<", "a text (HTML, XML or SVG)"),
    (b"{", "a text (JSON)"),
    (b"http://", "a URL: send the bytes of the image"),
    (b"https://", "a URL: send the bytes of the image"),
    (b"file://", "a URL: send the bytes of the image"),
    # FF D8 FF, decoded as text and encoded again: with replacement characters, from Latin-1, with surrogates, as ASCII.
    (b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", _AS_TEXT),
    (b"\xc3\xbf\xc3\x98\xc3\xbf", _AS_TEXT),
    (b"\xed\xb3\xbf\xed\xb3\x98", _AS_TEXT),
    (b"????", _AS_TEXT),
)
# Of ISO base media files (ISO/IEC 14496-12), at offset 8, behind the length and `ftyp`.
_BRANDS = {
    b"heic": "a HEIC",
    b"heix": "a HEIC",
    b"hevc": "a HEIC",
    b"mif1": "a HEIC or AVIF",
    b"msf1": "a HEIC or AVIF",
    b"avif": "an AVIF",
    b"avis": "an AVIF",
}
# How far a JPEG may be behind something else.
_NEAR = 4096


def not_an_image(data: bytes, formats: Sequence[ImageFormat]) -> ImageError:
    """Return the error of data that has none of the formats. formats: of the recipe."""
    if tuple(formats) == DEFAULT_FORMATS:
        message = "not a JPEG: it does not begin with the bytes FF D8 FF"
    else:
        message = f"not an image of the formats {', '.join(formats)}"
    if (guess := looks_like(data)) is not None:
        message += f", it looks like {guess}"
    if (name := image_format(data)) is not None:
        message += f": formats in the recipe can list {name}"
    return ImageError("not_jpeg", message)


def looks_like(data: bytes) -> str | None:
    """Guess what data is that does not begin as a JPEG does.

    Returns:
        The end of a sentence that begins with "it looks like", or None.
    """
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video (MP4 or QuickTime)")
    if data[:4] == b"RIFF":
        return "a WebP" if data[8:12] == b"WEBP" else "a RIFF file (WAV or AVI)"
    bare = data[:_NEAR].lstrip(b" \t\r\n")
    for start, name in _STARTS:
        if data.startswith(start) or bare.startswith(start):
            return name
    at = data.find(START, 0, _NEAR + len(START))
    if at == 4 and int.from_bytes(data[:4], "little") == len(data) - 4:
        return (
            "a JPEG behind its length in 4 bytes, as in BYTES of binary requests: set Inference-Header-Content-Length"
        )
    if at > 0:
        return f"a JPEG behind {at} other bytes"
    if not any(data[:_NEAR]):
        return "zero bytes"
    if data.endswith(END):
        return "a JPEG without its beginning"
    return None
