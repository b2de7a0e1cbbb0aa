"""The photos that an artefact is checked and calibrated on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from jpeg_contract.artefacts import file_sha256
from jpeg_contract.probe_photo import PROBE_PHOTO
from jpeg_contract.settings import DEFAULT_FORMATS, Decoder, ImageFormat, PreprocessSettings
from jpeg_preprocess import Preprocessor
from numpy.typing import NDArray

from jpeg_build.errors import BuildError
from jpeg_build.recipe.recipe import Recipe

RANDOM_IMAGES = 8

# Fewer images than this do not show the ranges of a network's values: a build warns.
ENOUGH_TO_CALIBRATE = 100

# Of the images for a calibration, every fifth is held out to compare on, up to so many.
_HELD_OUT_OF = 5
MOST_HELD_OUT = 64

SUFFIXES: dict[ImageFormat, tuple[str, ...]] = {
    "jpeg": (".jpg", ".jpeg"),
    "png": (".png",),
    "webp": (".webp",),
    "gif": (".gif",),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif",),
    "heic": (".heic", ".heif"),
}
"""Of the files that count as photos, by the formats that the recipe lists."""

# Files that are held in memory at once.
_AT_ONCE = 32


def load_photos(
    folder: Path,
    recipe: Recipe,
    *,
    purpose: str = "check the artefact on",
    option: str = "--photos",
    skipped: Callable[[str], None] | None = None,
    at_most: int | None = None,
) -> NDArray[np.uint8]:
    """Decode all photos below a folder at full size, with the recipe's geometry.

    Args:
        folder: It is searched through: one of class folders, as for `jpeg-build evaluate`, will do.
        recipe: Its geometry is applied; its formats decide which files count.
        purpose: Of the photos, for messages.
        option: The option that names another folder, for messages.
        skipped: Takes a line for each file that cannot be decoded and is left out; None makes such a file an error.
        at_most: Take so many, spread over the sorted paths and so over class folders; None takes all.

    Returns:
        (N, H, W, 3) uint8, RGB, [0, 255].

    Raises:
        BuildError: There is no photo, or one cannot be decoded.
    """
    files = photos_below(folder, recipe.formats)
    if at_most is not None and len(files) > at_most:
        files = [files[index * len(files) // at_most] for index in range(at_most)]
    found = []
    preprocess = _preprocessor(recipe, "full")
    try:
        for first in range(0, len(files), _AT_ONCE):
            some = files[first : first + _AT_ONCE]
            pixels, errors = preprocess([file.read_bytes() for file in some])
            for file, error in zip(some, errors, strict=True):
                if error is not None and skipped is None:
                    raise BuildError(f"{file}: {error}: it cannot be used to {purpose}", reason="invalid_photo")
                if error is not None and skipped is not None:
                    skipped(f"{file}: {error}")
            found.append(pixels[[error is None for error in errors]])
    finally:
        preprocess.close()
    if not sum(map(len, found)):
        raise BuildError(
            f"{folder}: there is no photo ({', '.join(recipe.formats)}) to {purpose}; name a folder that has some with "
            f"{option} DIR",
            reason="no_photos",
        )
    return np.concatenate(found)


def held_out(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Divide images into those to calibrate on, and those to compare on, which are spread over all of them.

    Args:
        images: (N, H, W, 3) uint8.

    Returns:
        Both, in their order; None if too few would remain to calibrate on.
    """
    count = min(MOST_HELD_OUT, len(images) // _HELD_OUT_OF)
    if len(images) - count < ENOUGH_TO_CALIBRATE:
        return None
    compared = np.zeros(len(images), bool)
    compared[[index * len(images) // count for index in range(count)]] = True
    return images[~compared], images[compared]


def probe_pixels(recipe: Recipe) -> NDArray[np.uint8]:
    """Decode the probe's photo with each decoder of a CPU: (2, H, W, 3) uint8, RGB, [0, 255]."""
    decoders: tuple[Decoder, ...] = ("full", "scaled")
    found = []
    for decoder in decoders:
        preprocess = _preprocessor(recipe, decoder)
        try:
            pixels, _ = preprocess([PROBE_PHOTO.read_bytes()])
        finally:
            preprocess.close()
        found.append(pixels)
    return np.concatenate(found)


def photos_below(folder: Path, formats: Collection[ImageFormat] = DEFAULT_FORMATS) -> list[Path]:
    """Return the photos of some formats below a folder, by their names."""
    suffixes = {suffix for name in formats for suffix in SUFFIXES[name]}
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def digest(folder: Path, formats: Collection[ImageFormat] = DEFAULT_FORMATS) -> str:
    """Return the SHA-256 over the contents of the photos below a folder, in the order of their paths."""
    return hashlib.sha256("".join(file_sha256(file) for file in photos_below(folder, formats)).encode()).hexdigest()


def random_pixels(recipe: Recipe) -> NDArray[np.uint8]:
    """Return eight images of noise, the same every time, NHWC uint8: every value of every channel occurs."""
    shape = (RANDOM_IMAGES, *recipe.geometry.crop_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _preprocessor(recipe: Recipe, decoder: Decoder) -> Preprocessor:
    return Preprocessor(
        PreprocessSettings(
            recipe.geometry,
            exif_orientation=recipe.exif_orientation,
            formats=recipe.formats,
            background=recipe.background,
            decoder=decoder,
        )
    )
