"""The settings of the two models, as they stand in the `parameters` of a config.pbtxt: names to texts."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from jpeg_preprocess.decode import Decoder, Limits
from jpeg_preprocess.geometry import Geometry, Size

T = TypeVar("T")


class SettingsError(ValueError):
    """A parameter is missing, unknown, or has a value that cannot be used; the message says which and why."""


def read_parameters(model_config: str) -> dict[str, str]:
    """The parameters of a model, from the JSON text that Triton hands to a Python model as "model_config"."""
    parameters = json.loads(model_config).get("parameters", {})
    return {name: value["string_value"] for name, value in parameters.items()}


@dataclass(frozen=True)
class PreprocessSettings:
    """Settings of the model `preprocess`.

    recipe, recipe_sha256: which recipe the geometry comes from; jpeg-serve compares them between the steps.
    exif_orientation: turn images as their EXIF orientation says.
    decoder: "scaled", "full" or "gpu" (jpeg_preprocess.decode).
    threads: how many images are decoded at once; 0 is one for each core.
    """

    geometry: Geometry
    recipe: str = ""
    recipe_sha256: str = ""
    exif_orientation: bool = True
    decoder: Decoder = "scaled"
    limits: Limits = field(default_factory=Limits)
    threads: int = 0

    @classmethod
    def from_config(cls, model_config: str) -> PreprocessSettings:
        """From the JSON text that Triton hands to a Python model as "model_config". Raises SettingsError."""
        return cls.from_parameters(read_parameters(model_config))

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> PreprocessSettings:
        """Raises SettingsError."""
        reader = _Reader(parameters)
        try:
            settings = cls(
                geometry=Geometry(
                    resize_size=reader.required("resize_size", _int_or_size),
                    crop_size=reader.required("crop_size", _size),
                    interpolation=reader.optional("interpolation", str, "bilinear"),
                    antialias=reader.optional("antialias", _bool, True),
                ),
                recipe=reader.optional("recipe", str, ""),
                recipe_sha256=reader.optional("recipe_sha256", str, ""),
                exif_orientation=reader.optional("exif_orientation", _bool, True),
                decoder=reader.optional("decoder", _decoder, "scaled"),
                limits=Limits(
                    max_image_bytes=reader.optional("max_image_bytes", int, Limits.max_image_bytes),
                    max_pixels=reader.optional("max_pixels", int, Limits.max_pixels),
                    max_scans=reader.optional("max_scans", int, Limits.max_scans),
                ),
                threads=reader.optional("threads", _natural, 0),
            )
        except SettingsError:
            raise
        except ValueError as error:
            raise SettingsError(str(error)) from error
        reader.refuse_unknown()
        return settings

    def to_parameters(self) -> dict[str, str]:
        """The inverse of from_parameters."""
        geometry = self.geometry
        resize = geometry.resize_size
        return {
            "recipe": self.recipe,
            "recipe_sha256": self.recipe_sha256,
            "resize_size": str(resize) if isinstance(resize, int) else _format_size(resize),
            "crop_size": _format_size(geometry.crop_size),
            "interpolation": geometry.interpolation,
            "antialias": _format_bool(geometry.antialias),
            "exif_orientation": _format_bool(self.exif_orientation),
            "decoder": self.decoder,
            "max_image_bytes": str(self.limits.max_image_bytes),
            "max_pixels": str(self.limits.max_pixels),
            "max_scans": str(self.limits.max_scans),
            "threads": str(self.threads),
        }


@dataclass(frozen=True)
class PostprocessSettings:
    """Settings of the model `postprocess`.

    recipe, recipe_sha256: as in PreprocessSettings.
    labels_file: name of the label file in the model's folder.
    default_k: how many labels a request gets that does not ask for a number.
    """

    recipe: str = ""
    recipe_sha256: str = ""
    labels_file: str = "labels.txt"
    default_k: int = 5

    @classmethod
    def from_config(cls, model_config: str) -> PostprocessSettings:
        """From the JSON text that Triton hands to a Python model as "model_config". Raises SettingsError."""
        return cls.from_parameters(read_parameters(model_config))

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> PostprocessSettings:
        """Raises SettingsError."""
        reader = _Reader(parameters)
        settings = cls(
            recipe=reader.optional("recipe", str, ""),
            recipe_sha256=reader.optional("recipe_sha256", str, ""),
            labels_file=reader.optional("labels_file", str, "labels.txt"),
            default_k=reader.optional("default_k", int, 5),
        )
        if settings.default_k < 1:
            raise SettingsError(f"parameter default_k is {settings.default_k}, but must be at least 1")
        reader.refuse_unknown()
        return settings

    def to_parameters(self) -> dict[str, str]:
        """The inverse of from_parameters."""
        return {
            "recipe": self.recipe,
            "recipe_sha256": self.recipe_sha256,
            "labels_file": self.labels_file,
            "default_k": str(self.default_k),
        }


class _Reader:
    """Reads parameters by name and keeps count, so that a misspelt one is refused and not passed over."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters
        self._asked: set[str] = set()

    def required(self, name: str, parse: Callable[[str], T]) -> T:
        if name not in self._parameters:
            raise SettingsError(f"parameter {name} is missing: build the model again with jpeg-build")
        return self._read(name, parse)

    def optional(self, name: str, parse: Callable[[str], Any], default: T) -> T:
        self._asked.add(name)
        if name not in self._parameters:
            return default
        value: T = self._read(name, parse)
        return value

    def _read(self, name: str, parse: Callable[[str], T]) -> T:
        self._asked.add(name)
        text = self._parameters[name]
        try:
            return parse(text.strip())
        except ValueError as error:
            reason = str(error) if parse in _EXPLAINED else "it must be a whole number"
            raise SettingsError(f"parameter {name} is {text!r}: {reason}") from error

    def refuse_unknown(self) -> None:
        # Triton's own parameters (EXECUTION_ENV_PATH and the like) are in capitals.
        for name in self._parameters:
            if name not in self._asked and not name.isupper():
                near = difflib.get_close_matches(name, self._asked, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(self._asked))}"
                raise SettingsError(f"parameter {name} is unknown; {hint}")


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("it must be true or false")
    return text == "true"


def _decoder(text: str) -> Decoder:
    decoders: tuple[Decoder, ...] = get_args(Decoder)
    for decoder in decoders:
        if text == decoder:
            return decoder
    raise ValueError(f"it must be one of {', '.join(decoders)}")


def _natural(text: str) -> int:
    if not text.isdigit():
        raise ValueError("it must be a whole number, 0 or more")
    return int(text)


def _size(text: str) -> Size:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError("it must be HEIGHT,WIDTH in pixels")
    return int(parts[0]), int(parts[1])


def _int_or_size(text: str) -> int | Size:
    return int(text) if text.isdigit() else _size(text)


_EXPLAINED = (_bool, _decoder, _natural, _size, _int_or_size)


def _format_bool(value: bool) -> str:
    return "true" if value else "false"


def _format_size(size: Size) -> str:
    return f"{size[0]},{size[1]}"
