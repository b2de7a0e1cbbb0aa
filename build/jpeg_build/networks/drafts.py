"""Drafts of recipes: what a framework, or a file, knows of a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jpeg_contract.settings import Head


class Hint(str):
    """A note on what a network does not show: no use to a user who states it.

    Args:
        text: The sentence.
        *topics: Fields of `Facts` that state it, each topic by one of several: "scale|mean".
    """

    _topics: tuple[frozenset[str], ...]

    def __new__(cls, text: str, *topics: str) -> Hint:  # noqa: D102
        made = super().__new__(cls, text)
        made._topics = tuple(frozenset(topic.split("|")) for topic in topics)
        return made

    def is_open(self, stated: Collection[str]) -> bool:
        """Whether these fields leave a topic open."""
        return not all(topic & set(stated) for topic in self._topics)


@dataclass(frozen=True)
class Draft:
    """What is known of a network before its recipe is written. None is what nobody but the user knows.

    Attributes:
        name: Of the recipe: lower-case letters, digits, `_` and `-`.
        source: The table [source], with paths as the user gave them.
        classes: Number of classes.
        labels: Their names, in order; "weights" if the network carries them and `jpeg-build` reads them there.
        output: How logits become scores.
        geometry: The table [geometry].
        normalisation: The table [normalisation].
        notes: Sentences for the user, such as on what was assumed; a Hint where the user can state it.
        choices: Keys of [source] that the user must set, each with its possible values.
    """

    name: str
    source: Mapping[str, Any]
    classes: int | None = None
    labels: Sequence[str] | str | None = None
    output: Head = "softmax"
    geometry: Mapping[str, Any] | None = None
    normalisation: Mapping[str, Any] | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
