"""How long the steps took: `preprocess` stamps each image with its clock, `postprocess` computes the differences.

A stamp is one tensor with the checksum, because each further tensor between the steps costs some 25 microseconds of CPU
time per request. Clock readings are microseconds of the monotonic clock, which is one for all processes of a machine,
modulo 2**32: differences of up to 71 minutes are right.
"""

from __future__ import annotations

import numpy as np
from jpeg_contract.tensors import STAMP_LENGTH
from numpy.typing import NDArray


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


def read_stamps(
    stamps: NDArray[np.uint32], begun_ns: int, ended_ns: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Read the stamps of a request.

    Args:
        stamps: Of `stamp`.
        begun_ns: `time.monotonic_ns()` when `postprocess` began the batch.
        ended_ns: The same when the response is ready.

    Returns:
        The checksums, (N, 1) uint32, and the times, (N, 3) float32 in milliseconds: `preprocess`; the classifier with
        its queue, from the end of `preprocess` to the start of `postprocess`; `postprocess`.
    """
    readings = np.empty((len(stamps), 4), np.uint32)
    readings[:, :2] = stamps[:, 1:]
    readings[:, 2:] = _reading(begun_ns), _reading(ended_ns)
    # Differences of uint32 wrap as the readings do.
    elapsed = readings[:, 1:] - readings[:, :-1]
    return stamps[:, :1].copy(), elapsed.astype(np.float32) / np.float32(1000)


def _reading(clock_ns: int) -> int:
    return clock_ns // 1000 % 2**32
