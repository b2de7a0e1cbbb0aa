"""Where each output pixel comes from: resize, then centre crop, as torchvision's reference transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# A thin image gets huge when its shorter side is enlarged: beyond this, only the crop is computed.
MAX_RESIZED_PIXELS = 2**24

Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Resize and centre crop, in the terms of torchvision's `Resize` and `CenterCrop`.

    resize_size: length of the shorter side in pixels, or (height, width) to resize without keeping the ratio.
    crop_size: (height, width) of the centre crop; at most the resized image, since padding is never wanted.
    interpolation: nearest, bilinear, bicubic or lanczos.
    antialias: filter before reducing, as Pillow does. Without it only nearest and bilinear are offered: they
        are the two for which Pillow and PyTorch then agree.

    Raises ValueError if the values do not go together.
    """

    resize_size: int | Size
    crop_size: Size
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise ValueError(f"interpolation is {self.interpolation!r}, but must be one of {known}")
        for name, size in (("resize_size", self.resize_at_least), ("crop_size", self.crop_size)):
            if min(size) < 1:
                raise ValueError(f"{name} must be at least 1 pixel")
        if self.crop_size[0] > self.resize_at_least[0] or self.crop_size[1] > self.resize_at_least[1]:
            raise ValueError(
                f"crop_size {self.crop_size} does not fit into an image resized to {self.resize_size}: "
                "make resize_size larger or crop_size smaller"
            )
        if not self.antialias and self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"antialias can be false with nearest and bilinear only, not with {self.interpolation}")

    @property
    def resize_at_least(self) -> Size:
        """The smallest (height, width) that a resized image can have."""
        return (self.resize_size, self.resize_size) if isinstance(self.resize_size, int) else self.resize_size

    def resized_size(self, width: int, height: int) -> Size:
        """(width, height) after the resize; the longer side is rounded down, as torchvision does."""
        if not isinstance(self.resize_size, int):
            return self.resize_size[1], self.resize_size[0]
        if width <= height:
            return self.resize_size, int(self.resize_size * height / width)
        return int(self.resize_size * width / height), self.resize_size

    def crop_corner(self, new_width: int, new_height: int) -> Size:
        """(left, top) of the centre crop in a resized image."""
        crop_height, crop_width = self.crop_size
        # Python's rounding of halves to even is torchvision's, too (torchvision.transforms.functional.center_crop).
        return round((new_width - crop_width) / 2.0), round((new_height - crop_height) / 2.0)

    def sampling(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Where the crop lies in an image of this size that was not resized: (left, top, across, down).

        left, top: where it begins, in the image's pixels. across, down: how many of them one pixel of it stands for.
        """
        new_width, new_height = self.resized_size(width, height)
        left, top = self.crop_corner(new_width, new_height)
        across, down = width / new_width, height / new_height
        return left * across, top * down, across, down

    def apply(self, image: Image.Image, original_size: Size | None = None) -> NDArray[np.uint8]:
        """Resize and crop `image` (mode RGB).

        original_size: (width, height) before the decoder scaled the image down by a whole number; the crop is
            then the one of the full-size image. Default: the image's own size.

        Returns HWC uint8, RGB, [0, 255], shape (crop_height, crop_width, 3): to within 1 count, what torchvision's
        `CenterCrop(crop_size)(Resize(resize_size, interpolation, antialias=True)(image))` makes of a PIL image.
        """
        width, height = original_size or image.size
        # libjpeg rounds a scaled size up, so that its last column may stand for less than a whole one.
        content = (width / _reduction(width, image.width), height / _reduction(height, image.height))
        new_size = self.resized_size(width, height)
        left, top = self.crop_corner(*new_size)
        crop_height, crop_width = self.crop_size
        resampling = _RESAMPLING[self.interpolation]
        if self.interpolation != "bilinear" and new_size[0] * new_size[1] <= MAX_RESIZED_PIXELS:
            # With these filters the rounding of the box in one pass can tell: 2 counts with those that overshoot,
            # another pixel with nearest.
            resized = image.resize(new_size, resampling, box=(0, 0, *content))
            return np.asarray(resized.crop((left, top, left + crop_width, top + crop_height)))
        across, down = content[0] / new_size[0], content[1] / new_size[1]
        box = (left * across, top * down, (left + crop_width) * across, (top + crop_height) * down)
        if self.interpolation == "bilinear" and not self.antialias:
            return np.asarray(_bilinear_without_antialias(image, (crop_width, crop_height), box))
        # Resize and crop in one pass, which computes what the crop needs and no more: half the time. Rounding may
        # have put the edge a hair outside, which Pillow refuses.
        inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], image.width), min(box[3], image.height))
        return np.asarray(image.resize((crop_width, crop_height), resampling, box=inside))


def _bilinear_without_antialias(image: Image.Image, size: Size, box: Box) -> Image.Image:
    across, down = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
    matrix = (across, 0.0, box[0], 0.0, down, box[1])
    return image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _reduction(full: int, scaled: int) -> int:
    """The whole number by which libjpeg divided `full` to get `scaled`, rounding up: 1, 2, 4 or 8."""
    return next((factor for factor in (1, 2, 4, 8) if -(-full // factor) == scaled), 1)
