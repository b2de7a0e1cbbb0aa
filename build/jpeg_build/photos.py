"""The photos that an artefact is checked and calibrated on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jpeg_preprocess import Preprocessor, PreprocessSettings
from numpy.typing import NDArray

from jpeg_build.errors import BuildError
from jpeg_build.recipe import Recipe, file_sha256

PHOTOS = Path(__file__).parents[2] / "photos"

RANDOM_IMAGES = 8

# Files that are held in memory at once.
_AT_ONCE = 32


def load_photos(
    folder: Path,
    recipe: Recipe,
    *,
    purpose: str = "check the artefact on",
    option: str = "--photos",
    skipped: Callable[[str], None] | None = None,
) -> NDArray[np.uint8]:
    """All JPEGs below `folder`, decoded at full size with the recipe's geometry: NHWC uint8, RGB, [0, 255].

    purpose, option: what they are for, and the option that names another folder, for messages. skipped: is told of
    each file that cannot be decoded, which is then left out; None makes it an error.

    Raises BuildError if there is none.
    """
    files = jpegs(folder)
    found = []
    preprocess = Preprocessor(
        PreprocessSettings(recipe.geometry, exif_orientation=recipe.exif_orientation, decoder="full")
    )
    try:
        for first in range(0, len(files), _AT_ONCE):
            some = files[first : first + _AT_ONCE]
            pixels, errors = preprocess([file.read_bytes() for file in some])
            for file, error in zip(some, errors, strict=True):
                if error is not None and skipped is None:
                    raise BuildError(f"{file}: {error}: it cannot be used to {purpose}")
                if error is not None and skipped is not None:
                    skipped(f"{file}: {error}")
            found.append(pixels[[error is None for error in errors]])
    finally:
        preprocess.close()
    if not sum(map(len, found)):
        raise BuildError(f"{folder}: there is no JPEG to {purpose}; name a folder that has some with {option} DIR")
    return np.concatenate(found)


def jpegs(folder: Path) -> list[Path]:
    """The JPEGs below a folder, by their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg") and path.is_file())


def digest(folder: Path) -> str:
    """SHA-256 over the contents of the JPEGs below a folder, in the order of their paths."""
    return hashlib.sha256("".join(file_sha256(file) for file in jpegs(folder)).encode()).hexdigest()


def random_pixels(recipe: Recipe) -> NDArray[np.uint8]:
    """Eight images of noise, the same every time, NHWC uint8: every value of every channel occurs."""
    shape = (RANDOM_IMAGES, *recipe.geometry.crop_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
