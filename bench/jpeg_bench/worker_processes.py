"""Runs a function in several processes that start at the same time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from jpeg_contract.errors import ReasonedError

from jpeg_bench.errors import BenchError
from jpeg_bench.recorder import clock

Result = TypeVar("Result")

PREPARE_TIMEOUT_S = 180.0
"""Time limit for the start and the preparation of a process: frameworks and engines load slowly."""

_START_DELAY_S = 0.05
_JOIN_TIMEOUT_S = 5.0


def run_together(
    prepare: Callable[..., Callable[[float], Result]],
    jobs: Sequence[tuple[Any, ...]],
    *,
    timeout_s: float,
    meanwhile: Callable[[float], None] = lambda _: None,
) -> tuple[float, list[Result]]:
    """Run each job in a process of its own, from a common start time on.

    Args:
        prepare: Importable function. Each process calls it with the elements of its job, and calls the function that it
            returns with the start time once all processes are prepared.
        jobs: Arguments of `prepare`, one tuple per process.
        timeout_s: Time limit from the start time to the result.
        meanwhile: Called in this process with the start time, while the jobs run.

    Returns:
        The start time in seconds on `recorder.clock`, and the results in the order of the jobs.

    Raises:
        BenchError: A process failed, with the message and the reason code of its error.
    """
    # Spawned: gRPC and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for job in jobs:
            pipe, child_pipe = context.Pipe()
            process = context.Process(target=_work, args=(child_pipe, prepare, job), daemon=True)
            process.start()
            child_pipe.close()
            pipes.append(pipe)
            processes.append(process)
        for pipe, process in zip(pipes, processes, strict=True):
            _receive(pipe, process, PREPARE_TIMEOUT_S)
        start = clock() + _START_DELAY_S
        for pipe in pipes:
            pipe.send(start)
        meanwhile(start)
        results = [_receive(pipe, process, timeout_s) for pipe, process in zip(pipes, processes, strict=True)]
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(timeout=_JOIN_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()
    return start, results


def _receive(pipe: Connection, process: SpawnProcess, timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while not pipe.poll():
        if not process.is_alive() and not pipe.poll():
            raise BenchError(
                f"a worker process exited unexpectedly (status {process.exitcode}); see stderr", reason="worker_crashed"
            )
        if time.monotonic() > deadline:
            raise BenchError(f"a worker process did not finish within {timeout_s:.0f} s", reason="worker_timeout")
        wait([pipe, process.sentinel], timeout=1)
    try:
        result, failure = pipe.recv()
    except EOFError as error:
        raise BenchError("a worker process exited unexpectedly; see stderr", reason="worker_crashed") from error
    if failure is not None:
        message, reason = failure
        raise BenchError(message, reason=reason)
    return result


def _work(pipe: Connection, prepare: Callable[..., Callable[[float], Any]], job: tuple[Any, ...]) -> None:
    try:
        run = prepare(*job)
        pipe.send((None, None))
        pipe.send((run(pipe.recv()), None))
    except ReasonedError as error:
        pipe.send((None, (str(error), error.reason)))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return  # the parent process ended
    except Exception as error:
        pipe.send((None, (f"a worker process failed: {type(error).__name__}: {error}", "worker_failed")))
