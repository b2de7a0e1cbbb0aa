"""The settings of the models `preprocess` and `postprocess`, as the `parameters` of their config.pbtxt hold them.

The models read them through these classes, and so does `jpeg-serve check`: what one refuses, the other refuses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Literal, cast, get_args

import msgspec

from jpeg_contract.geometry import CropRounding, Geometry, Interpolation, ResizeSide, Rgb, Size
from jpeg_contract.parameters import SettingsError, parameters_of, read_parameters
from jpeg_contract.tensors import DEFAULT_K, LABELS_FILE

Decoder = Literal["scaled", "full", "gpu"]
"""`full` decodes every pixel. `scaled` lets libjpeg-turbo leave out what the resize would throw away: it decodes
at 1/2, 1/4 or 1/8, but never below twice the size that the resize needs, so the resize still does the filtering.
docs/preprocessing.md has the measured differences. `gpu` decodes on an NVIDIA GPU; what it leaves to the CPU is decoded
as by `full`."""

ImageFormat = Literal["jpeg", "png", "webp", "gif", "tiff", "avif", "heic"]
"""Of encoded images. Of a GIF, a TIFF or an animation, the first picture counts."""

Head = Literal["softmax", "sigmoid"]
"""How logits become scores: `softmax` for one class of several, `sigmoid` for each label by itself."""

DEFAULT_FORMATS: tuple[ImageFormat, ...] = ("jpeg",)

HEIC_PACKAGES = ("pi_heif", "pillow_heif")
"""Either decodes HEIC; the extra `heic` brings the first, and the second also encodes. Pillow decodes the others."""


@dataclass(frozen=True)
class Limits:
    """Bounds of an image; beyond them it is refused before any memory is spent on it.

    Attributes:
        max_image_bytes: Length of one encoded image, in bytes.
        max_pixels: Width times height, as the JPEG's header states them.
        max_scans: Passes over the image. Progressive encoders make about ten; each costs time for every pixel, so that
            without a limit a small file of a thousand scans keeps a core busy for half a minute.
        max_decode_ms: Estimated time of one core to decode one image, in milliseconds. It bounds the product of pixels
            and scans.
        max_decode_mib: Memory in which the images of a worker are decoded, in MiB: one that needs more is refused, and
            several wait for each other.
        max_wait_ms: Estimated time that all images of a batch take, in milliseconds: the longest that a request waits
            for those of others.
    """

    max_image_bytes: int = 20_000_000
    max_pixels: int = 120_000_000
    max_scans: int = 64
    max_decode_ms: int = 1000
    max_decode_mib: int = 512
    max_wait_ms: int = 2000

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 1:
                raise ValueError(f"{each.name} must be at least 1")


def _size_text(description: str, pattern: str) -> msgspec.Meta:
    return msgspec.Meta(pattern=pattern, extra_json_schema={"description": description})


_CropText = Annotated[str, _size_text("HEIGHT,WIDTH in pixels", r"^\d+\s*,\s*\d+$")]
_ResizeText = Annotated[str, _size_text("a number of pixels, or HEIGHT,WIDTH", r"^\d+(\s*,\s*\d+)?$")]
_RgbText = Annotated[str, _size_text("RED,GREEN,BLUE from 0 to 255", r"^\d+\s*,\s*\d+\s*,\s*\d+$")]
_FORMAT = "|".join(get_args(ImageFormat))
_FormatsText = Annotated[
    str,
    _size_text(
        f"names of image formats with commas between them: {_FORMAT.replace('|', ', ')}",
        rf"^({_FORMAT})(\s*,\s*({_FORMAT}))*$",
    ),
]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1, extra_json_schema={"description": "a number from 0 to 1"})]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Natural = Annotated[int, msgspec.Meta(ge=0)]


class PreprocessParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `preprocess` as texts; PreprocessSettings, Limits and Geometry describe each."""

    resize_size: _ResizeText
    crop_size: _CropText
    recipe: str = ""
    recipe_sha256: str = ""
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    resize_side: ResizeSide = "shorter"
    fill: _RgbText | None = None
    crop_rounding: CropRounding = "even"
    exif_orientation: bool = True
    formats: _FormatsText = ",".join(DEFAULT_FORMATS)
    background: _RgbText | None = None
    decoder: Decoder = "scaled"
    max_image_bytes: _Positive = Limits.max_image_bytes
    max_pixels: _Positive = Limits.max_pixels
    max_scans: _Positive = Limits.max_scans
    max_decode_ms: _Positive = Limits.max_decode_ms
    max_decode_mib: _Positive = Limits.max_decode_mib
    max_wait_ms: _Positive = Limits.max_wait_ms
    threads: _Natural = 0


class PostprocessParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `postprocess` as texts; PostprocessSettings describes each."""

    recipe: str = ""
    recipe_sha256: str = ""
    labels_file: str = LABELS_FILE
    default_k: _Positive = DEFAULT_K
    output: Head = "softmax"
    threshold: _Share = 0.0


@dataclass(frozen=True)
class PreprocessSettings:
    """Settings of the model `preprocess`.

    Attributes:
        geometry: Resize and crop.
        recipe: Name of the recipe that the geometry comes from.
        recipe_sha256: Its digest; `jpeg-serve` compares it between the steps.
        exif_orientation: Turn images as their EXIF orientation says.
        formats: Of the images that are decoded; others are refused.
        background: Colour that transparent pixels are put on, [0, 255]. None takes the colours behind the transparency,
            as `Image.convert("RGB")` of Pillow does, with which training pipelines read images.
        decoder: full decodes every pixel. scaled leaves out what the resize would throw away. gpu decodes on an NVIDIA
            GPU.
        limits: Bounds of an image.
        threads: How many images are decoded at once; 0 is one for each usable CPU.
    """

    geometry: Geometry
    recipe: str = ""
    recipe_sha256: str = ""
    exif_orientation: bool = True
    formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS
    background: Rgb | None = None
    decoder: Decoder = "scaled"
    limits: Limits = field(default_factory=Limits)
    threads: int = 0

    def __post_init__(self) -> None:
        if "jpeg" not in self.formats:
            raise ValueError("formats must list jpeg, too: the first photo of every server is a JPEG")
        if self.background is not None and not all(0 <= value <= 255 for value in self.background):
            raise ValueError("background must be three numbers from 0 to 255, red, green and blue")

    @classmethod
    def from_config(cls, model_config: str) -> PreprocessSettings:
        """Read the JSON that Triton hands to a Python model as "model_config". Raises SettingsError."""
        return cls.from_parameters(parameters_of(model_config))

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str], *, strict_names: bool = True) -> PreprocessSettings:
        """Read names and texts.

        Args:
            parameters: Names to texts.
            strict_names: Refuse a name that is unknown.

        Raises:
            SettingsError: A parameter is missing or invalid, or unknown.
        """
        read = read_parameters(PreprocessParameters, parameters, strict_names=strict_names)
        try:
            geometry = Geometry(
                resize_size=_size(read.resize_size) if "," in read.resize_size else int(read.resize_size),
                crop_size=_size(read.crop_size),
                interpolation=read.interpolation,
                antialias=read.antialias,
                resize_side=read.resize_side,
                fill=_rgb(read.fill),
                crop_rounding=read.crop_rounding,
            )
        except ValueError as error:
            raise SettingsError(f"parameter {error}", reason="invalid_geometry") from error
        try:
            return cls(
                geometry=geometry,
                recipe=read.recipe,
                recipe_sha256=read.recipe_sha256,
                exif_orientation=read.exif_orientation,
                formats=read_formats(read.formats),
                background=_rgb(read.background),
                decoder=read.decoder,
                limits=Limits(**{each.name: getattr(read, each.name) for each in fields(Limits)}),
                threads=read.threads,
            )
        except ValueError as error:
            raise SettingsError(f"parameter {error}") from error

    @property
    def pixels_sha256(self) -> str:
        """Digest of what decides the pixels of an image: ensembles with equal ones can share a model `preprocess`."""
        geometry = asdict(self.geometry)
        # A key that came later: its default leaves the digests in older reports as they are.
        if self.geometry.crop_rounding == "even":
            del geometry["crop_rounding"]
        decides = (
            geometry,
            self.exif_orientation,
            sorted(self.formats),
            self.background,
        )
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def to_parameters(self) -> dict[str, str]:
        """Return names and texts: the inverse of from_parameters."""
        geometry, limits = self.geometry, self.limits
        resize = geometry.resize_size
        return _texts(
            {
                "recipe": self.recipe,
                "recipe_sha256": self.recipe_sha256,
                "resize_size": str(resize) if isinstance(resize, int) else _size_to_text(resize),
                "crop_size": _size_to_text(geometry.crop_size),
                "interpolation": geometry.interpolation,
                "antialias": geometry.antialias,
                "resize_side": None if geometry.resize_side == "shorter" else geometry.resize_side,
                "fill": _rgb_to_text(geometry.fill),
                "crop_rounding": None if geometry.crop_rounding == "even" else geometry.crop_rounding,
                "exif_orientation": self.exif_orientation,
                "formats": ",".join(self.formats),
                "background": _rgb_to_text(self.background),
                "decoder": self.decoder,
                **asdict(limits),
                "threads": self.threads,
            }
        )


@dataclass(frozen=True)
class PostprocessSettings:
    """Settings of the model `postprocess`.

    Attributes:
        recipe: Name of the recipe that the labels come from.
        recipe_sha256: Its digest; `jpeg-serve` compares it between the steps.
        labels_file: Name of the label file in the model's folder.
        default_k: How many labels a request gets that does not set `k`.
        output: How logits become scores: softmax for one class of several, sigmoid for each label by itself.
        threshold: Labels with a lower score are left out, unless the request sets `threshold`.
    """

    recipe: str = ""
    recipe_sha256: str = ""
    labels_file: str = LABELS_FILE
    default_k: int = DEFAULT_K
    output: Head = "softmax"
    threshold: float = 0.0

    @classmethod
    def from_config(cls, model_config: str) -> PostprocessSettings:
        """Read the JSON that Triton hands to a Python model as "model_config". Raises SettingsError."""
        return cls.from_parameters(parameters_of(model_config))

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> PostprocessSettings:
        """Read names and texts. Raises SettingsError."""
        return cls(**msgspec.structs.asdict(read_parameters(PostprocessParameters, parameters)))

    def labels_sha256(self, labels: Sequence[str]) -> str:
        """Digest of what decides what a network's outputs mean: the labels in their order, softmax or sigmoid."""
        return hashlib.sha256(json.dumps([self.output, list(labels)]).encode()).hexdigest()

    def to_parameters(self) -> dict[str, str]:
        """Return names and texts: the inverse of from_parameters."""
        return _texts(
            {
                "recipe": self.recipe,
                "recipe_sha256": self.recipe_sha256,
                "labels_file": self.labels_file,
                "default_k": self.default_k,
                "output": self.output,
                "threshold": self.threshold,
            }
        )


def _texts(values: Mapping[str, str | float | bool | None]) -> dict[str, str]:
    """Return values as Triton's texts; None is left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def read_formats(text: str) -> tuple[ImageFormat, ...]:
    """Return the formats that the parameter `formats` names, each once."""
    names = (name.strip() for name in text.split(","))
    return cast("tuple[ImageFormat, ...]", tuple(dict.fromkeys(names)))


def _rgb(text: str | None) -> Rgb | None:
    if text is None:
        return None
    red, green, blue = (int(part) for part in text.split(","))
    return red, green, blue


def _rgb_to_text(color: Rgb | None) -> str | None:
    return None if color is None else ",".join(str(value) for value in color)


def _size(text: str) -> Size:
    height, width = text.split(",")
    return int(height), int(width)


def _size_to_text(size: Size) -> str:
    return f"{size[0]},{size[1]}"
