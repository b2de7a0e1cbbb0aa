"""Writes evaluation.json, evaluation.md and evaluation.html."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import msgspec
from jpeg_preprocess import DevicePreprocessor, Preprocessor, unwrap
from PIL import Image

from jpeg_build.evaluate.answers import replace_file
from jpeg_build.evaluate.dataset import Photo
from jpeg_build.evaluate.document import sections, title
from jpeg_build.evaluate.html_page import to_html
from jpeg_build.evaluate.markdown import to_markdown
from jpeg_build.evaluate.results import Evaluation

MOST_SHOWN = 200
NAMES = ("evaluation.json", "evaluation.md", "evaluation.html")

_SIDE = 160
_AT_ONCE = 32


def thumbnails(photos: Sequence[Photo], decoder: Preprocessor | DevicePreprocessor) -> dict[str, str]:
    """Return a small JPEG of what the network sees of each photo, as a data: URL by its name."""
    found = {}
    settings = decoder.settings
    for first in range(0, len(photos), _AT_ONCE):
        some = photos[first : first + _AT_ONCE]
        decoded = decoder.decode([unwrap(each.file.read_bytes(), settings.limits, settings.formats) for each in some])
        for photo, pixels, error in zip(some, decoded.pixels, decoded.errors, strict=True):
            if error is not None:
                continue  # the file was changed meanwhile
            image = Image.fromarray(pixels)
            image.thumbnail((_SIDE, _SIDE))
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=80)
            found[photo.name] = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return found


def write_reports(found: Evaluation, folder: Path, pictures: dict[str, str]) -> list[Path]:
    """Write the three files, each aside first; return their paths."""
    text = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    name, parts = title(found), sections(found)
    contents = (text, to_markdown(name, parts).encode(), to_html(name, parts, pictures).encode())
    paths = [folder / each for each in NAMES]
    for path, content in zip(paths, contents, strict=True):
        replace_file(path, content)
    return paths
