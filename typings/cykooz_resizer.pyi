"""The part of cykooz-resizer that this project uses; the package has no type hints of its own for mypy."""

from PIL.Image import Image

class FilterType:
    bilinear: FilterType

class ResizeAlg:
    @classmethod
    def convolution(cls, filter_type: FilterType) -> ResizeAlg: ...

class CropBox:
    def __init__(self, left: float, top: float, width: float, height: float) -> None: ...

class ResizeOptions:
    def __init__(
        self,
        resize_alg: ResizeAlg | None = None,
        use_alpha: bool | None = None,
        crop_box: CropBox | None = None,
    ) -> None: ...

class Resizer:
    def resize_pil(self, src_image: Image, dst_image: Image, options: ResizeOptions | None = None) -> None: ...
