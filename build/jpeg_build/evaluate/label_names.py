"""The classes that the names in labelled data mean: labels, indices or WordNet ids."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpeg_build.errors import BuildError

SYNSETS = "LOC_synset_mapping.txt"
"""Beside ImageNet's folders as Kaggle distributes them: line i is the WordNet id of class i, and its names."""

_WORDNET = re.compile(r"n\d{8}")
_MOST_NAMED = 20
_IMAGENET_CLASSES = 1000
# The part of the first names that must be equal for labels to be taken for ImageNet's: spellings differ.
_IMAGENET_AGREES = 0.9

Reading = Callable[[str], int | None]
"""The class that a name means; None if it means none."""


@dataclass(frozen=True)
class Named:
    """How the names of a data set are read.

    Attributes:
        how: For the report.
        classes: The class of each name.
    """

    how: str
    classes: Mapping[str, int]


def read_names(names: Collection[str], labels: Sequence[str], folder: Path, source: str) -> Named:
    """Find the reading under which all names are classes: labels come before WordNet ids, and these before indices.

    One reading counts for all names, so that a label "3" is never mixed with the index 3.

    Args:
        names: As the data has them.
        labels: Of the network.
        folder: Of the data, where a file of WordNet ids may lie.
        source: File or folder that has the names, for messages.

    Raises:
        BuildError: No reading knows all names; the message has the nearest labels of those that are unknown.
    """
    readings: list[tuple[str, Reading]] = [
        ("labels", _exact(labels)),
        ("labels, whatever their case, spaces, hyphens and underscores", _loose(labels)),
    ]
    if any(_WORDNET.match(name) for name in names):
        readings += [(how, _by_id(ids)) for how, ids in _wordnet_tables(names, labels, folder)]
    readings.append(("indices of the labels, from 0", _index(len(labels))))
    best: tuple[str, dict[str, int]] = ("", {})
    for how, read in readings:
        found = {name: index for name in names if (index := read(name)) is not None}
        if len(found) == len(names):
            return Named(how, found)
        if len(found) > len(best[1]):
            best = how, found
    raise BuildError(_unknown(names, labels, source, best), reason="labels_unknown")


def _unknown(names: Collection[str], labels: Sequence[str], source: str, best: tuple[str, dict[str, int]]) -> str:
    unknown = sorted(set(names) - set(best[1]))
    by_key = {_key(label): label for label in labels}
    described = []
    for name in unknown[:_MOST_NAMED]:
        near = difflib.get_close_matches(_key(name), list(by_key), n=2, cutoff=0.6)
        hint = f" (near: {', '.join(by_key[each] for each in near)})" if near else ""
        described.append(f"{name!r}{hint}")
    if len(unknown) > _MOST_NAMED:
        described.append(f"and {len(unknown) - _MOST_NAMED} more")
    known = f", and {len(best[1])} are {best[0]}" if best[1] else ""
    wordnet = (
        f"; WordNet ids need {SYNSETS} beside the folders, the package timm, or labels that contain them"
        if any(_WORDNET.fullmatch(name) for name in unknown)
        else ""
    )
    return (
        f"{source}: {len(unknown)} of {len(names)} names are no labels of the recipe{known}: {', '.join(described)}. "
        f"Write labels of the recipe, or their indices from 0 to {len(labels) - 1}{wordnet}"
    )


def _key(text: str) -> str:
    return " ".join(re.split(r"[\s_-]+", text.casefold())).strip()


def _exact(labels: Sequence[str]) -> Reading:
    return _unique(labels).get


def _loose(labels: Sequence[str]) -> Reading:
    places = _unique([_key(label) for label in labels])
    return lambda name: places.get(_key(name))


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Return the places of the names that occur once: of equal labels, none is meant."""
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def _index(classes: int) -> Reading:
    def read(name: str) -> int | None:
        return int(name) if name.isascii() and name.isdecimal() and int(name) < classes else None

    return read


def _by_id(ids: Mapping[str, int]) -> Reading:
    def read(name: str) -> int | None:
        found = _WORDNET.match(name)
        return ids.get(found[0]) if found is not None else None

    return read


def _wordnet_tables(names: Collection[str], labels: Sequence[str], folder: Path) -> list[tuple[str, Mapping[str, int]]]:
    """Return the sources of WordNet ids that fit the labels."""
    tables: list[tuple[str, Mapping[str, int]]] = []
    inside = [_WORDNET.search(label) for label in labels]
    if all(inside):
        tables.append(("WordNet ids in the labels", {each[0]: i for i, each in enumerate(inside) if each is not None}))
    for path in (folder / SYNSETS, folder.parent / SYNSETS):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            if len(lines) == len(labels):
                tables.append((f"WordNet ids of {SYNSETS}", {line[:9]: i for i, line in enumerate(lines)}))
    imagenet = _imagenet_ids(labels)
    if imagenet:
        tables.append(("WordNet ids of ImageNet-1k, as the package timm has them", imagenet))
    if len(names) == len(labels) and all(_WORDNET.fullmatch(name) for name in names):
        tables.append(
            (
                "WordNet ids, one for each label, in their order (as torchvision's ImageFolder numbers them)",
                {name: index for index, name in enumerate(sorted(names))},
            )
        )
    return tables


def _imagenet_ids(labels: Sequence[str]) -> dict[str, int]:
    """Return the ids of ImageNet-1k by timm, if the labels are ImageNet's in its order; else nothing."""
    if len(labels) != _IMAGENET_CLASSES:
        return {}
    try:
        # Not the package itself, which imports PyTorch and every network.
        from timm.data.imagenet_info import ImageNetInfo
    except ModuleNotFoundError:
        return {}
    information: Any = ImageNetInfo()
    descriptions = [_key(text.split(",")[0]) for text in information.label_descriptions()]
    equal = sum(_key(label.split(",")[0]) == text for label, text in zip(labels, descriptions, strict=True))
    if equal < _IMAGENET_AGREES * _IMAGENET_CLASSES:
        return {}
    return {name: index for index, name in enumerate(information.label_names())}


def split_labels(value: object) -> list[str]:
    """Return the names of a photo with several labels: `a;b`, a JSON list, or a list; an empty text has none."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        if isinstance(value, str):
            return [part.strip() for part in value.split(";") if part.strip()]
    if isinstance(value, (list, tuple)):
        return [str(part).strip() for part in value]
    return [str(value)]
