"""What a backend reads from the config that Triton hands to it as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class BackendConfigError(ValueError):
    """The config or the artefact cannot be served; the message says why and what to do."""


@dataclass(frozen=True)
class ModelConfig:
    """A classifier's config.pbtxt, as far as the backends need it.

    artefact: the file or folder to load. input_name, output_name: of the one input and the one output.
    parameters: names to texts. graph_level: `optimization { graph { level } }`, 0 if it is not set.
    """

    name: str
    artefact: Path
    input_name: str
    output_name: str
    parameters: dict[str, str]
    graph_level: int

    @classmethod
    def from_triton(cls, args: dict[str, str], *, default_filename: str) -> ModelConfig:
        """From the `args` of a Python model's `initialize`.

        Raises BackendConfigError if there is not exactly one input and one output.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        if len(config["input"]) != 1 or len(config["output"]) != 1:
            raise BackendConfigError("a classifier has one input and one output, see docs/contract.md")
        filename = config.get("default_model_filename") or default_filename
        return cls(
            name=args["model_name"],
            artefact=Path(args["model_repository"]) / args["model_version"] / filename,
            input_name=config["input"][0]["name"],
            output_name=config["output"][0]["name"],
            parameters={name: value["string_value"] for name, value in config.get("parameters", {}).items()},
            graph_level=int(config.get("optimization", {}).get("graph", {}).get("level", 0)),
        )

    def integer(self, name: str, default: int) -> int:
        """A whole-number parameter. Raises BackendConfigError if it is none."""
        text = self.parameters.get(name, str(default))
        try:
            return int(text)
        except ValueError as error:
            raise BackendConfigError(f"parameter {name} is {text!r}, but must be a whole number") from error
