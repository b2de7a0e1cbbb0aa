"""Where each output pixel comes from: resize, then centre crop or pad, as the frameworks' transforms do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
ResizeSide = Literal["shorter", "longer"]
CropRounding = Literal["even", "down"]

Size = tuple[int, int]
Rgb = tuple[int, int, int]

SCALED_MARGIN = 2
"""How much larger than the resized image a photo stays that is made smaller before the resize: by the decoder `scaled`,
or by a client. With 1, the mean difference of a pixel passes 2 counts on some photos (measured,
docs/preprocessing.md)."""


@dataclass(frozen=True)
class Geometry:
    """Resize and centre crop, in the terms of torchvision's `Resize` and `CenterCrop`.

    Attributes:
        resize_size: Length of one side in pixels, or (height, width) to resize without keeping the ratio; with
            `resize_side` "longer", (height, width) that the image fits into, with its ratio.
        crop_size: (height, width) of the centre crop.
        interpolation: Pillow's filter of that name.
        antialias: Filter before reducing, as Pillow does. False is possible with nearest and bilinear only: for these
            two, Pillow and PyTorch then agree.
        resize_side: Which side `resize_size` is the length of. With "longer" and a crop of that size, the whole image
            is kept and padded to the crop's shape ("letterbox").
        fill: Colour of what lies outside of the resized image, [0, 255]. None if nothing does: the crop then fits into
            the resized image.
        crop_rounding: Where the crop lies if an odd number of pixels is left out: "even" rounds the part at the left or
            top to the even number, as torchvision and timm do, and "down" to the smaller one, as transformers does.

    Raises:
        ValueError: The values do not go together.
    """

    resize_size: int | Size
    crop_size: Size
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    resize_side: ResizeSide = "shorter"
    fill: Rgb | None = None
    crop_rounding: CropRounding = "even"

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise ValueError(f"interpolation is {self.interpolation!r}, but must be one of {known}")
        for name, size in (("resize_size", self.resize_at_least), ("crop_size", self.crop_size)):
            if min(size) < 1:
                raise ValueError(f"{name} must be at least 1 pixel")
        if self.resize_side not in get_args(ResizeSide):
            raise ValueError(f"resize_side is {self.resize_side!r}, but must be one of shorter, longer")
        if self.crop_rounding not in get_args(CropRounding):
            raise ValueError(f"crop_rounding is {self.crop_rounding!r}, but must be one of even, down")
        if self.fill is None and self.resize_side == "longer":
            raise ValueError('resize_side "longer" needs a colour for the rest of the image, such as fill = [0, 0, 0]')
        if self.fill is None and (
            self.crop_size[0] > self.resize_at_least[0] or self.crop_size[1] > self.resize_at_least[1]
        ):
            raise ValueError(
                f"crop_size {self.crop_size} does not fit into an image resized to {self.resize_size}: "
                "make resize_size larger or crop_size smaller, or name a colour for the rest, such as fill = [0, 0, 0]"
            )
        if self.fill is not None and not all(0 <= value <= 255 for value in self.fill):
            raise ValueError("fill must be three numbers from 0 to 255, red, green and blue")
        if not self.antialias and self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"antialias can be false with nearest and bilinear only, not with {self.interpolation}")

    @property
    def resize_at_least(self) -> Size:
        """The smallest (height, width) that a resized image can have; with `resize_side` "longer", the largest."""
        return (self.resize_size, self.resize_size) if isinstance(self.resize_size, int) else self.resize_size

    def resized_size(self, width: int, height: int) -> Size:
        """Return (width, height) after the resize.

        The longer side is rounded down, as torchvision does; the shorter one to the nearest number, as letterboxes do.
        """
        if self.resize_side == "longer":
            most_height, most_width = self.resize_at_least
            scale = min(most_width / width, most_height / height)
            return max(1, round(width * scale)), max(1, round(height * scale))
        if not isinstance(self.resize_size, int):
            return self.resize_size[1], self.resize_size[0]
        if width <= height:
            return self.resize_size, int(self.resize_size * height / width)
        return int(self.resize_size * width / height), self.resize_size

    def crop_corner(self, new_width: int, new_height: int) -> Size:
        """Return (left, top) of the centre crop in a resized image; negative where the crop is larger."""
        crop_height, crop_width = self.crop_size
        # Python rounds halves to even, and so does torchvision.transforms.functional.center_crop. The other frameworks
        # round what they cut off and what they pad down: a negative corner towards zero.
        rounded = round if self.crop_rounding == "even" else int
        return rounded((new_width - crop_width) / 2.0), rounded((new_height - crop_height) / 2.0)

    def shown(self, new_width: int, new_height: int) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of what the crop shows of a resized image; it is never empty."""
        left, top = self.crop_corner(new_width, new_height)
        crop_height, crop_width = self.crop_size
        return max(left, 0), max(top, 0), min(left + crop_width, new_width), min(top + crop_height, new_height)

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
