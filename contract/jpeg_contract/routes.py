"""The settings of a model `router`, which sends some requests to another classifier, or compares it without answering.

It stands in an ensemble where the classifier stands otherwise. The models read the settings through this class, and so
does `jpeg-serve check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from jpeg_contract.parameters import parameters_of, read_parameters

Mode = Literal["split", "shadow"]
"""`split`: the candidate answers a part of the requests. `shadow`: the primary answers all; a part of them goes to the
candidate, too, and its labels are compared with the primary's."""

_Percent = Annotated[
    float, msgspec.Meta(gt=0, le=100, extra_json_schema={"description": "a number above 0 and up to 100"})
]
_Version = Annotated[int, msgspec.Meta(ge=1)]
_Model = Annotated[str, msgspec.Meta(min_length=1)]


class RouterParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a model `router` as texts.

    Attributes:
        mode: split lets the candidate answer a part of the requests; shadow compares it without answering.
        percent: Part of the requests that go to the candidate, in percent.
        primary: Name of the classifier that answers, or that answers the others.
        primary_version: Its version.
        candidate: Name of the classifier that is tried.
        candidate_version: Its version.
    """

    mode: Mode
    percent: _Percent
    primary: _Model
    primary_version: _Version
    candidate: _Model
    candidate_version: _Version


@dataclass(frozen=True)
class Target:
    """A version of a classifier."""

    model: str
    version: int

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


@dataclass(frozen=True)
class Route:
    """Where the requests of an ensemble go.

    Attributes:
        mode: See `Mode`.
        percent: Part of the requests that go to the candidate, in percent.
        primary: The classifier that answers, or that answers the others.
        candidate: The classifier that is tried.
    """

    mode: Mode
    percent: float
    primary: Target
    candidate: Target

    @classmethod
    def from_config(cls, model_config: str) -> Route:
        """Read the JSON that Triton hands to a Python model as "model_config". Raises SettingsError."""
        return cls.from_parameters(parameters_of(model_config))

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Route:
        """Read names and texts. Raises SettingsError."""
        read = read_parameters(RouterParameters, parameters)
        return cls(
            read.mode,
            read.percent,
            Target(read.primary, read.primary_version),
            Target(read.candidate, read.candidate_version),
        )

    def to_parameters(self) -> dict[str, str]:
        """Return names and texts: the inverse of from_parameters."""
        return {
            "mode": self.mode,
            "percent": f"{self.percent:g}",
            "primary": self.primary.model,
            "primary_version": str(self.primary.version),
            "candidate": self.candidate.model,
            "candidate_version": str(self.candidate.version),
        }

    @property
    def answering(self) -> list[str]:
        """Names of the models that answer requests."""
        models = [self.primary.model, *([self.candidate.model] if self.mode == "split" else [])]
        return list(dict.fromkeys(models))

    @property
    def models(self) -> list[str]:
        """Names of the models that get requests."""
        return list(dict.fromkeys([self.primary.model, self.candidate.model]))

    def versions_of(self, model: str) -> list[int]:
        """Return the versions of a model that get requests."""
        return sorted({each.version for each in (self.primary, self.candidate) if each.model == model})
