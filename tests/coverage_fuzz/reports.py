"""Target `report`: any bytes as a model.json, the report on an artefact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from jpeg_contract.artefacts import report_path
from jpeg_contract.report import SCHEMA_VERSION, ReportError, find_report, read_report, to_json, write_report

from coverage_fuzz import text_mutator
from coverage_fuzz.check import Check, Target, require

REASONS = frozenset({"report_unreadable", "report_outdated", "report_newer"})
_REPORT = {
    "schema_version": SCHEMA_VERSION,
    "recipe": "mine",
    "recipe_sha256": "ab" * 32,
    "form": "onnx",
    "precision": "fp32",
    "classes": 2,
    "input": [224, 224, 3],
    "artefact": {"file": "model.onnx", "sha256": "cd" * 32, "bytes": 1234},
    "requires": {"tensorrt": "10.3.0", "version_compatible": True},
    "details": {"a": [1, 2.5, None, {"b": "c"}]},
    "config": {"on_gpu": False, "max_batch": 8, "parameters": {"x": "y"}, "engines": {"9.0": "model_sm90.plan"}},
    "weights": {"source": "torchvision", "sha256": None},
    "parity": {
        "photos": 7,
        "random_images": 4,
        "largest_logit": 20.5,
        "max_abs_difference": 1e-5,
        "mean_abs_difference": 1e-6,
        "relative_difference": 1e-6,
        "mean_difference": 1e-7,
        "top1_agreement": 1,
        "top5_overlap": 1.0,
        "batches": [1, 8],
        "neighbour_difference": 0.0,
    },
    "tolerance": {
        "relative_difference": 1e-3,
        "mean_difference": 1e-4,
        "top1_agreement": 1.0,
        "top5_overlap": 0.9,
        "tie": 0.1,
        "noise": True,
    },
    "probe": [{"index": 1, "label": "cat", "score": 0.5}],
    "versions": {"python": "3.11.7"},
    "requested": {"precision": "auto"},
    "images_per_second": {"fp32": 10.5, "fp16": None},
}


class ReportCheck:
    """The rules of the target: a report is read and survives being written, or is refused with a reason code."""

    def __init__(self, folder: Path) -> None:
        self._artefact = folder / "model.onnx"
        self._again = folder / "again.onnx"

    def __call__(self, data: bytes) -> None:
        report_path(self._artefact).write_bytes(data)
        try:
            report = read_report(self._artefact)
        except ReportError as error:
            require(error.reason in REASONS and str(error), f"the reason code is {error.reason}")
            require(find_report(self._artefact) is None, "a refused report is found")
            return
        write_report(report, self._again)
        require(read_report(self._again) == report, "written and read again, a report differs")
        require(to_json(report)["recipe"] == report.recipe, "the report as plain values")


def _make_check(folder: Path) -> Check:
    return ReportCheck(folder)


def _seeds() -> Iterator[bytes]:
    text = json.dumps(_REPORT, indent=1).encode()
    yield text
    yield json.dumps(_REPORT).encode()
    yield json.dumps({key: value for key, value in _REPORT.items() if key not in ("probe", "details")}).encode()
    yield text.replace(b'"c"', b'"\xff"')
    yield text.replace(b'"c"', b'"\\ud800"')
    yield text.replace(b'"b"', b'"\xed\xa0\x80"')
    yield text.replace(b"2.5", b"[" * 3000 + b"]" * 3000)
    yield text.replace(b"2.5", b"1e999")
    yield text.replace(b"2.5", b"9" * 400)
    yield b'{"later": ' + b"[" * 3000 + b"]" * 3000 + b', "schema_version": 2}'
    yield b'{"format": 1}'
    yield b'{"schema_version": 99}'


_WORDS = (
    *(
        f'"{word}": '.encode()
        for word in (*_REPORT, "format", "file", "sha256", "bytes", "engines", "batches", "later")
    ),
    *b"{ } [ ] , : null true false -1 1e5 0.5 18446744073709551616".split(),
    b'"\\ud83d"',
    b'"\\u0000"',
)
TARGET = Target(_make_check, _seeds, text_mutator.mutator(_WORDS), 8192, _WORDS, is_seen=False)
