"""Where each output pixel comes from: resize, then centre crop, as torchvision's reference transform does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Resize and centre crop, in the terms of torchvision's `Resize` and `CenterCrop`.

    Attributes:
        resize_size: Length of the shorter side in pixels, or (height, width) to resize without keeping the ratio.
        crop_size: (height, width) of the centre crop. It fits into the resized image: nothing is padded.
        interpolation: nearest, bilinear, bicubic or lanczos.
        antialias: Filter before reducing, as Pillow does. False is possible with nearest and bilinear only: for these
            two, Pillow and PyTorch then agree.

    Raises:
        ValueError: The values do not go together.
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
        """Return (width, height) after the resize; the longer side is rounded down, as torchvision does."""
        if not isinstance(self.resize_size, int):
            return self.resize_size[1], self.resize_size[0]
        if width <= height:
            return self.resize_size, int(self.resize_size * height / width)
        return int(self.resize_size * width / height), self.resize_size

    def crop_corner(self, new_width: int, new_height: int) -> Size:
        """Return (left, top) of the centre crop in a resized image."""
        crop_height, crop_width = self.crop_size
        # Python rounds halves to even, and so does torchvision.transforms.functional.center_crop.
        return round((new_width - crop_width) / 2.0), round((new_height - crop_height) / 2.0)

    def sampling(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Map the crop onto an image of this size that was not resized.

        Returns:
            (left, top, scale_x, scale_y): where the crop begins, in the image's pixels, and how many of them one pixel
            of the crop stands for.
        """
        new_width, new_height = self.resized_size(width, height)
        left, top = self.crop_corner(new_width, new_height)
        scale_x, scale_y = width / new_width, height / new_height
        return left * scale_x, top * scale_y, scale_x, scale_y
