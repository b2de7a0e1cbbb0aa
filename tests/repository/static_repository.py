"""A model repository that no build made: the committed configs over a network of a few kilobytes.

Its network returns the same logits for every image, so that its best class is known without a computation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jpeg_contract import model_config
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.labels import read_labels
from jpeg_contract.report import (
    SCHEMA_VERSION,
    ArtefactFile,
    KnownClass,
    ParityResult,
    Report,
    Tolerance,
    WeightsSource,
    write_report,
)
from support import ROOT, copy_committed_repository

CLASSES = 1000
BEST, SECOND = 967, 968  # espresso, cup

COMMITTED = ROOT / "model_repository"
RECIPE = "mobilenet_v2"
RECIPE_SHA256 = model_config.parameters(model_config.read(COMMITTED / "preprocess" / "config.pbtxt"))["recipe_sha256"]


def make_network(path: Path, best: int = BEST, classes: int = CLASSES, crop: tuple[int, int] = (224, 224)) -> None:
    """Write an ONNX network whose best class is always `best`, and the second best the class after it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    logits = np.linspace(-1, 0, classes, dtype=np.float32)
    logits[(best + 1) % classes] = 5
    logits[best] = 8
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input__0"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Unsqueeze", ["nothing", "one"], ["column"]),
            helper.make_node("Add", ["column", "logits"], ["output__0"]),
        ],
        "constant",
        [helper.make_tensor_value_info("input__0", TensorProto.UINT8, ["batch", *crop, 3])],
        [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, ["batch", classes])],
        [
            numpy_helper.from_array(np.zeros((), np.float32), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(logits, "logits"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def make_report(artefact: Path, form: str = "onnx", **fields: Any) -> Report:
    """Write a report on an artefact as a build does, with these fields in place of the usual ones."""
    report = Report(
        schema_version=SCHEMA_VERSION,
        recipe=RECIPE,
        recipe_sha256=RECIPE_SHA256,
        form=form,
        precision="fp32",
        classes=CLASSES,
        input=[224, 224, 3],
        artefact=ArtefactFile(file=artefact.name, sha256=artefact_sha256(artefact)),
        weights=WeightsSource(source="none"),
        parity=ParityResult(
            photos=0,
            random_images=0,
            largest_logit=8.0,
            max_abs_difference=0.0,
            mean_abs_difference=0.0,
            relative_difference=0.0,
            mean_difference=0.0,
            top1_agreement=1.0,
            top5_overlap=1.0,
        ),
        tolerance=Tolerance(
            relative_difference=0.0, mean_difference=0.0, top1_agreement=1.0, top5_overlap=1.0, tie=0.0
        ),
        probe=known_classes(BEST),
    )
    report = msgspec.structs.replace(report, **fields)
    write_report(report, artefact)
    return report


def known_classes(*indices: int) -> list[KnownClass]:
    """The classes of a report's probe, by their indices."""
    labels = read_labels(COMMITTED / "postprocess" / "labels.txt")
    return [KnownClass(index=index, label=labels[index], score=0.9) for index in indices]


def make_repository(repository: Path) -> Path:
    """Make a repository that is served as it is: the committed one with the constant network."""
    copy_committed_repository(repository)
    folder = repository / "classifier_onnx" / "1"
    folder.mkdir()
    make_network(folder / "model.onnx")
    make_report(folder / "model.onnx")
    return repository
