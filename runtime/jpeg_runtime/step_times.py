"""How long the steps took: `preprocess` stamps each image with its clock, `postprocess` computes the differences.

A stamp is one tensor with the checksum, because each further tensor between the steps costs some 25 microseconds of CPU
time per request. Clock readings are microseconds of the monotonic clock, which is one for all processes of a machine,
modulo 2**32: differences of up to 71 minutes are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jpeg_contract.tensors import STAMP_LENGTH
from numpy.typing import NDArray

NO_STAMPS: NDArray[np.uint32] = np.empty((0, STAMP_LENGTH), np.uint32)
"""The stamps of a request that is refused."""

_US_PER_MS = np.float32(1000)


class StepTimes(NamedTuple):
    """What the stamps of a request say of its N images.

    checksums: (N, 1) uint32.
    times: (N, 3) float32 in milliseconds: `preprocess`; the classifier with its queue, from the end of `preprocess` to
    the start of `postprocess`; `postprocess`.
    seconds: For each image, from the start of `preprocess` to the end of `postprocess`.
    """

    checksums: NDArray[np.uint32]
    times: NDArray[np.float32]
    seconds: list[float]


def stamp(checksums: NDArray[np.uint32], begun_ns: int, ended_ns: int) -> NDArray[np.uint32]:
    """Stamp the images of a request.

    Args:
        checksums: (N, 1) uint32.
        begun_ns: `time.monotonic_ns()` when `preprocess` began the batch.
        ended_ns: The same when it ended.

    Returns:
        (N, 3) uint32: checksum, begin and end.
    """
    stamps = np.empty((len(checksums), STAMP_LENGTH), np.uint32)
    stamps[:, :1] = checksums
    stamps[:, 1:] = _reading(begun_ns), _reading(ended_ns)
    return stamps


def read_stamps(requests: Sequence[NDArray[np.uint32]], begun_ns: int, ended_ns: int) -> list[StepTimes]:
    """Read the stamps of a batch, all at once: NumPy takes as long for one request as for many.

    Args:
        requests: The stamps of each request, of `stamp`; at least one.
        begun_ns: `time.monotonic_ns()` when `postprocess` began the batch.
        ended_ns: The same when the answers are ready.

    Returns:
        One for each request, in the same order.
    """
    stamps = requests[0] if len(requests) == 1 else np.concatenate(requests)
    readings = np.empty((len(stamps), 4), np.uint32)
    readings[:, :2] = stamps[:, 1:]
    readings[:, 2:] = _reading(begun_ns), _reading(ended_ns)
    # Differences of uint32 wrap as the readings do.
    times = (readings[:, 1:] - readings[:, :-1]).astype(np.float32) / _US_PER_MS
    seconds = [microseconds / 1e6 for microseconds in (readings[:, 3] - readings[:, 0]).tolist()]
    checksums = stamps[:, :1].copy()
    read, end = [], 0
    for each in requests:
        start, end = end, end + len(each)
        read.append(StepTimes(checksums[start:end], times[start:end], seconds[start:end]))
    return read


def _reading(clock_ns: int) -> int:
    return clock_ns // 1000 % 2**32
