"""What a recipe needs and the network does not show: options of the command line, or questions on a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args

from cyclopts import Group, Parameter
from jpeg_contract.command_line import PositiveInteger
from jpeg_contract.geometry import CropRounding, Interpolation, ResizeSide
from jpeg_contract.settings import Head, ImageFormat

from jpeg_build.errors import CallError
from jpeg_build.init.labels import find_labels, labels_beside
from jpeg_build.networks.drafts import Draft
from jpeg_build.recipe.keys import KINDS, Color, Layout, Output

_GROUP = Group("Of a network without a recipe (SOURCE)", sort_key=5)
_IN_GROUP = Parameter(group=_GROUP)

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

_OWN = "other"
_RANGES = ("-1..1", "0..1", "0..255")

T = TypeVar("T")


@Parameter(name="*")
@dataclass(frozen=True)
class Facts:
    """What the user states on a network.

    Attributes:
        network: Of a file of weights: timm:NAME, torchvision:NAME[:WEIGHTS] or module:FILE.py:FUNCTION.
        labels: A file with one label per line (or .json), imagenet, or NAME,NAME,...
        classes: Number of classes.
        crop_size: Of the images that the network takes, in pixels: SIDE or HEIGHT,WIDTH.
        resize_size: Before the crop: length of the shorter side, or HEIGHT,WIDTH to resize without keeping the ratio.
        crop_percent: Instead of --resize-size: the share of the resized image that the crop is, such as 0.875.
        resize_side: Which side --resize-size is the length of; longer is for letterboxes.
        fill: Colour of what lies outside of the resized image: RED,GREEN,BLUE.
        interpolation: Of the resize.
        antialias: Filter before reducing, as Pillow does; not so with Keras's image_dataset_from_directory.
        crop_rounding: Where the crop lies if an odd number of pixels is left out: even as torchvision, down as
            transformers has it.
        mean: Of the training, of pixels in [0, 1] or in the range of --scale: a number, or one for each channel.
        std: Likewise.
        scale: Range of the pixels that the network takes: -1..1, 0..1 or 0..255.
        color: Order of its channels; GRAY for gray images.
        scores: softmax: one label of several for each image; sigmoid: a score of its own for each label.
        output_kind: Whether its output lies before or behind that softmax or sigmoid.
        output_name: Its output, if it has several.
        layout: Order of its input's axes, if the shape leaves it open.
        threshold: Labels with a lower score are left out.
        formats: Of images that the server takes: jpeg,png,...
    """

    network: Annotated[str | None, _IN_GROUP] = None
    labels: Annotated[str | None, _IN_GROUP] = None
    classes: Annotated[PositiveInteger | None, _IN_GROUP] = None
    crop_size: Annotated[str | None, _IN_GROUP] = None
    resize_size: Annotated[str | None, _IN_GROUP] = None
    crop_percent: Annotated[float | None, _IN_GROUP] = None
    resize_side: Annotated[ResizeSide | None, _IN_GROUP] = None
    fill: Annotated[str | None, _IN_GROUP] = None
    interpolation: Annotated[Interpolation | None, _IN_GROUP] = None
    antialias: Annotated[bool | None, Parameter(group=_GROUP, negative="--no-antialias")] = None
    crop_rounding: Annotated[CropRounding | None, _IN_GROUP] = None
    mean: Annotated[str | None, Parameter(group=_GROUP, allow_leading_hyphen=True)] = None
    std: Annotated[str | None, _IN_GROUP] = None
    scale: Annotated[str | None, Parameter(group=_GROUP, allow_leading_hyphen=True)] = None
    color: Annotated[Color | None, _IN_GROUP] = None
    scores: Annotated[Head | None, _IN_GROUP] = None
    output_kind: Annotated[Output | None, _IN_GROUP] = None
    output_name: Annotated[str | None, _IN_GROUP] = None
    layout: Annotated[Layout | None, _IN_GROUP] = None
    threshold: Annotated[float | None, _IN_GROUP] = None
    formats: Annotated[str | None, _IN_GROUP] = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name; without --network, which is part of SOURCE."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        return {name: value for name, value in values.items() if value is not None}

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return what they set in a recipe, by table and key; but for labels.

        Raises:
            CallError: A value cannot be used.
        """
        sets: dict[str, dict[str, Any]] = {
            "": {
                "classes": self.classes,
                "output": self.scores,
                "threshold": self.threshold,
                "formats": None if self.formats is None else _formats(self.formats),
            },
            "geometry": {
                "crop_size": _optional("--crop-size", self.crop_size, size),
                "resize_size": _optional("--resize-size", self.resize_size, size),
                "crop_percent": self.crop_percent,
                "resize_side": self.resize_side,
                "fill": _optional("--fill", self.fill, _color),
                "interpolation": self.interpolation,
                "antialias": self.antialias,
                "crop_rounding": self.crop_rounding,
            },
            "normalisation": {
                "scale": self.scale,
                "mean": _optional("--mean", self.mean, numbers),
                "std": _optional("--std", self.std, numbers),
                "color": self.color,
            },
            "source": {"output": self.output_kind, "output_name": self.output_name, "layout": self.layout},
        }
        return {
            table: {key: value for key, value in values.items() if value is not None} for table, values in sets.items()
        }


NO_FACTS = Facts()


class Prompt(Protocol):
    """Puts a question to the user, on a terminal."""

    def __call__(self, question: str, why: str, *, default: str | None, choices: Sequence[str] | None) -> str:
        """Return the answer; an empty line takes the default."""
        ...


class Questions:
    """Puts questions to the user, or lists the options that answer them.

    Args:
        prompt: None without a terminal.
    """

    def __init__(self, prompt: Prompt | None) -> None:
        self._prompt = prompt
        self._missing: list[str] = []
        self.asked = False
        """Whether a question was put to the user."""

    def fact(
        self,
        option: str,
        question: str,
        why: str,
        read: Callable[[str], T],
        *,
        default: str | None = None,
        choices: Sequence[str] | None = None,
    ) -> T | None:
        """Return an answer; None without a terminal, and the option is noted as missing.

        Args:
            option: That answers it: "--labels FILE".
            question: What is missing.
            why: One line on what it is for.
            read: Converts the answer. It raises ValueError for one that cannot be used.
            default: Answer of an empty line.
            choices: The possible answers.
        """
        if self._prompt is None:
            self._missing.append(option)
            return None
        self.asked = True
        while True:
            answer = self._prompt(question, why, default=default, choices=choices)
            try:
                return read(answer)
            except (ValueError, CallError) as error:
                why = f"{error}. {why}"

    def finish(self, source: str) -> None:
        """Raise CallError if options are missing."""
        if self._missing:
            raise CallError(
                f"{source}: the recipe also needs what the network does not show: {'; '.join(self._missing)}. Give "
                "these options, or run the command on a terminal and answer its questions",
                reason="missing_facts",
            )


def size(text: str) -> int | list[int]:
    """Read SIDE or HEIGHT,WIDTH. Raises ValueError."""
    found = [int(part) for part in text.split(",")] if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)?", text) else []
    if not found or min(found) < 1:
        raise ValueError(f"{text!r} is neither a number of pixels, nor HEIGHT,WIDTH")
    return found[0] if len(set(found)) == 1 and len(found) == 1 else found


def numbers(text: str) -> float | list[float]:
    """Read a number, or three with commas between them. Raises ValueError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in (1, 3) or not all(map(math.isfinite, found)):
        raise ValueError(f"{text!r} is neither a number, nor three with commas between them")
    return found[0] if len(found) == 1 else found


def _color(text: str) -> list[int]:
    found = [int(part) for part in text.split(",")] if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*){2}", text) else []
    if not found or max(found) > 255:
        raise ValueError(f"{text!r} is not RED,GREEN,BLUE, each from 0 to 255")
    return found


def _formats(text: str) -> list[str]:
    found = [part.strip().lower() for part in text.split(",")]
    known = get_args(ImageFormat)
    if unknown := [name for name in found if name not in known]:
        raise CallError(f"--formats: there is no {unknown[0]!r}; there are {', '.join(known)}")
    if "jpeg" not in found:
        raise CallError(f"--formats: the server always takes JPEGs, so write jpeg,{text}")
    return found


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a number from 1 on")
    return int(text)


def _optional(option: str, text: str | None, read: Callable[[str], T]) -> T | None:
    try:
        return None if text is None else read(text)
    except ValueError as error:
        raise CallError(f"{option}: {error}") from error


def complete(
    draft: Draft, facts: Facts, questions: Questions, folder: Path
) -> tuple[dict[str, dict[str, Any]], list[str] | str | None]:
    """Complete what the framework knows by what the user states.

    Args:
        draft: Of the framework.
        facts: Options.
        questions: Put to the user for the rest.
        folder: Of the recipe.

    Returns:
        The recipe's tables, and its labels: names, or "weights"; None if they are missing.

    Raises:
        CallError: An option has no meaning for this network, or its value cannot be used.
    """
    stated = facts.tables()
    source = {**draft.source, **_source(stated["source"], draft, questions)}
    geometry = _geometry(stated["geometry"], draft, questions)
    normalisation = _normalisation(stated["normalisation"], draft, questions)
    classes, labels = _classes_and_labels(facts, draft, questions, folder)
    top: dict[str, Any] = {"classes": classes, "labels": ""}
    head = stated[""].get("output") or ("sigmoid" if classes == 1 else draft.output)
    # Whoever states all that is missing gets no question: softmax is what they would get without a terminal, too.
    if facts.scores is None and draft.labels is None and questions.asked and classes != 1:
        head = questions.fact(
            "--scores",
            "One label for each image (softmax), or a score of its own for each label (sigmoid)?",
            "It decides how the server makes scores of the network's output.",
            str,
            default=head,
            choices=get_args(Head),
        )
    if head != "softmax":
        top["output"] = head
    top |= {key: value for key, value in stated[""].items() if key in ("threshold", "formats")}
    return {"": top, "geometry": geometry, "normalisation": normalisation, "source": source}, labels


def choose(key: Literal["layout", "output_name"], draft: Draft, facts: Facts, questions: Questions) -> str | None:
    """Let the user choose the layout of the input, or the output; None if it is settled, or nobody can answer."""
    if key not in draft.choices or getattr(facts, key) is not None:
        return None
    what = {
        "layout": ("Order of the input's axes", "Channels first, as PyTorch exports, or last, as TensorFlow does."),
        "output_name": ("Which output has the scores", "The file has several; one has a value for each class."),
    }
    question, why = what[key]
    choices = draft.choices[key]
    option = f"--{key.replace('_', '-')} {'|'.join(choices)}"
    return questions.fact(option, question, why, str, default=choices[0], choices=choices)


def _source(stated: Mapping[str, Any], draft: Draft, questions: Questions) -> dict[str, Any]:
    kind = draft.source["kind"]
    known = KINDS[kind].__struct_fields__
    for key in stated:
        if key not in known:
            option = "--output-kind" if key == "output" else f"--{key.replace('_', '-')}"
            raise CallError(f'{option} has no meaning for kind = "{kind}"')
    found = dict(stated)
    if "output" in draft.choices and "output" not in found:
        answer = questions.fact(
            f"--output-kind {'|'.join(draft.choices['output'])}",
            "Kind of the network's output",
            "logits lie before its softmax or sigmoid, probabilities behind it.",
            str,
            default="logits",
            choices=get_args(Output),
        )
        found |= {} if answer is None else {"output": answer}
    return found


def _geometry(stated: Mapping[str, Any], draft: Draft, questions: Questions) -> dict[str, Any]:
    known = dict(draft.geometry or {})
    if {"resize_size", "crop_percent"} & stated.keys():
        known.pop("resize_size", None)
        known.pop("crop_percent", None)
    known |= stated
    if "crop_size" not in known:
        known["crop_size"] = questions.fact(
            "--crop-size 224 (what the network takes)",
            "Size of the images that the network takes: a side in pixels, or HEIGHT,WIDTH",
            "The server cuts it out of the middle of each image.",
            size,
            default="224",
        )
    if not {"resize_size", "crop_percent"} & known.keys():
        crop = known["crop_size"] or 224
        default = round(crop / 0.875) if isinstance(crop, int) else max(crop)
        known["resize_size"] = questions.fact(
            f"--resize-size {default} (shorter side before the crop) or HEIGHT,WIDTH (without keeping the ratio)",
            "Size before the crop: length of the shorter side, or HEIGHT,WIDTH to resize without keeping the ratio",
            "As in the network's validation: another one costs accuracy.",
            size,
            default=str(default),
        )
    order = ("resize_size", "crop_percent", "crop_size")
    return {key: known[key] for key in sorted(known, key=lambda key: order.index(key) if key in order else 9)}


def _normalisation(stated: Mapping[str, Any], draft: Draft, questions: Questions) -> dict[str, Any]:
    known = dict(draft.normalisation or {})
    if "scale" in stated:
        known.pop("mean", None)
        known.pop("std", None)
    elif {"mean", "std"} & stated.keys():
        known.pop("scale", None)
    known |= stated
    if "scale" in known or {"mean", "std"} <= known.keys():
        return known
    if {"mean", "std"} & known.keys():
        missing = "std" if "mean" in known else "mean"
        known[missing] = questions.fact(
            f"--{missing} NUMBERS",
            f"{missing} of the training, in the range of the pixels",
            "A number, or three in the order of the channels.",
            numbers,
        )
        return known
    gray = known.get("color") == "GRAY"
    answer = questions.fact(
        "--scale -1..1, 0..1 or 0..255, or --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 (of the training)",
        "Normalisation of the training",
        "imagenet: mean and std of ImageNet, as most networks of PyTorch; else the range of the pixels, or other.",
        str,
        default="0..1" if gray else "imagenet",
        choices=(*(() if gray else ("imagenet",)), *_RANGES, _OWN),
    )
    if answer == "imagenet":
        return {**IMAGENET, **known}
    if answer in _RANGES:
        return {"scale": answer, **known}
    if answer == _OWN:
        for key in ("mean", "std"):
            known[key] = questions.fact(
                f"--{key}", f"{key}, of pixels in [0, 1]", "A number, or three with commas between them.", numbers
            )
    return known


def _classes_and_labels(
    facts: Facts, draft: Draft, questions: Questions, folder: Path
) -> tuple[int | None, list[str] | str | None]:
    classes = facts.classes or draft.classes
    if facts.classes and draft.classes and facts.classes != draft.classes:
        raise CallError(
            f"--classes is {facts.classes}, and the network has {draft.classes} classes: omit --classes",
            reason="classes_differ",
        )
    labels: list[str] | str | None
    if facts.labels is not None:
        labels = find_labels(facts.labels)
        classes = facts.classes or (draft.classes if draft.classes is not None else len(labels))
    elif draft.labels is not None:
        labels = draft.labels if isinstance(draft.labels, str) else list(draft.labels)
        classes = classes if isinstance(labels, str) else classes or len(labels)
    else:
        labels = own_labels(draft, folder, classes)
    if labels is None:
        known = "" if classes is None else f", {classes} of them"
        labels = questions.fact(
            f"--labels FILE (one label per line{known}) or NAME,NAME,...",
            f"Labels{known}: a text file with one per line, or NAME,NAME,...",
            "Line i names class i; an empty answer numbers them." if classes else "Line i names class i.",
            lambda answer: _answered_labels(answer, classes),
            default="imagenet" if classes == 1000 else "" if classes else None,
        )
    if isinstance(labels, str) and classes is None:
        classes = questions.fact("--classes N", "Number of classes", "The network does not show it.", _count)
    if labels is not None and not isinstance(labels, str):
        classes = classes or len(labels)
        if len(labels) != classes:
            raise CallError(
                f"there are {len(labels)} labels, and the network has {classes} classes: give as many labels",
                reason="classes_differ",
            )
    return classes, labels


def own_labels(draft: Draft, folder: Path, classes: int | None = None) -> list[str] | None:
    """Return the labels in a file beside the network; None if there is none for its classes."""
    return labels_beside(folder, Path(str(draft.source.get("file", draft.name))).stem, classes or draft.classes)


def _answered_labels(answer: str, classes: int | None) -> list[str]:
    if not answer and classes:
        return [f"class {number}" for number in range(classes)]
    found = find_labels(answer)
    if classes not in (None, len(found)):
        raise ValueError(f"these are {len(found)} labels")
    return found
