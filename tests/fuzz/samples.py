"""The network under test, and the data of valid requests.

The network names the corner of the colour cube that is nearest to the mean colour of an image: it is quick, and images
of one colour encode which label belongs to them. The server has it twice: with a softmax, for JPEGs; and as `SEVERAL`
with a sigmoid and a threshold, for images of several formats.
"""

from __future__ import annotations

import base64
import functools
import io
import itertools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.tensors import ERROR, IMAGE, INPUT, LABEL, OUTPUT
from numpy.typing import NDArray
from PIL import Image
from support import PHOTOS, copy_committed_repository, encode, noise, run_module

SIDE = 32
MEAN, STD = 0.5, 0.25
COLOURS = {
    f"colour_{red}{green}{blue}": tuple(48 + 160 * bit for bit in (red, green, blue))
    for red, green, blue in itertools.product((0, 1), repeat=3)
}

RECIPE = f"""\
classes = {len(COLOURS)}
labels = "corners.txt"

[geometry]
resize_size = {SIDE}
crop_size = {SIDE}

[normalisation]
mean = [{MEAN}, {MEAN}, {MEAN}]
std = [{STD}, {STD}, {STD}]

[source]
kind = "onnx"
file = "corners.onnx"
output = "logits"
"""

SEVERAL = "several"
FORMATS = ("jpeg", "png", "webp", "gif", "tiff")
_SEVERAL_KEYS = f"""\
output = "sigmoid"
threshold = 0.5
formats = {list(FORMATS)}
""".replace("'", '"')

NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
DATATYPES = (*NUMPY_TYPES, "BF16", "BYTES")


class FuzzError(Exception):
    """The fuzzer cannot work here."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model: name, data type as requests name it, shape without the batch; -1 is any length."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A model that the server has, as its metadata describe it, and the formats of the images that it takes."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    formats: tuple[str, ...] = ("jpeg",)

    @property
    def is_ensemble(self) -> bool:
        """Whether it makes labels of images."""
        return {IMAGE, LABEL} <= {tensor.name for tensor in (*self.inputs, *self.outputs)}


@dataclass(frozen=True)
class Sample:
    """An encoded image, and its best label."""

    name: str
    data: bytes
    label: str


def make_repository(folder: Path) -> Path:
    """Build the network twice into a copy of the committed repository, and return that copy."""
    from onnx import TensorProto, helper, numpy_helper, save

    repository = folder / "model_repository"
    copy_committed_repository(repository)
    centres = (np.array(list(COLOURS.values()), np.float32) / 255 - MEAN) / STD
    # -|x - c|^2 = 2 x.c - |c|^2, without a term that all classes share.
    weights = {"matrix": 2 * centres.T, "bias": -(centres**2).sum(axis=1)}
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"]),
        ],
        "corners",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(COLOURS)])],
        [numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, str(folder / "corners.onnx"))
    (folder / "corners.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    for name, keys, options in (("corners", "", ()), (SEVERAL, _SEVERAL_KEYS, ("--name", SEVERAL))):
        recipe = folder / f"{name}.toml"
        recipe.write_text(keys + RECIPE)
        done = run_module("jpeg_build", recipe, "--model-repository", repository, *options)
        if done.returncode != 0:
            raise FuzzError(f"the network of the fuzzer could not be built: {done.stderr}")
    return repository


@functools.cache
def colour_samples(formats: tuple[str, ...] = ("jpeg",)) -> tuple[Sample, ...]:
    """One image for each label, of different sizes, and of these formats in turn."""
    samples = []
    for place, (name, colour) in enumerate(COLOURS.items()):
        data = io.BytesIO()
        image = Image.new("RGB", (40 + 24 * place, 90 - 8 * place), colour)
        image.save(data, formats[place % len(formats)], quality=95)
        samples.append(Sample(name, data.getvalue(), name))
    return tuple(samples)


def photo_samples() -> tuple[Sample, ...]:
    """The photos, with the label that torchvision's transform leads to."""
    return tuple(
        Sample(path.stem, path.read_bytes(), _nearest(Image.open(path).convert("RGB")))
        for path in sorted(PHOTOS.glob("*.jpg"))
    )


def _nearest(image: Image.Image) -> str:
    scale = SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    small = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + SIDE, top + SIDE))
    mean = np.asarray(small, np.float32).mean(axis=(0, 1))
    return min(COLOURS, key=lambda name: float(((mean - np.array(COLOURS[name])) ** 2).sum()))


@functools.cache
def broken_images() -> dict[str, bytes]:
    """Images that have no label, and unusual ones that have."""
    good = colour_samples()[5].data
    frame = good.index(b"\xff\xc0")
    picture = noise(50, 40)

    def as_format(name: str) -> bytes:
        data = io.BytesIO()
        noise(9, 9).save(data, name)
        return data.getvalue()

    others = {name: as_format(name) for name in FORMATS[1:]}

    def with_size(height: int, width: int) -> bytes:
        return good[: frame + 5] + struct.pack(">HH", height, width) + good[frame + 9 :]

    return {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"hello",
        **others,
        **{f"half {name}": data[: len(data) // 2] for name, data in others.items()},
        **{f"start of {name}": data[:12] + bytes(40) for name, data in others.items()},
        "start only": b"\xff\xd8\xff",
        "half": good[: len(good) // 2],
        "marker soup": b"\xff\xd8\xff\xda" + bytes(200),
        "too many pixels": with_size(60_000, 60_000),
        "no height": with_size(0, 100),
        "one pixel": encode(Image.new("RGB", (1, 1))),
        "wide": encode(Image.new("RGB", (3000, 1))),
        "grey": encode(picture.convert("L")),
        "cmyk": encode(picture.convert("CMYK")),
        "progressive": encode(picture, progressive=True),
        "exif": encode(picture, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        "broken exif": encode(picture, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "trailing zeros": good + bytes(100_000),
        "two images": good + good,
        "base64": base64.b64encode(good),
        "base64 in lines": base64.encodebytes(good),
        "base64 for URLs": base64.urlsafe_b64encode(good).rstrip(b"="),
        "broken base64": base64.b64encode(good)[:101],
        "data URL": b"data:image/jpeg;base64," + base64.b64encode(good),
        "percent-encoded data URL": b"data:image/jpeg,%FF%D8%FF%E0",
    }


def sample_arrays(model: Model, batch: int, seed: int) -> list[NDArray[Any]]:
    """Return data that a model takes for its inputs: (batch, *dims); for BYTES object arrays of bytes."""
    return [_sample_array(tensor, batch, seed, model.formats) for tensor in model.inputs]


def sample_labels(model: Model, batch: int, seed: int) -> tuple[str, ...] | None:
    """Return the labels of the images of `sample_arrays`; None for a model that makes none."""
    if not model.is_ensemble:
        return None
    samples = colour_samples(model.formats)
    return tuple(samples[(seed + place) % len(samples)].label for place in range(batch))


def _sample_array(tensor: Tensor, batch: int, seed: int, formats: tuple[str, ...]) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    shape = (batch, *(2 if length == -1 else length for length in tensor.dims))
    if tensor.name == IMAGE:
        samples = colour_samples(formats)
        images = [samples[(seed + place) % len(samples)].data for place in range(batch)]
        return np.array(images, dtype=object).reshape(shape)
    if tensor.name == ERROR:
        return np.full(shape, b"", dtype=object)
    if tensor.name == INPUT:
        colours = np.array(list(COLOURS.values()), np.uint8)[random.integers(0, len(COLOURS), batch)]
        return np.broadcast_to(colours[:, None, None, :], shape).copy()
    if tensor.name == OUTPUT:
        return random.normal(0, 3, shape).astype(np.float32)
    if tensor.datatype == "BYTES":
        return np.full(shape, b"text", dtype=object)
    return random.integers(0, 100, shape).astype(NUMPY_TYPES[tensor.datatype])


def to_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as requests carry it: BYTES elements with their length in front, others as they lie in memory."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())
    return array.tobytes()


def from_bytes(raw: bytes, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read what `to_bytes` wrote."""
    if datatype != "BYTES":
        return np.frombuffer(raw, NUMPY_TYPES[datatype]).reshape(shape)
    elements, start = [], 0
    while start < len(raw):
        (length,) = struct.unpack_from("<I", raw, start)
        elements.append(raw[start + 4 : start + 4 + length])
        start += 4 + length
    return np.array(elements, dtype=object).reshape(shape)
