"""Drains a server: new requests are refused at its first step, and the accepted ones are answered.

Triton's own shutdown does not do that: over gRPC, requests inside the ensemble fail at once with "scheduler for model
has stopped accepting", and over HTTP it waits for connections that clients keep open (tried on 2.51).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from jpeg_contract.run_folder import begun_requests, read_workers, start_draining

from jpeg_serve.triton_metrics import read_metrics, waiting_requests

_POLL_S = 0.05
# Nothing is busy or waits in so many looks, one after the other: a request between two steps is neither.
_QUIET_LOOKS = 6


def drain(run_folder: Path, metrics_address: str, limit_s: float, is_alive: Callable[[], bool]) -> bool:
    """Refuse new requests, and wait until the accepted ones are answered.

    Args:
        run_folder: Of the server and its workers.
        metrics_address: HOST:PORT of the server's metrics.
        limit_s: Time limit, in seconds.
        is_alive: Whether the server still runs.

    Returns:
        Whether all accepted requests are answered. False, at once, if the first step cannot refuse requests, because it
        is not this project's.
    """
    if not any(worker.role == "preprocess" for worker in read_workers(run_folder)):
        return False
    end = time.monotonic() + limit_s
    # In this order: a request that leaves the queue in between is counted twice, not omitted.
    waiting = _waiting(metrics_address)
    begun = begun_requests(run_folder)
    most = sum(begun.values()) + sum(waiting.get(model, 0) for model in begun)
    start_draining(run_folder, most)
    quiet, before = 0, -1
    while quiet < _QUIET_LOOKS:
        if not is_alive() or time.monotonic() > end:
            return False
        workers = list(read_workers(run_folder))
        done = sum(worker.begun + worker.taken for worker in workers)
        waiting_by_model = _waiting(metrics_address)
        begun = begun_requests(run_folder)
        if sum(begun.values()) >= most:
            # What waits there now is refused.
            waiting_by_model = {model: count for model, count in waiting_by_model.items() if model not in begun}
        is_quiet = done == before and not any(worker.busy for worker in workers) and not any(waiting_by_model.values())
        quiet, before = quiet + 1 if is_quiet else 0, done
        time.sleep(_POLL_S)
    return True


def _waiting(metrics_address: str) -> dict[str, int]:
    try:
        return waiting_requests(read_metrics(metrics_address))
    except OSError:  # switched off, or the server ends
        return {}
