"""Batches on a device: gathered in one buffer there from wherever their parts lie, and run from it.

What is here holds for every framework, and needs no device: what goes where, how a batch that is too long or too
short is run, and which batch sizes get a CUDA graph. `tensorrt_engine` and `torch_script` add the device.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from jpeg_backend.batching import Array, split_rows
from jpeg_backend.model_config import BackendConfigError, ModelConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """Rows `start` to `stop` of part `part` go to the buffer, from its row `at` on."""

    part: int
    start: int
    stop: int
    at: int


def gathering(sizes: Sequence[int], capacity: int) -> list[list[Copy]]:
    """What to copy for each run, so that parts of these sizes pass, in order, through a buffer of `capacity` rows."""
    runs: list[list[Copy]] = []
    free = 0
    for part, size in enumerate(sizes):
        start = 0
        while start < size:
            if free == 0:
                runs.append([])
                free = capacity
            stop = min(size, start + free)
            runs[-1].append(Copy(part, start, stop, capacity - free))
            free -= stop - start
            start = stop
    return runs


class FrequentSizes:
    """Which batch sizes come often enough for a CUDA graph of their own: first come, first served.

    after: how often a size must have come. at_most: how many sizes are chosen; a graph holds memory, and its capture
    holds up one batch. A chosen size stays chosen: sizes that take turns would cost one capture after another.
    """

    def __init__(self, *, after: int, at_most: int) -> None:
        self._after, self._left = after, at_most
        self._seen: Counter[int] = Counter()

    @classmethod
    def from_config(cls, config: ModelConfig, *, default: bool = True) -> FrequentSizes:
        """From `optimization { cuda { graphs } }`, the native TensorRT backend's switch, and the parameters
        cuda_graph_sizes (default 8) and cuda_graph_after (default 10).

        default: whether there are graphs if the config does not say. Raises BackendConfigError.
        """
        wanted = default if config.cuda_graphs is None else config.cuda_graphs
        after, at_most = config.integer("cuda_graph_after", 10), config.integer("cuda_graph_sizes", 8)
        if after < 1 or at_most < 0:
            raise BackendConfigError("parameter cuda_graph_after must be at least 1, and cuda_graph_sizes at least 0")
        return cls(after=after, at_most=at_most if wanted else 0)

    def chosen_now(self, size: int) -> bool:
        """Take note of a batch; True once for each size that is chosen, when it is."""
        self._seen[size] += 1
        if self._left > 0 and self._seen[size] == self._after:
            self._left -= 1
            return True
        return False


class DeviceRunner(ABC):
    """A loaded network with its buffers and its stream on a device; one for each instance.

    item: shape of one image. smallest, largest: the batch sizes that the network takes. A batch beyond `largest` is
    run in several pieces; one below `smallest` takes what the buffer still holds along, and what comes of that is
    dropped.
    """

    def __init__(self, *, item: tuple[int, ...], smallest: int, largest: int, frequent: FrequentSizes) -> None:
        assert 1 <= smallest <= largest
        self._item = item
        self._smallest, self._largest = smallest, largest
        self._frequent = frequent
        self._graphs: dict[int, Any] = {}

    @property
    def graph_sizes(self) -> list[int]:
        """The batch sizes that are run by a CUDA graph by now."""
        return sorted(self._graphs)

    def __call__(self, parts: Sequence[Any]) -> list[Array]:
        """Run the pixels of several requests together.

        parts: for each request (N, H, W, 3) uint8 pixels, in host memory (NumPy) or in a device's (what `from_capsule`
        returns). Returns for each (N, classes) float32 logits, in host memory. Raises what the framework raises.
        """
        for part in parts:
            # Copies between memories go by length alone.
            if tuple(part.shape[1:]) != self._item:
                raise ValueError(f"pixels of shape {list(part.shape)}, but each image is {list(self._item)}")
        sizes = [int(part.shape[0]) for part in parts]
        outputs = []
        with self._active():
            try:
                for copies in gathering(sizes, self._largest):
                    for copy in copies:
                        self._put(parts[copy.part][copy.start : copy.stop], copy.at)
                    rows = sum(copy.stop - copy.start for copy in copies)
                    self._run(max(rows, self._smallest))
                    outputs.append(self._fetch(rows))
            except Exception:
                # What was begun must not write to buffers that the next try uses, nor read parts that are gone.
                self._settle()
                raise
        return split_rows(outputs[0] if len(outputs) == 1 else np.concatenate(outputs), sizes)

    def _run(self, rows: int) -> None:
        if self._frequent.chosen_now(rows):
            try:
                self._graphs[rows] = self._capture(rows)
            except Exception:
                log.warning("batches of %d cannot be captured as a CUDA graph, and run without", rows, exc_info=True)
        if rows in self._graphs:
            self._replay(self._graphs[rows])
        else:
            self._infer(rows)

    @abstractmethod
    def from_capsule(self, capsule: Any) -> Any:
        """A DLPack capsule in the device's memory, as an array: nothing is copied."""

    @abstractmethod
    def _active(self) -> AbstractContextManager[Any]:
        """What must hold around all of the following: the device, the stream."""

    @abstractmethod
    def _put(self, rows: Any, at: int) -> None:
        """Begin to copy rows, wherever they lie, into the input buffer. Host memory may change when it returns."""

    @abstractmethod
    def _infer(self, rows: int) -> None:
        """Begin to run the first rows of the input buffer."""

    @abstractmethod
    def _capture(self, rows: int) -> Any:
        """Make a graph of what `_infer` does for so many rows."""

    @abstractmethod
    def _replay(self, graph: Any) -> None:
        """Begin to do what `_infer` does, by a graph."""

    @abstractmethod
    def _fetch(self, rows: int) -> Array:
        """Wait for the run; returns its first rows, as an array of their own."""

    @abstractmethod
    def _settle(self) -> None:
        """Wait until all that was begun is over, failed or not."""
