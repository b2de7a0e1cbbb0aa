"""What a server says about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jpeg_contract.model_names import is_router
from jpeg_contract.tensors import LABEL, OUTPUT, PIXELS, POSTPROCESS, PREPROCESS

from jpeg_client.errors import JpegClientError


@dataclass(frozen=True)
class ModelDescription:
    """An ensemble and its classifier.

    Attributes:
        name: Of the ensemble.
        version: The newest of its versions in the server.
        max_batch_size: Images per request, at least 1.
        classifier: Name of the classifier's model; while another one is tried, that of the one in use.
        backend: Triton backend of the classifier, such as "onnxruntime".
        precision: Of the classifier, such as "fp16"; None where its config does not state it.
        classes: Number of classes.
        output: "softmax" for scores that sum to 1 over all classes, "sigmoid" for a score of each label by itself.
        threshold: Labels with a lower score are left out, unless a request sets its own.
        formats: Of images that the server decodes, such as "jpeg" and "png".
        preprocess: Name of the model that decodes, which several ensembles may share.
        postprocess: Name of the model that labels.
        router: Name of the model that hands each request on to `classifier` or to the one that is tried; None where
            none is.
    """

    name: str
    version: str
    max_batch_size: int
    classifier: str
    backend: str
    precision: str | None
    classes: int
    output: str = "softmax"
    threshold: float = 0.0
    formats: tuple[str, ...] = ("jpeg",)
    preprocess: str = PREPROCESS
    postprocess: str = POSTPROCESS
    router: str | None = None


def max_batch_size(config: Mapping[str, Any]) -> int:
    """Return the images per request that a model's config allows; 1 for a model without batching."""
    return max(1, int(config.get("max_batch_size", 0)))


def classifier_name(config: Mapping[str, Any]) -> str:
    """Return the name of the classifier in an ensemble's config.

    Raises:
        JpegClientError: The model is not an ensemble of this project.
    """
    return _step_name(config, OUTPUT)


def postprocess_name(config: Mapping[str, Any]) -> str:
    """Return the name of the model that makes labels in an ensemble's config. Raises as `classifier_name`."""
    return _step_name(config, LABEL)


def preprocess_name(config: Mapping[str, Any]) -> str:
    """Return the name of the model that decodes in an ensemble's config. Raises as `classifier_name`."""
    return _step_name(config, PIXELS)


def answering_name(config: Mapping[str, Any]) -> str:
    """Return the name of the classifier that answers for a step: the step itself, of a router the one in use.

    Args:
        config: Of the step that `classifier_name` names.
    """
    name = str(config["name"])
    return _parameters(config).get("primary", name) if is_router(name) else name


def _step_name(config: Mapping[str, Any], output: str) -> str:
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    names = [str(step["model_name"]) for step in steps if output in step.get("output_map", {})]
    if not names:
        raise JpegClientError(
            f"the model {config.get('name')!r} has no step with the output {output}: it must be the ensemble of this "
            "project",
            reason="not_an_ensemble",
        )
    return names[0]  # of several networks on one image, the first


def describe(
    ensemble: Mapping[str, Any],
    *,
    preprocess: Mapping[str, Any],
    step: Mapping[str, Any],
    classifier: Mapping[str, Any],
    postprocess: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> ModelDescription:
    """Describe an ensemble.

    Args:
        ensemble: Its config.
        preprocess: Config of the model that decodes.
        step: Of the one that `classifier_name` names.
        classifier: Of the one that `answering_name` names.
        postprocess: Of the model that labels.
        metadata: Of the ensemble.
    """
    logits = next(tensor for tensor in classifier["output"] if tensor["name"] == OUTPUT)
    parameters = _parameters(postprocess)
    return ModelDescription(
        name=str(ensemble["name"]),
        version=max(map(str, metadata.get("versions", [])), key=lambda version: (len(version), version), default=""),
        max_batch_size=max_batch_size(ensemble),
        classifier=str(classifier["name"]),
        backend=str(classifier.get("backend") or classifier.get("platform")),
        # Of two versions, the classifier's own config states that of the newer one.
        precision=step.get("metric_tags", {}).get("precision"),
        classes=int(logits["dims"][-1]),
        # Configs of earlier versions have none of these.
        output=parameters.get("output", "softmax"),
        threshold=float(parameters.get("threshold", 0)),
        formats=tuple(name.strip() for name in _parameters(preprocess).get("formats", "jpeg").split(",")),
        preprocess=str(preprocess["name"]),
        postprocess=str(postprocess["name"]),
        router=str(step["name"]) if step["name"] != classifier["name"] else None,
    )


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
