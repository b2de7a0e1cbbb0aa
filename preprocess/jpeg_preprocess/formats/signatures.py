"""Which format a file has, by its first bytes."""

from __future__ import annotations

from jpeg_contract.jpeg_segments import START
from jpeg_contract.settings import ImageFormat

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_STARTS: tuple[tuple[bytes, ImageFormat], ...] = (
    (START, "jpeg"),
    (PNG_SIGNATURE, "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)
# ISO/IEC 23008-12 and the AVIF specification; the others of a `ftyp` box are shared by both.
_BRANDS: dict[bytes, ImageFormat] = {
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "heic"),
}
_MOST_BRANDS = 32

BASE64_STARTS: dict[ImageFormat, tuple[bytes, ...]] = {
    "jpeg": (b"/9j/", b"_9j_"),
    "png": (b"iVBORw0KGg",),
    "gif": (b"R0lGODdh", b"R0lGODlh"),
    "webp": (b"UklGR",),
    "tiff": (b"SUkqA", b"TU0AK"),
    "avif": (b"AAAA",),
    "heic": (b"AAAA",),
}
"""How the base64 of a format begins, in both alphabets."""


def image_format(data: bytes) -> ImageFormat | None:
    """Return the format that the first bytes name, whatever follows them; None for any other data."""
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MOST_BRANDS, len(data))
    brands = (data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4)))
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
