"""What a server says about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jpeg_contract.tensors import OUTPUT

from jpeg_client.errors import JpegClientError


@dataclass(frozen=True)
class ModelDescription:
    """An ensemble and its classifier.

    Attributes:
        name: Of the ensemble.
        version: The newest of its versions in the server.
        max_batch_size: Images per request, at least 1.
        classifier: Name of the classifier's model.
        backend: Triton backend of the classifier, such as "onnxruntime".
        precision: Of the classifier, such as "fp16"; None where its config does not state it.
        classes: Number of classes.
    """

    name: str
    version: str
    max_batch_size: int
    classifier: str
    backend: str
    precision: str | None
    classes: int


def max_batch_size(config: Mapping[str, Any]) -> int:
    """Return the images per request that a model's config allows; 1 for a model without batching."""
    return max(1, int(config.get("max_batch_size", 0)))


def classifier_name(config: Mapping[str, Any]) -> str:
    """Return the name of the classifier in an ensemble's config.

    Raises:
        JpegClientError: The model is not an ensemble of this project.
    """
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    names = [str(step["model_name"]) for step in steps if OUTPUT in step.get("output_map", {})]
    if len(names) != 1:
        raise JpegClientError(
            f"the model {config.get('name')!r} has no step with the output {OUTPUT}: it must be the ensemble of this "
            "project",
            reason="not_an_ensemble",
        )
    return names[0]


def describe(
    ensemble: Mapping[str, Any], classifier: Mapping[str, Any], metadata: Mapping[str, Any]
) -> ModelDescription:
    """Describe an ensemble by its config, that of its classifier, and the metadata of the ensemble."""
    logits = next(tensor for tensor in classifier["output"] if tensor["name"] == OUTPUT)
    return ModelDescription(
        name=str(ensemble["name"]),
        version=max(map(str, metadata.get("versions", [])), key=lambda version: (len(version), version), default=""),
        max_batch_size=max_batch_size(ensemble),
        classifier=str(classifier["name"]),
        backend=str(classifier.get("backend") or classifier.get("platform")),
        precision=classifier.get("metric_tags", {}).get("precision"),
        classes=int(logits["dims"][-1]),
    )
