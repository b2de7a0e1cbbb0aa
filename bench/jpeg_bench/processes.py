"""Work in several processes that begin at the same moment."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from jpeg_bench.errors import BenchError
from jpeg_bench.recorder import clock

Result = TypeVar("Result")

# What a process may take to be started and to prepare itself: engines and frameworks take their time.
START_S = 180.0
_HEADWAY_S = 0.05


def together(
    prepare: Callable[..., Callable[[float], Result]],
    jobs: Sequence[tuple[Any, ...]],
    *,
    limit_s: float,
    meanwhile: Callable[[float], None] = lambda _: None,
) -> tuple[float, list[Result]]:
    """Run one job in each process; returns the common start, on `recorder.clock`, and each result.

    prepare: a function of a module, called in the process with the parts of its job; what it returns is called with
    the start, once all are prepared. limit_s: how long that may take. meanwhile: called here with the start, while
    they work. Raises BenchError with the words of a process that failed.
    """
    # Spawned, not forked: neither gRPC nor CUDA survives a fork.
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, prepare, job), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe, process in zip(pipes, processes, strict=True):
            _receive(pipe, process, START_S)
        start = clock() + _HEADWAY_S
        for pipe in pipes:
            pipe.send(start)
        meanwhile(start)
        results = [_receive(pipe, process, limit_s) for pipe, process in zip(pipes, processes, strict=True)]
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
    return start, results


def _receive(pipe: Connection, process: SpawnProcess, seconds: float) -> Any:
    limit = time.monotonic() + seconds
    while not pipe.poll():
        if not process.is_alive() and not pipe.poll():
            raise BenchError(f"a process of the bench ended by itself (status {process.exitcode}); stderr may say why")
        if time.monotonic() > limit:
            raise BenchError(f"a process of the bench said nothing for {seconds:.0f} s")
        wait([pipe, process.sentinel], timeout=1)
    try:
        kind, said = pipe.recv()
    except EOFError as error:
        raise BenchError("a process of the bench ended by itself; stderr may say why") from error
    if kind == "failed":
        raise BenchError(said)
    return said


def _work(pipe: Connection, prepare: Callable[..., Callable[[float], Any]], job: tuple[Any, ...]) -> None:
    try:
        run = prepare(*job)
        pipe.send(("ready", None))
        pipe.send(("done", run(pipe.recv())))
    except BenchError as error:
        pipe.send(("failed", str(error)))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return  # whoever started it is gone
    except Exception as error:
        pipe.send(("failed", f"a process of the bench failed: {type(error).__name__}: {error}"))
