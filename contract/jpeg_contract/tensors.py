"""Names, data types and shapes of the tensors between the stages, and the names of the models (docs/contract.md)."""

from __future__ import annotations

from typing import Literal, NamedTuple

DataType = Literal["TYPE_STRING", "TYPE_UINT8", "TYPE_FP32", "TYPE_INT32", "TYPE_UINT32"]
"""Data types as config.pbtxt names them; TYPE_STRING is BYTES in requests."""

ENSEMBLE = "jpeg_classifier"
PREPROCESS = "preprocess"
POSTPROCESS = "postprocess"
CLASSIFIER_PREFIX = "classifier_"

IMAGE = "IMAGE"
PIXELS = "PIXELS"
INPUT = "input__0"
OUTPUT = "output__0"
LABEL, SCORE, INDEX, ERROR, CHECKSUM, TIMES = "LABEL", "SCORE", "INDEX", "ERROR", "CHECKSUM", "TIMES"

# The ensemble's inner tensors.
PIXELS_KEY, LOGITS_KEY, DECODE_ERRORS_KEY, CHECKSUMS_KEY = "pixels", "logits", "decode_errors", "checksums"

STAMP_LENGTH = 3
"""Elements per image of CHECKSUM between `preprocess` and `postprocess` (`jpeg_runtime.step_times`)."""

MAX_BATCH_SIZE = 64

DEFAULT_K = 5

LABELS_FILE = "labels.txt"

SMALLEST_PROBABILITY = 1e-20
"""Floor for probabilities before the logarithm: below it they carry no information, and float32 stays finite."""


class TensorSpec(NamedTuple):
    """One output of the ensemble. length: elements per image; -1 is k."""

    name: str
    data_type: DataType
    length: int


def member_tensor(member: str, name: str, *, first: bool) -> str:
    """Return the name of an output of an ensemble over several networks.

    Args:
        member: Name of the network's own ensemble.
        name: The tensor's there.
        first: Whether it is the first member, whose outputs have the usual names.
    """
    return name if first else f"{member}_{name}"


RESPONSE_TENSORS = (
    TensorSpec(LABEL, "TYPE_STRING", -1),
    TensorSpec(SCORE, "TYPE_FP32", -1),
    TensorSpec(INDEX, "TYPE_INT32", -1),
    TensorSpec(ERROR, "TYPE_STRING", 1),
    TensorSpec(CHECKSUM, "TYPE_UINT32", 1),
    TensorSpec(TIMES, "TYPE_FP32", 3),
)
