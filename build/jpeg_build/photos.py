"""The photos that an artefact is checked on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jpeg_preprocess import Preprocessor, PreprocessSettings
from numpy.typing import NDArray

from jpeg_build.errors import BuildError
from jpeg_build.recipe import Recipe

PHOTOS = Path(__file__).parents[2] / "photos"

RANDOM_IMAGES = 8


def load_photos(folder: Path, recipe: Recipe) -> NDArray[np.uint8]:
    """All JPEGs below `folder`, decoded at full size with the recipe's geometry: NHWC uint8, RGB, [0, 255].

    Raises BuildError if there is none, or if one cannot be decoded.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise BuildError(f"{folder}: there is no JPEG to check the artefact on; name a folder with --photos DIR")
    preprocess = Preprocessor(
        PreprocessSettings(recipe.geometry, exif_orientation=recipe.exif_orientation, decoder="full")
    )
    pixels, errors = preprocess([file.read_bytes() for file in files])
    preprocess.close()
    for file, error in zip(files, errors, strict=True):
        if error is not None:
            raise BuildError(f"{file}: {error}: the artefact cannot be checked on it")
    return pixels


def random_pixels(recipe: Recipe) -> NDArray[np.uint8]:
    """Eight images of noise, the same every time, NHWC uint8: every value of every channel occurs."""
    shape = (RANDOM_IMAGES, *recipe.geometry.crop_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
