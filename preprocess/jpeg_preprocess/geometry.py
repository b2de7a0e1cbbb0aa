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
        if min(*self.resize_at_least, *self.crop_size) < 1:
            raise ValueError("resize_size and crop_size must be at least 1 pixel")
        if self.crop_size[0] > self.resize_at_least[0] or self.crop_size[1] > self.resize_at_least[1]:
            raise ValueError(
                f"crop_size {self.crop_size} does not fit into an image resized to {self.resize_size}: "
                "make resize_size larger or crop_size smaller"
            )
        if not self.antialias and self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"antialias = false goes with nearest or bilinear, not with {self.interpolation}")

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

    def source_box(self, width: int, height: int) -> Box:
        """(left, top, right, bottom) of the crop in the pixels of an image of this width and height."""
        new_width, new_height = self.resized_size(width, height)
        crop_height, crop_width = self.crop_size
        # Python's rounding to even on halves is torchvision's, too (torchvision.transforms.functional.center_crop).
        left = round((new_width - crop_width) / 2.0)
        top = round((new_height - crop_height) / 2.0)
        across, down = width / new_width, height / new_height
        return left * across, top * down, (left + crop_width) * across, (top + crop_height) * down

    def apply(self, image: Image.Image, original_size: Size | None = None) -> NDArray[np.uint8]:
        """Resize and crop `image` (mode RGB) in one pass.

        original_size: (width, height) before the decoder scaled the image down by a whole number; the crop is
            then the one of the full-size image. Default: the image's own size.

        Returns HWC uint8, RGB, [0, 255], shape (crop_height, crop_width, 3).

        Only the pixels that the crop needs are computed. The result equals torchvision's
        `CenterCrop(crop_size)(Resize(resize_size, antialias=True)(image))` on a PIL image to within 1 count.
        """
        width, height = original_size or image.size
        left, top, right, bottom = self.source_box(width, height)
        if original_size is not None:
            # libjpeg rounds a scaled size up, and its last column then covers less: scale by the exact factor.
            across, down = _reduction(width, image.width), _reduction(height, image.height)
            left, top, right, bottom = left / across, top / down, right / across, bottom / down
        crop_height, crop_width = self.crop_size
        resampling = _RESAMPLING[self.interpolation]
        if self.antialias:
            # Rounding may have put the edge a hair outside, which Pillow refuses.
            box = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
            resized = image.resize((crop_width, crop_height), resampling, box=box)
        else:
            a, e = (right - left) / crop_width, (bottom - top) / crop_height
            resized = image.transform(
                (crop_width, crop_height), Image.Transform.AFFINE, (a, 0.0, left, 0.0, e, top), resampling
            )
        return np.asarray(resized)


def _reduction(full: int, scaled: int) -> int:
    """The whole number by which libjpeg divided `full` to get `scaled`, rounding up: 1, 2, 4 or 8."""
    return next((factor for factor in (1, 2, 4, 8) if -(-full // factor) == scaled), 1)
