"""Freezes of the server, its workers and everything, one after the other, and what clients see of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import Any

import psutil

from faults import injection
from faults.errors import FaultsError
from faults.samples import Sample
from faults.senders import Load
from faults.service import MODELS, Service
from faults.trials import fault

SECONDS = (0.5, 0.7, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)

Freeze = Callable[[Service], AbstractContextManager[None]]


def _group(service: Service) -> AbstractContextManager[None]:
    return injection.group_stopped(service.servers()[0].pid)


def _everything(service: Service) -> AbstractContextManager[None]:
    return injection.stopped(service.family())


def _frozen_server(service: Service) -> AbstractContextManager[None]:
    """Freeze a server and its workers without any signal; jpeg-serve runs on."""
    server = service.servers()[0]
    return injection.frozen([server, *server.children(recursive=True)])


def _frozen_machine(service: Service) -> AbstractContextManager[None]:
    return injection.frozen(service.family())


def _worker(model: str) -> Freeze:
    return lambda service: injection.stopped(service.workers(model)[:1])


def _frozen_worker(model: str) -> Freeze:
    return lambda service: injection.frozen(service.workers(model)[:1])


def ways() -> dict[str, Freeze]:
    """Return the ways to freeze that this machine has."""
    found: dict[str, Freeze] = {"group stopped": _group, "everything stopped": _everything}
    found |= {f"{model} stopped": _worker(model) for model in MODELS}
    if not injection.freezer_missing():
        found |= {"server frozen": _frozen_server, "machine frozen": _frozen_machine}
        found |= {f"{model} frozen": _frozen_worker(model) for model in MODELS}
    return found


def run_freezes(
    service: Service, samples: Sequence[Sample], rounds: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Freeze again and again, each way for each time in turn.

    Args:
        service: It has to go on by itself after each freeze.
        samples: What is sent meanwhile.
        rounds: Number of freezes.
        progress: Receives the steps.

    Returns:
        `rounds`, each with its problem (empty if there is none); `lies` and `problems` in all; the longest recovery.
    """
    available = ways()
    # 10 times and 10 ways: the shift lets each way meet each time.
    plan = itertools.islice(
        (
            (name, SECONDS[(index + turn) % len(SECONDS)])
            for turn in itertools.count()
            for index, name in enumerate(available)
        ),
        rounds,
    )
    results: list[dict[str, Any]] = []
    for number, (name, seconds) in enumerate(plan, 1):
        progress(f"round {number} of {rounds}: {name} for {seconds:g} s")
        injected = None
        problem = ""
        try:
            with fault(service, samples, Load(limit_s=seconds + 20)) as injected:
                with available[name](service):
                    time.sleep(seconds)
                injected.over()
        except (FaultsError, psutil.Error, IndexError) as error:
            problem = str(error)
            progress(problem.split("\n", 1)[0])
        results.append(
            {
                "way": name,
                "seconds": seconds,
                "recovery_s": round(injected.recovery_s, 2) if injected and injected.recovery_s < inf else None,
                "lies": len(injected.record.lies) if injected else 0,
                "refusals": injected.record.summary()["refusals"] if injected else {},
                "problem": problem,
            }
        )
    recoveries = [each["recovery_s"] for each in results if each["recovery_s"] is not None]
    return {
        "rounds": results,
        "lies": sum(each["lies"] for each in results),
        "problems": sum(bool(each["problem"]) for each in results),
        "longest_recovery_s": max(recoveries, default=None),
    }
