"""Minutes of kills, freezes and starvation at random, with every answer checked."""

from __future__ import annotations

import contextlib
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import psutil

from faults import injection
from faults.answers import Verdict
from faults.errors import FaultsError
from faults.freezes import ways
from faults.samples import Sample
from faults.senders import Load
from faults.service import MODELS, Service
from faults.traffic import RECOVERY_S, Traffic
from faults.trials import problems

_FEW_FILES = 16
_MOST_SECONDS = 6.0


@contextlib.contextmanager
def _few_files(process: psutil.Process) -> Iterator[None]:
    """Let a process open no more files than it has: it accepts no connection."""
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + _FEW_FILES, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def _busy_cores() -> Iterator[None]:
    """Keep all cores busy, four processes on each."""
    command = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(command) for _ in range(4 * (psutil.cpu_count() or 1))]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
        for burner in burners:
            burner.wait()


def _killed(processes: Callable[[Service], list[psutil.Process]]) -> Callable[[Service], AbstractContextManager[None]]:
    @contextlib.contextmanager
    def inject(service: Service) -> Iterator[None]:
        injection.kill(processes(service)[:1])
        yield

    return inject


def _faults() -> dict[str, Callable[[Service], AbstractContextManager[None]]]:
    return {
        **ways(),
        **{f"{model} killed": _killed(lambda service, m=model: service.workers(m)) for model in MODELS},  # type: ignore[misc]
        "server killed": _killed(lambda service: service.servers()),
        "preprocess without memory": lambda service: injection.out_of_memory(service.workers("preprocess")[0]),
        "server without files": lambda service: _few_files(service.servers()[0]),
        "busy cores": lambda _: _busy_cores(),
    }


def run_mayhem(
    service: Service, samples: Sequence[Sample], seconds: float, progress: Callable[[str], None], seed: int = 0
) -> dict[str, Any]:
    """Inject faults at random, also before the last one is healed.

    Args:
        service: It has to go on by itself.
        samples: What is sent meanwhile.
        seconds: How long.
        progress: Receives the steps.
        seed: Of the faults and their times.

    Returns:
        Faults, counts, `longest_gap_s` without a right answer to a plain client, recovery after the last fault,
        and `problems`.
    """
    order = random.Random(seed)  # noqa: S311  # repeatable
    faults = _faults()
    injected: list[dict[str, Any]] = []
    with Traffic(service.target, samples, Load(limit_s=_MOST_SECONDS + 30)) as traffic:
        traffic.wait_until_answering()
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            name, length = order.choice(list(faults)), order.uniform(0.5, _MOST_SECONDS)
            progress(f"{time.monotonic() - begin:.0f} s: {name}, {length:.1f} s")
            injected.append({"at_s": round(time.monotonic() - begin, 1), "fault": name, "seconds": round(length, 1)})
            # There may be no such process now: the last fault is not healed yet.
            with contextlib.suppress(psutil.Error, ProcessLookupError, IndexError), faults[name](service):
                time.sleep(length)
            time.sleep(order.uniform(0, 8))
        over = time.monotonic()
        found = []
        try:
            recovery_s: float | None = traffic.wait_until_answering(over, RECOVERY_S)
        except FaultsError as error:
            recovery_s = None
            found.append(str(error))
    right = sorted(
        each.done for each in traffic.record.select(Verdict.RIGHT, sent_from=begin) if each.protocol in ("grpc", "http")
    )
    moments = [begin, *right]
    return {
        "seconds": seconds,
        "seed": seed,
        "faults": injected,
        **traffic.record.summary(),
        "lie_count": len(traffic.record.lies),
        "lost_count": len(traffic.record.lost),
        "longest_gap_s": round(max(later - earlier for earlier, later in pairwise(moments)), 2),
        "recovery_s": recovery_s,
        # Faults come quicker than they heal: also a repeated request may meet one.
        "problems": found + problems(traffic.record, clients_may_fail=True),
    }
