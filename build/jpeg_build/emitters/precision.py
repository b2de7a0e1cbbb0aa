"""ONNX files in each precision: fp32 as exported, fp16 by conversion, int8 as Q/DQ after calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jpeg_contract.report import Quantisation

from jpeg_build.emitters import Job
from jpeg_build.graphs.half import to_half
from jpeg_build.graphs.int8_forms import int8_forms
from jpeg_build.graphs.onnx_graph import finish
from jpeg_build.graphs.onnx_values import with_kernel_shapes
from jpeg_build.graphs.opset import opset, with_opset
from jpeg_build.graphs.planes import normalise_planes
from jpeg_build.graphs.quantise import Dialect, Quantised
from jpeg_build.photos import ENOUGH_TO_CALIBRATE, random_pixels

# The newest opset that TensorRT 8.6 reads; later versions read it, too.
TENSORRT_OPSET = 17

# Photos that the ranges for fp16 are measured on.
RANGE_PHOTOS = 32


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file of the contract.

    Attributes:
        path: The file.
        details: For the report.
        notes: Lines for the user.
        quantisation: How an int8 file was found, for the report.
    """

    path: Path
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    quantisation: Quantisation | None = None


def write_onnx(job: Job, path: Path, *, dialect: Dialect) -> OnnxFile:
    """Write the job's network in the job's precision.

    Args:
        job: Network, precision and images.
        path: Of the ONNX file.
        dialect: The runtime that the file is for. It decides the form of int8, and for TensorRT the opset: 8.6 reads up
            to 17, to which a file is lowered if ONNX can convert it.

    Raises:
        BuildError: The network cannot be exported, converted or quantised.
        ParityError: No int8 form is within the tolerance.
    """
    job.progress("exporting to ONNX")
    job.network.export_onnx(path)
    notes = []
    if dialect == "tensorrt":
        notes += _for_tensorrt(path)
    else:
        finish(normalise_planes(onnx.load(str(path))), path)
    if job.precision == "fp16":
        details = _fp16(job, path)
    elif job.precision == "int8":
        made = _int8(job, path, dialect)
        return replace(made, notes=[*notes, *made.notes])
    else:
        details = {}
    return OnnxFile(path, details, notes)


def _for_tensorrt(path: Path) -> list[str]:
    """Rewrite the file for TensorRT's parser from 8.6 on; return notes for the user."""
    model = with_kernel_shapes(onnx.load(str(path)))
    notes = []
    if opset(model) > TENSORRT_OPSET:
        try:
            model = with_opset(model, TENSORRT_OPSET)
        except ValueError as error:
            notes.append(
                f"the ONNX file is of opset {opset(model)}, which ONNX cannot convert to {TENSORRT_OPSET} ({error}), "
                "the newest that TensorRT 8.6 reads: with TensorRT 8.6, verify the engine on your own photos"
            )
    finish(model, path)
    return notes


def _fp16(job: Job, path: Path) -> dict[str, Any]:
    job.progress("converting to fp16")
    images = np.concatenate([job.photos[:RANGE_PHOTOS], random_pixels(job.recipe)])
    half = to_half(onnx.load(str(path)), images)
    finish(half.model, path)
    return {"in_fp16": half.converted, "kept_in_fp32": len(half.kept)}


def _int8(job: Job, path: Path, dialect: Dialect) -> OnnxFile:
    images, model = job.calibration(), onnx.load(str(path))

    def forms() -> Iterator[Quantised]:
        return int8_forms(model, images, dialect, job.progress)

    search = job.int8
    form = next(forms()) if search is None else search.next_form(forms, job.progress)
    finish(form.model, path)
    details = {
        "quantiser": "onnxruntime",
        "calibration_images": len(images),
        "calibration_method": f"{form.strategy}, bias correction",
        "in_int8": form.layers,
        "kept_in_fp32": len(form.kept),
    }
    notes = [search.note(form)] if search is not None and search.note(form) else []
    if len(images) < ENOUGH_TO_CALIBRATE:
        notes.append(
            f"INT8 WAS CALIBRATED ON {len(images)} IMAGES ONLY. Give --calibration FOLDER with some hundred photos "
            "like those that the classifier will get"
        )
    return OnnxFile(path, details, notes, None if search is None else search.report(form, len(images)))
