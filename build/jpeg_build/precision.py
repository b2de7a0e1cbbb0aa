"""The ONNX file in the wanted precision: fp32 as exported, fp16 by conversion, int8 as Q/DQ after calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from jpeg_build.emitters import Job
from jpeg_build.half import to_half
from jpeg_build.onnx_graph import finish
from jpeg_build.onnx_values import opset, with_kernel_shapes, with_opset
from jpeg_build.photos import random_pixels
from jpeg_build.planes import normalise_planes
from jpeg_build.quantise import Dialect, quantise

# Fewer images than this are no calibration set.
ENOUGH_IMAGES = 100

# The newest that TensorRT 8.6 reads, and later ones too.
TENSORRT_OPSET = 17

# Images that the range of values is measured on for fp16, one at a time.
LOOKED_AT = 32


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file of the contract in some precision, with what the report and the user should know of it."""

    path: Path
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_onnx(job: Job, path: Path, *, dialect: Dialect) -> OnnxFile:
    """Write the job's network to `path` in the job's precision.

    dialect: who is to run it: int8 has forms that one runs well and another does not, and TensorRT 8.6 reads no
    operator set beyond 17, to which a file is lowered if ONNX can.

    Raises BuildError.
    """
    job.say("exporting to ONNX")
    job.network.export_onnx(path)
    notes = []
    if dialect == "tensorrt":
        notes += _for_tensorrt(path)
    else:
        finish(normalise_planes(onnx.load(str(path))), path)
    if job.precision == "fp16":
        details = _fp16(job, path)
    elif job.precision == "int8":
        details, said = _int8(job, path, dialect)
        notes += said
    else:
        details = {}
    return OnnxFile(path, details, notes)


def _for_tensorrt(path: Path) -> list[str]:
    """Write the file as TensorRT's parser from 8.6 on wants it; returns what the user should know."""
    model = with_kernel_shapes(onnx.load(str(path)))
    notes = []
    if opset(model) > TENSORRT_OPSET:
        try:
            model = with_opset(model, TENSORRT_OPSET)
        except ValueError as error:
            notes.append(
                f"the ONNX file is of opset {opset(model)}, TensorRT 8.6 reads up to {TENSORRT_OPSET}, and ONNX cannot "
                f"lower it ({error}): with TensorRT 8.6, compare the engine's answers with care"
            )
    finish(model, path)
    return notes


def _fp16(job: Job, path: Path) -> dict[str, Any]:
    job.say("converting to fp16")
    images = np.concatenate([job.photos[:LOOKED_AT], random_pixels(job.recipe)])
    half = to_half(onnx.load(str(path)), images)
    finish(half.model, path)
    return {"in_fp16": half.converted, "kept_in_fp32": len(half.kept)}


def _int8(job: Job, path: Path, dialect: Dialect) -> tuple[dict[str, Any], list[str]]:
    images = job.calibration()
    quantised = quantise(onnx.load(str(path)), images, dialect, job.say)
    finish(quantised.model, path)
    details = {
        "quantiser": "onnxruntime",
        "calibration_images": len(images),
        "calibration_method": "mean of each image's range, bias correction",
        "in_int8": quantised.layers,
        "kept_in_fp32": len(quantised.kept),
    }
    notes = []
    if len(images) < ENOUGH_IMAGES:
        notes.append(
            f"INT8 WAS CALIBRATED ON {len(images)} IMAGES. A handful of photos is no calibration set: give "
            "--calibration FOLDER with some hundred photos of what the classifier will really see"
        )
    return details, notes
