"""Batches on a device: gathered in one buffer there from wherever their parts lie, and run from it.

This module holds for every framework and needs no device: it splits and pads batches to the supported sizes, plans the
copies, and chooses the batch sizes that get a CUDA graph. `tensorrt_engine` and `torch_script` add the device.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jpeg_contract.forms import CudaGraphParameters

from jpeg_runtime.batching import Array, split_rows
from jpeg_runtime.serving_config import ServingConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """Rows `start` to `stop` of part `part` go to the buffer, from its row `at` on."""

    part: int
    start: int
    stop: int
    at: int


def gathering(sizes: Sequence[int], capacity: int) -> list[list[Copy]]:
    """Plan the copies of each run, so that parts of these sizes pass, in order, through a buffer of `capacity` rows."""
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
    """Chooses the batch sizes that get a CUDA graph of their own: first come, first served.

    A chosen size stays chosen: sizes that take turns would cost one capture after another.

    Args:
        after: How often a size must have come.
        at_most: How many sizes are chosen. A graph holds memory, and its capture delays one batch.
    """

    def __init__(self, *, after: int, at_most: int) -> None:
        self._after, self._left = after, at_most
        self._seen: Counter[int] = Counter()

    @classmethod
    def from_config(cls, config: ServingConfig, *, default: bool = True) -> FrequentSizes:
        """Read `optimization { cuda { graphs } }`, the native TensorRT backend's switch, and CudaGraphParameters.

        Args:
            config: The classifier's.
            default: Whether there are graphs if the config does not say.

        Raises:
            SettingsError: A parameter has a value that cannot be used.
        """
        enabled = default if config.cuda_graphs is None else config.cuda_graphs
        options = config.options(CudaGraphParameters)
        return cls(after=options.cuda_graph_after, at_most=options.cuda_graph_sizes if enabled else 0)

    def chosen_now(self, size: int) -> bool:
        """Count a batch; return True once for each chosen size, when it is chosen."""
        self._seen[size] += 1
        if self._left > 0 and self._seen[size] == self._after:
            self._left -= 1
            return True
        return False


class DeviceRunner(ABC):
    """A loaded network with its buffers and its stream on a device; one for each instance.

    A batch beyond `largest` is split; one below `smallest` is padded with what the buffer holds, and the outputs of the
    padding are dropped.

    Args:
        item: Shape of one image.
        smallest: The smallest batch that the network takes.
        largest: The largest.
        frequent: Chooses the sizes that get a CUDA graph.
    """

    def __init__(self, *, item: tuple[int, ...], smallest: int, largest: int, frequent: FrequentSizes) -> None:
        assert 1 <= smallest <= largest
        self._item = item
        self._smallest, self._largest = smallest, largest
        self._frequent = frequent
        self._graphs: dict[int, Any] = {}

    @property
    def graph_sizes(self) -> list[int]:
        """The batch sizes that have a CUDA graph so far."""
        return sorted(self._graphs)

    def __call__(self, parts: Sequence[Any]) -> list[Array]:
        """Run the pixels of several requests together.

        Args:
            parts: For each request (N, H, W, 3) uint8, in host memory (NumPy) or a device's (see `from_capsule`).

        Returns:
            For each request (N, classes) float32 logits, in host memory.

        Raises:
            Exception: Whatever the framework raises.
        """
        for part in parts:
            # Copies between memories check the length only.
            if tuple(part.shape[1:]) != self._item:
                raise ValueError(f"pixels of shape {list(part.shape)}, but each image is {list(self._item)}")
        sizes = [int(part.shape[0]) for part in parts]
        outputs = []
        with self._active():
            try:
                for copies in gathering(sizes, self._largest):
                    self._put(parts, copies)
                    rows = sum(copy.stop - copy.start for copy in copies)
                    self._run(max(rows, self._smallest))
                    outputs.append(self._fetch(rows))
            except Exception:
                # Pending work must not write to buffers of the next try, nor read parts that are freed.
                self._settle()
                raise
        return split_rows(outputs[0] if len(outputs) == 1 else np.concatenate(outputs), sizes)

    def _put(self, parts: Sequence[Any], copies: Sequence[Copy]) -> None:
        """Enqueue the copies of a run. Neighbours in host memory are one: a copy costs more than its bytes."""
        for in_host_memory, group in itertools.groupby(copies, lambda copy: isinstance(parts[copy.part], np.ndarray)):
            neighbours = list(group)
            rows = [parts[copy.part][copy.start : copy.stop] for copy in neighbours]
            if in_host_memory:
                self._put_host(rows, neighbours[0].at)
                continue
            for copy, source in zip(neighbours, rows, strict=True):
                self._put_device(source, copy.at)

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
        """Take a DLPack capsule in the device's memory as an array; nothing is copied."""

    @abstractmethod
    def _active(self) -> AbstractContextManager[Any]:
        """Return the context of all the following calls: the device, the stream."""

    @abstractmethod
    def _put_host(self, parts: Sequence[Array], at: int) -> None:
        """Enqueue one copy of parts in host memory into the buffer. The caller may change them once it returns."""

    @abstractmethod
    def _put_device(self, rows: Any, at: int) -> None:
        """Enqueue a copy of rows on a device into the input buffer."""

    @abstractmethod
    def _infer(self, rows: int) -> None:
        """Enqueue a run of the first rows of the input buffer."""

    @abstractmethod
    def _capture(self, rows: int) -> Any:
        """Capture what `_infer` enqueues for this many rows as a graph."""

    @abstractmethod
    def _replay(self, graph: Any) -> None:
        """Enqueue a captured graph."""

    @abstractmethod
    def _fetch(self, rows: int) -> Array:
        """Wait for the run; return its first rows as an array of their own."""

    @abstractmethod
    def _settle(self) -> None:
        """Wait until all enqueued work is over, failed or not."""
