"""config.pbtxt: reading, writing, and the parts that several packages look at.

Needs tritonclient, whose model_config_pb2 is Triton's own schema; the workers inside Triton do not import this.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

# In this order: tritonclient takes a missing protobuf for an installation of its own without gRPC.
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from jpeg_contract.errors import ReasonedError
from jpeg_contract.model_names import is_router
from jpeg_contract.parameters import SettingsError
from jpeg_contract.routes import Route
from jpeg_contract.tensors import OUTPUT

__all__ = [
    "CONFIG",
    "PRECISION_TAG",
    "ConfigError",
    "ModelConfig",
    "ModelInstanceGroup",
    "choose_classifier",
    "chosen_classifier",
    "data_type",
    "json_format",
    "maker",
    "model_config_pb2",
    "parameters",
    "parse",
    "pin_version",
    "pinned_version",
    "read",
    "rename_step",
    "route_of",
    "text_format",
]

CONFIG = "config.pbtxt"

PRECISION_TAG = "precision"
"""Entry of a classifier's `metric_tags`: clients read it there; Triton's metrics have it as the label _precision."""

KIND_AUTO, KIND_CPU, KIND_GPU = (ModelInstanceGroup.Kind.Value(f"KIND_{kind}") for kind in ("AUTO", "CPU", "GPU"))


# The warnings' filters are those of the process.
_parsing = threading.Lock()


class ConfigError(ReasonedError):
    """A config cannot be read.

    Args:
        message: The fault, as a sentence without its subject.
        line: Where, from 1; 0 if it concerns the file.
        missing: Whether there is no such file.
    """

    reason = "invalid_config"

    def __init__(self, message: str, line: int = 0, *, missing: bool = False) -> None:
        super().__init__(message, reason="config_missing" if missing else None)
        self.line = line
        self.missing = missing


def parse(text: str) -> ModelConfig:
    """Parse a config's text. Raises google.protobuf.text_format.ParseError, with line and column if known."""
    try:
        with _parsing, warnings.catch_warnings():
            # About an unknown escape sequence, which Triton refuses.
            warnings.simplefilter("error", DeprecationWarning)
            return text_format.Parse(text, ModelConfig())
    except (ValueError, DeprecationWarning) as error:  # such as a number out of the range of its field
        raise text_format.ParseError(str(error)) from error


def read(path: Path) -> ModelConfig:
    """Read a config.pbtxt. Raises ConfigError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("is missing", missing=True) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text (byte {error.start})") from error
    except text_format.ParseError as error:
        # The message begins with line and column.
        message = str(error).split(" : ", 1)[-1].replace("\n", " ").strip()
        raise ConfigError(f"cannot be parsed: {message}", error.GetLine() or 0) from error


def parameters(config: ModelConfig) -> dict[str, str]:
    """Return the parameters, names to texts."""
    return {name: str(value.string_value) for name, value in config.parameters.items()}


def set_parameters(config: ModelConfig, values: Mapping[str, str]) -> None:
    """Set parameters; others stay."""
    for name, value in values.items():
        config.parameters[name].string_value = value


def data_type(name: str) -> int:
    """Return the number of a data type, such as that of TYPE_UINT8."""
    return int(model_config_pb2.DataType.Value(name))


def to_triton_json(config: ModelConfig) -> str:
    """Return the JSON that Triton hands to a Python model as "model_config", as far as this project reads it."""
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))


def chosen_classifier(ensemble: ModelConfig) -> str | None:
    """Return the name of the model in the ensemble's classifier step, or None if there is no such step."""
    return maker(ensemble, OUTPUT)


def maker(ensemble: ModelConfig, output: str) -> str | None:
    """Return the name of the first model of an ensemble whose output of that name is used; None if there is none.

    Args:
        ensemble: Config of an ensemble.
        output: As the step names it: `PIXELS` of the model that decodes, `LABEL` of the one that labels.
    """
    for step in ensemble.ensemble_scheduling.step:
        if output in step.output_map:
            return str(step.model_name)
    return None


def route_of(config: ModelConfig) -> Route | None:
    """Return the route of a router's config, None for another model or a route that cannot be read."""
    if not is_router(config.name):
        return None
    try:
        return Route.from_parameters(parameters(config))
    except SettingsError:
        return None


def choose_classifier(text: str, classifier: str) -> str:
    """Return the text of an ensemble's config with another classifier; all else, comments too, stays as it is.

    Raises:
        ValueError: There is no classifier step, or its name cannot be found in the text.
    """
    chosen = chosen_classifier(parse(text))
    if chosen is None:
        raise ValueError(f"no step makes {OUTPUT}")
    changed = rename_step(text, chosen, classifier)
    if chosen_classifier(parse(changed)) != classifier:
        raise ValueError(f'model_name: "{chosen}" does not stand there as one word behind its key')
    return changed


def rename_step(text: str, model: str, other: str) -> str:
    """Return the text of an ensemble's config with another model as a step; all else, comments too, stays as it is."""
    return re.sub(rf"""(model_name\s*:\s*)(["']){re.escape(model)}\2""", rf'\1"{other}"', text)


def pinned_version(classifier: ModelConfig) -> int | None:
    """Return the version that the ensemble gets, where the policy names versions: the newest of them; else None.

    The ensemble's steps have version -1, which Triton takes for the newest of those that it serves.
    """
    versions = classifier.version_policy.specific.versions
    return int(max(versions)) if versions else None


def pin_version(classifier: ModelConfig, *versions: int) -> ModelConfig:
    """Return the config with a policy that serves these versions; none serves the newest, whichever comes."""
    pinned = ModelConfig()
    pinned.CopyFrom(classifier)
    pinned.ClearField("version_policy")
    if versions:
        pinned.version_policy.specific.versions.extend(versions)
    else:
        pinned.version_policy.latest.num_versions = 1
    return pinned
