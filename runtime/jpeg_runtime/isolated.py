"""An open classifier in a process of its own, as Triton's worker is one.

The process has the frameworks' settings to itself, and a runtime that crashes costs its own process only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
from jpeg_contract.errors import ReasonedError

from jpeg_runtime.batching import Array

_STOP_S = 10.0


class RuntimeFailure(ReasonedError):
    """The artefact cannot be opened or run. Reasons: the loader's own, run_failed, runtime_crashed."""

    reason = "run_failed"


class IsolatedClassifier:
    """A classifier that `loading.open_classifier` opens in a process of its own; use it in a `with` block.

    Args:
        args: The arguments of a Python model's `initialize`, as Triton makes them.
        cpus: How many CPUs the loader may count on; None counts those that this process may use.

    Raises:
        RuntimeFailure: It cannot be opened.
    """

    def __init__(self, args: Mapping[str, str], *, cpus: int | None = None) -> None:
        # Not fork: CUDA, OpenMP and TensorFlow do not survive one.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, dict(args), cpus), daemon=True, name="classifier")
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> IsolatedClassifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, pixels: Array) -> Array:
        """Run one batch.

        Args:
            pixels: (N, H, W, 3) uint8.

        Returns:
            (N, classes) float32 logits.

        Raises:
            RuntimeFailure: The run failed, or the process crashed.
        """
        logits: Array = self._request("run", np.ascontiguousarray(pixels))
        return logits

    def images_per_second(self, batch: Array, seconds: float) -> float:
        """Run a batch again and again for some seconds. Raises RuntimeFailure."""
        return float(self._request("measure", np.ascontiguousarray(batch), seconds))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(_STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _request(self, *message: Any) -> Any:
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._crashed() from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            result, failure = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._crashed() from error
        if failure is not None:
            message, reason = failure
            raise RuntimeFailure(message, reason=reason)
        return result

    def _crashed(self) -> RuntimeFailure:
        self._process.join(_STOP_S)
        code = self._process.exitcode
        how = f"exit status {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return RuntimeFailure(f"the runtime crashed ({how})", reason="runtime_crashed")


def _serve(connection: Connection, args: dict[str, str], cpus: int | None) -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C reaches this process, too: it ends at once, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Frameworks print to stdout, which holds the command's result.
    os.dup2(2, 1)
    # After Ctrl-C, nobody may be left to take what is sent.
    with contextlib.suppress(BrokenPipeError):
        _open_and_run(connection, args, cpus)


def _open_and_run(connection: Connection, args: dict[str, str], cpus: int | None) -> None:
    try:
        from jpeg_runtime.loading import open_classifier
        from jpeg_runtime.serving_config import ServingConfig

        classifier = open_classifier(ServingConfig.from_triton(args, cpus=cpus))
    except Exception as error:
        connection.send((None, _failure(error)))
        return
    connection.send((None, None))
    while True:
        try:
            kind, pixels, *rest = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if kind == "measure":
                connection.send((_images_per_second(classifier, pixels, *rest), None))
            else:
                connection.send((np.ascontiguousarray(classifier(pixels)), None))
        except Exception as error:
            connection.send((None, _failure(error)))


def _images_per_second(classifier: Any, batch: Array, seconds: float) -> float:
    classifier(batch)
    count, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        classifier(batch)
        count += len(batch)
    return count / elapsed


def _failure(error: Exception) -> tuple[str, str]:
    """Return the head of a runtime's message, which may go on for pages, and the reason code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, ReasonedError):
        return str(error), error.reason
    return lines[0][:300], "run_failed"
