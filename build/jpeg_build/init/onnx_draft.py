"""Drafts of recipes for ONNX files: from shapes, metadata, and the outputs for noise."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime as ort
from jpeg_contract.inside import PathOutside
from jpeg_contract.settings import Head
from numpy.typing import NDArray

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.graphs.onnx_graph import describe, inputs, keep_output, sizes
from jpeg_build.graphs.onnx_values import session
from jpeg_build.init.labels import read_label_text
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.networks.onnx_network import DTYPES
from jpeg_build.networks.reference import SIGMOID_VALUES
from jpeg_build.recipe.keys import Layout, Output
from jpeg_build.recipe.sources import onnx_weights

# Side of the noise where the file leaves the size open: most networks take it.
_USUAL_SIZE = 224
_NOISE_IMAGES = 16

# Metadata for images that the ONNX specification names (docs/MetadataProps.md).
_COLORS = {"rgb8": "RGB", "srgb8": "RGB", "rgba8": "RGB", "bgr8": "BGR", "bgra8": "BGR", "gray8": "GRAY"}
_RANGES = {"nominalrange_0_255": "0..255", "normalized_0_1": "0..1", "normalized_1_1": "-1..1"}

# Where exporters keep the labels: Ultralytics (`names`), RapidAI and PaddleOCR (`character`), and usual names.
_LABEL_KEYS = ("names", "character", "id2label", "labels", "class_names", "classes")


Values = NDArray[np.float32]


def draft(
    file: Path,
    *,
    layout: Layout | None = None,
    output_name: str | None = None,
    crop_size: tuple[int, int] | None = None,
) -> Draft:
    """Describe an ONNX file. It runs on noise, which shows the kind of its output.

    Args:
        file: The ONNX file.
        layout: Order of the input's axes, where the user states it.
        output_name: The output to take, likewise.
        crop_size: (height, width) of the images, likewise.

    Raises:
        NetworkError: It cannot be loaded, or does not take images.
    """
    ort.set_default_logger_severity(4)
    model = _load(file)
    metadata = {entry.key.lower(): entry.value for entry in model.metadata_props}
    labels = _labels(metadata)
    several = len(model.graph.output) > 1
    if output_name is not None and any(output.name == output_name for output in model.graph.output):
        keep_output(model, output_name)
    image = _image(model, file)
    found, layouts = _run(file, model, image, layout, crop_size)
    candidates = _candidates(found, labels)
    choices: dict[str, Sequence[str]] = {}
    source: dict[str, Any] = {"kind": "onnx", "file": str(file)}
    notes: list[str] = []
    if len(layouts) > 1:
        choices["layout"] = layouts
    elif len(_layouts(sizes(image), None)) > 1:
        source["layout"] = layouts[0]
    name = next(iter(candidates), None) if len(candidates) == 1 or not several else None
    if several:
        if name is None:
            choices["output_name"] = list(candidates) or [output.name for output in model.graph.output]
        else:
            source["output_name"] = name
    classes, head, kind = _describe_output(None if name is None else candidates.get(name), notes)
    if kind is None:
        choices["output"] = get_args(Output)
    else:
        source["output"] = kind
    if labels is not None and classes not in (None, len(labels)):
        notes.append(f"its metadata has {len(labels)} labels for {classes} classes: they are left out")
        labels = None
    side = _size(sizes(image), layouts[0]) or _stated_size(metadata)
    return Draft(
        name=file.stem,
        source=source,
        classes=len(labels) if labels is not None else classes,
        labels=labels,
        output=head,
        geometry=_geometry(metadata, side),
        normalisation=_normalisation(metadata, sizes(image), layouts),
        notes=notes,
        choices=choices,
    )


def _load(file: Path) -> Any:
    try:
        onnx_weights(file)
        return onnx.load(str(file))
    except PathOutside as error:
        raise NetworkError(f"{file}: its file of weights {error}", reason=error.reason) from error
    except Exception as error:
        raise NetworkError(
            f"{file}: cannot be loaded as an ONNX model: {first_line(error)}", reason="network_not_loaded"
        ) from error


def _image(model: Any, file: Path) -> Any:
    """Return the only input with the four axes of images. Raises NetworkError."""
    found = inputs(model.graph)
    images = [tensor for tensor in found if tensor.type.tensor_type.elem_type in DTYPES and len(sizes(tensor)) == 4]
    if len(images) == 1:
        return images[0]
    shown = ", ".join(f"{tensor.name} ({describe(tensor)})" for tensor in found) or "none"
    raise NetworkError(
        f"{file}: its inputs are {shown}, but must be one batch of images: float, with four axes",
        reason="several_inputs" if images else "input_shape",
    )


def _layouts(shape: Sequence[int], stated: Layout | None) -> list[Layout]:
    """Return the orders of axes that a shape can be: 1 or 3 channels in their place, otherwise an open axis there."""
    if stated is not None:
        return [stated]
    places: dict[Layout, int] = {"NCHW": shape[1], "NHWC": shape[3]}
    for fitting in ((1, 3), (0,)):
        found = [layout for layout, channels in places.items() if channels in fitting]
        if found:
            return found
    return ["NCHW", "NHWC"]


def _size(shape: Sequence[int], layout: Layout) -> tuple[int, int] | None:
    height, width = shape[2:4] if layout == "NCHW" else shape[1:3]
    return (height, width) if height and width else None


def _run(
    file: Path, model: Any, image: Any, stated: Layout | None, crop_size: tuple[int, int] | None
) -> tuple[dict[str, Values], list[Layout]]:
    """Run a file on noise.

    Returns:
        Its outputs, (N, values) each, by name; none if it does not run. And the orders of axes in which it runs, or all
        possible ones.
    """
    try:
        # A model with further inputs runs without those that its outputs do not need.
        opened: Any = (
            ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            if len(inputs(model.graph)) == 1
            else session(model)
        )
    except Exception as error:
        raise NetworkError(
            f"{file}: cannot be loaded as an ONNX model: {first_line(error)}", reason="network_not_loaded"
        ) from error
    names = [output.name for output in model.graph.output]
    found: dict[str, Values] = {}
    possible = _layouts(sizes(image), stated)
    runs: list[Layout] = []
    for layout in possible:
        # It fails with the wrong order of axes, or a size that the network does not take.
        with contextlib.suppress(Exception):
            found |= dict(_values(opened, names, image, layout, crop_size))
            runs.append(layout)
    return found, runs or possible


def _values(
    opened: Any, names: Sequence[str], image: Any, layout: Layout, crop_size: tuple[int, int] | None
) -> Iterator[tuple[str, Values]]:
    """Run noise, and yield the float outputs of one row for each image."""
    shape = sizes(image)
    height, width = _size(shape, layout) or crop_size or (_USUAL_SIZE, _USUAL_SIZE)
    channels = (shape[1] if layout == "NCHW" else shape[3]) or 3
    batch = shape[0] or _NOISE_IMAGES
    random = np.random.default_rng(0)
    axes = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    runs: list[list[Any]] = []
    for number in range(-(-_NOISE_IMAGES // batch)):
        # Normalised and plain pixels: a network for one of them saturates on the other.
        images = random.normal(0, 1 if number % 2 else 2, (batch, *axes))
        images[::2] = images[::2] * 50 + 128
        runs.append(opened.run(names, {image.name: images.astype(DTYPES[image.type.tensor_type.elem_type])}))
    for name, outputs in zip(names, zip(*runs, strict=True), strict=True):
        rows = [each.reshape(batch, -1) for each in outputs if each.dtype.kind == "f" and _is_row(each.shape, batch)]
        if len(rows) == len(runs):
            yield name, np.concatenate(rows).astype(np.float32)


def _is_row(shape: Sequence[int], batch: int) -> bool:
    """Whether an output has one row of values for each image."""
    rest = [size for size in shape[1:] if size != 1]
    return len(shape) > 0 and ((shape[0] == batch and len(rest) <= 1) or (batch == 1 and len(shape) == 1))


def _candidates(found: Mapping[str, Values], labels: Sequence[str] | None) -> Mapping[str, Values]:
    """Return the outputs that may be the scores: those with a value for each label, if one is."""
    if labels is not None:
        fitting = {name: each for name, each in found.items() if each.shape[1] == len(labels)}
        return fitting or found
    return found


def _describe_output(values: Values | None, notes: list[str]) -> tuple[int | None, Head, Output | None]:
    """Return classes, head and kind of an output; None for what it does not show."""
    if values is None:
        return None, "softmax", None
    classes = values.shape[1]
    finite = values[np.isfinite(values).all(axis=1)]
    if not len(finite):
        return classes, "softmax", None
    bounded = bool((finite >= 0).all() and (finite <= 1 + 1e-3).all())
    if classes == 1:
        text = "it has one value for each image: that of the second of two classes, or of one label"
        notes.append(Hint(text, "classes|scores|labels"))
        return None, "softmax", "probabilities" if bounded else "logits"
    if bounded and np.allclose(finite.sum(axis=1), 1, atol=1e-2):
        return classes, "softmax", "probabilities"
    inside = bool(((finite > 0) & (finite < 1)).any())
    if bounded and inside and finite.size >= SIGMOID_VALUES:
        text = "its values lie in [0, 1] and do not sum to 1, as those of a sigmoid: a score for each label"
        notes.append(Hint(text, "scores"))
        return classes, "sigmoid", "probabilities"
    return classes, "softmax", "logits"


def _labels(metadata: Mapping[str, str]) -> list[str] | None:
    """Read the labels in a file's metadata: a Python or JSON list, or mapping from index to label, or lines."""
    for key in _LABEL_KEYS:
        if key in metadata and (found := read_label_text(metadata[key])):
            return found
    return None


def _stated_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Read the size in Ultralytics' metadata: `[224, 224]`."""
    try:
        value = json.loads(metadata["imgsz"])
        height, width = (value, value) if isinstance(value, int) else value
        return int(height), int(width)
    except (KeyError, TypeError, ValueError):
        return None


def _geometry(metadata: Mapping[str, str], side: tuple[int, int] | None) -> dict[str, Any] | None:
    if side is None:
        return None
    size = side[0] if side[0] == side[1] else list(side)
    if _is_ultralytics(metadata):
        # Its validation resizes the shorter side to the crop.
        return {"resize_size": size if isinstance(size, int) else max(side), "crop_size": size}
    return {"crop_size": size}


def _normalisation(
    metadata: Mapping[str, str], shape: Sequence[int], layouts: Sequence[Layout]
) -> dict[str, Any] | None:
    if _is_ultralytics(metadata):
        return {"scale": "0..1"}
    found = {}
    if color := _COLORS.get(metadata.get("image.bitmappixelformat", "").lower()):
        found["color"] = color
    elif (shape[1] if layouts[0] == "NCHW" else shape[3]) == 1:
        found["color"] = "GRAY"
    if scale := _RANGES.get(metadata.get("image.nominalpixelrange", "").lower()):
        found["scale"] = scale
    return found or None


def _is_ultralytics(metadata: Mapping[str, str]) -> bool:
    return metadata.get("task") == "classify" and "names" in metadata and "imgsz" in metadata
