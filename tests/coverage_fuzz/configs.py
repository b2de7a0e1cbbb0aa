"""Target `config`: any bytes as a config.pbtxt, read, looked at and written again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jpeg_build.repository.configs import to_text
from jpeg_contract.model_config import (
    ConfigError,
    ModelConfig,
    choose_classifier,
    chosen_classifier,
    parameters,
    parse,
    pin_version,
    pinned_version,
    read,
    set_parameters,
    text_format,
    to_triton_json,
)
from jpeg_contract.parameters import SettingsError, parameters_of
from jpeg_contract.settings import PostprocessSettings, PreprocessSettings
from support import ROOT

from coverage_fuzz import text_mutator
from coverage_fuzz.check import Check, Target, require

REASONS = frozenset({"invalid_config"})
SETTINGS_REASONS = frozenset({"invalid_setting", "unknown_parameter", "missing_parameter", "invalid_geometry"})
_OTHER = "classifier_of_another_form"


class ConfigCheck:
    """The rules of the target.

    - A config is read, or refused with a reason code, a message of one line and the place.
    - Written and read again it is the same one.
    - Choosing another classifier changes that one word only, or says that it cannot.
    - The parameters are settings that survive being written, or are refused with a reason code.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "config.pbtxt"

    def __call__(self, data: bytes) -> None:
        self._path.write_bytes(data)
        try:
            config = read(self._path)
        except ConfigError as error:
            require(error.reason in REASONS, f"the reason code is {error.reason}")
            require(str(error) and "\n" not in str(error), "the message is not one line")
            require(0 <= error.line <= data.count(b"\n") + data.count(b"\r") + 2, "there is no such line")
            return
        _check_text(config)
        _check_classifier(config, self._path.read_text(encoding="utf-8"))
        _check_version(config)
        _check_settings(config)


def _check_text(config: ModelConfig) -> None:
    # By their texts: a number that is none does not equal itself.
    text = text_format.MessageToString(config)
    require(text_format.MessageToString(parse(text)) == text, "written and read again, a config differs")
    require(text_format.MessageToString(parse(to_text(config))) == text, "written by a build, a config differs")


def _check_classifier(config: ModelConfig, text: str) -> None:
    chosen = chosen_classifier(config)
    try:
        changed = parse(choose_classifier(text, _OTHER))
    except ValueError:
        return
    require(chosen is not None and chosen_classifier(changed) == _OTHER, "another classifier is chosen")
    for step in (*changed.ensemble_scheduling.step, *config.ensemble_scheduling.step):
        if step.model_name in (_OTHER, chosen):
            step.model_name = ""
    require(
        text_format.MessageToString(changed) == text_format.MessageToString(config),
        "choosing a classifier changes more than that",
    )


def _check_version(config: ModelConfig) -> None:
    require(pinned_version(pin_version(config, 3)) == 3, "the version that is chosen")
    require(pinned_version(pin_version(config)) is None, "no version is chosen")
    pinned_version(config)


def _check_settings(config: ModelConfig) -> None:
    found = parameters(config)
    require(parameters_of(to_triton_json(config)) == found, "Triton hands over other parameters")
    for kind in (PreprocessSettings, PostprocessSettings):
        try:
            settings = kind.from_parameters(found)
        except SettingsError as error:
            require(error.reason in SETTINGS_REASONS and str(error), f"the reason code is {error.reason}")
            continue
        written = ModelConfig()
        set_parameters(written, settings.to_parameters())
        require(kind.from_parameters(parameters(written)) == settings, "written and read again, settings differ")


def _seeds() -> Iterator[bytes]:
    yield from (path.read_bytes() for path in sorted((ROOT / "model_repository").glob("*/config.pbtxt")))
    yield b'parameters { key: "resize_size" value { string_value: "40" } } ' + _crop(b"32,30")
    yield b'parameters { key: "resize_size" value { string_value: "40" } } ' + _crop(b"9" * 5000 + b",3")
    yield b'parameters: { key: "crop_size", value: { string_value: "\\343\\201" } }'
    yield b"version_policy { specific { versions: [1, 3] } } max_batch_size: 0x40"
    yield b"version_policy { specific { versions: -9223372036854775808 } } optimization { priority: 1 }"
    yield b"model_warmup < inputs < key: 'a' value { zero_data: true dims: 1 } > >"


def _crop(size: bytes) -> bytes:
    return b'parameters { key: "crop_size" value { string_value: "' + size + b'" } }'


def _make_check(folder: Path) -> Check:
    return ConfigCheck(folder)


_WORDS = (
    *b"name backend platform max_batch_size input output dims data_type TYPE_FP32 TYPE_STRING TYPE_UINT8".split(),
    *b"instance_group count kind KIND_CPU KIND_GPU gpus dynamic_batching preferred_batch_size parameters key".split(),
    *b"value string_value version_policy specific versions latest all ensemble_scheduling step model_name".split(),
    *b"model_version input_map output_map optimization execution_accelerators model_warmup".split(),
    *(f'"{word}"'.encode() for word in ("output__0", "classifier_onnx", "resize_size", "crop_size", "interpolation")),
    *(f'"{word}"'.encode() for word in ("antialias", "decoder", "max_pixels", "threads", "default_k", "labels_file")),
    *(f'"{word}"'.encode() for word in ("bilinear", "nearest", "full", "on", "224,224", "256", "40 , 40")),
    *b": { } [ ] < > , ; # ' \\377 \\n 0x10 010 1f".split(),
    b"\n",
)
TARGET = Target(_make_check, _seeds, text_mutator.mutator(_WORDS), 12_000, _WORDS)
