"""Edits of model repositories: of configs as protobuf messages, and of classifiers with their artefacts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jpeg_contract import model_config
from jpeg_contract.forms import FORMS
from jpeg_contract.model_config import ModelConfig, text_format
from repository.static_repository import make_report
from support import edit

CONFIG = "config.pbtxt"

Change = Callable[[Path], object]
"""Changes a repository."""


def change(model: str, edit_config: Callable[[Any], object]) -> Change:
    """Return a change of one config."""

    def apply(repository: Path) -> None:
        path = repository / model / CONFIG
        config = model_config.read(path)
        edit_config(config)
        path.write_text(text_format.MessageToString(config))

    return apply


def merge(model: str, text: str, *, clear: str = "") -> Change:
    """Return a change that merges text into one config, after a field was cleared."""

    def apply(config: ModelConfig) -> None:
        if clear:
            config.ClearField(clear)
        text_format.Merge(text, config)

    return change(model, apply)


def parameter(model: str, name: str, value: str) -> Change:
    """Return a change that sets a parameter."""
    return merge(model, f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}')


def append(model: str, text: str) -> Change:
    """Return a change that appends text to one config as it is."""

    def apply(repository: Path) -> None:
        with (repository / model / CONFIG).open("a") as config:
            config.write(f"{text}\n")

    return apply


def replace(model: str, old: str, new: str) -> Change:
    """Return a change that replaces text in one config."""
    return lambda repository: edit(repository / model / CONFIG, old, new)


def choose(repository: Path, name: str) -> None:
    """Let the ensemble run another classifier."""
    path = repository / "jpeg_classifier" / CONFIG
    path.write_text(model_config.choose_classifier(path.read_text(), name))


def add_classifier(
    repository: Path,
    form: str,
    files: Mapping[str, bytes] | None = None,
    *,
    name: str = "",
    config: str = "",
    version: str = "1",
    chosen: bool = True,
    **report: Any,
) -> Path:
    """Add a built classifier of another form: its config, its files, and a report on the first of them.

    Returns:
        The version's folder.
    """
    record = FORMS[form]
    name = name or record.model
    folder, onnx = repository / name, repository / "classifier_onnx"
    files = files or (
        {"model.xml": b"<net/>", "model.bin": b""} if form == "openvino" else {record.artefact: b"artefact"}
    )
    settings = model_config.read(onnx / CONFIG)
    settings.name, settings.backend, settings.platform = name, record.backend, record.platform
    settings.metric_tags[model_config.PRECISION_TAG] = report.get("precision", record.precisions[0])
    text_format.Merge(config, settings)
    for place, content in files.items():
        (folder / version / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / version / place).write_bytes(content)
    (folder / CONFIG).write_text(text_format.MessageToString(settings))
    shutil.copy(repository / "postprocess" / "labels.txt", folder)
    artefact = folder / version / next(iter(files)).split("/")[0]
    make_report(artefact, form, **report)
    if chosen:
        choose(repository, name)
    return folder / version
