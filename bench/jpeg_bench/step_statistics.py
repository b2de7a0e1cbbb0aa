"""Triton's own statistics of each step: how large the batches were, and how long requests waited.

Source: Triton's extension_statistics.md. They count from the server's start, so the difference of two is what counts.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jpeg_bench.errors import BenchError

_ANSWER_S = 10.0
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class StepCounts:
    """Of one model, since the server's start. images: inferences. runs: executions. requests: that succeeded.

    failed: requests that did not. ns: for each part of a request's time, the sum over all requests, in nanoseconds.
    """

    images: int
    runs: int
    requests: int
    failed: int
    ns: Mapping[str, int]

    def since(self, before: StepCounts) -> dict[str, float | int | None]:
        """Between an earlier moment and this one: images of a batch, and milliseconds of a request, on average."""
        runs, requests = self.runs - before.runs, self.requests - before.requests
        images = self.images - before.images
        parts = {
            f"{part}_ms": round((self.ns[part] - before.ns[part]) / requests / 1e6, 3) if requests else None
            for part in _PARTS
        }
        return {
            "images": images,
            "runs": runs,
            "requests": requests,
            "failed": self.failed - before.failed,
            "mean_batch": round(images / runs, 2) if runs else None,
            **parts,
        }


def differences(before: Mapping[str, StepCounts], after: Mapping[str, StepCounts]) -> dict[str, Any]:
    """`StepCounts.since` for each model that was asked for anything meanwhile."""
    nothing = StepCounts(0, 0, 0, 0, dict.fromkeys(_PARTS, 0))
    found = {name: counts.since(before.get(name, nothing)) for name, counts in after.items()}
    return {name: counts for name, counts in found.items() if counts["requests"] or counts["failed"]}


def read_counts(said: Mapping[str, Any]) -> dict[str, StepCounts]:
    """From the JSON that Triton answers; the versions of a model together."""
    found: dict[str, StepCounts] = {}
    for model in said.get("model_stats", ()):
        inference = model.get("inference_stats", {})
        counts = StepCounts(
            images=int(model.get("inference_count", 0)),
            runs=int(model.get("execution_count", 0)),
            requests=int(inference.get("success", {}).get("count", 0)),
            failed=int(inference.get("fail", {}).get("count", 0)),
            ns={part: int(inference.get(part, {}).get("ns", 0)) for part in _PARTS},
        )
        known = found.get(model["name"])
        found[model["name"]] = counts if known is None else _sum(known, counts)
    return found


def ask_counts(protocol: str, address: str) -> dict[str, StepCounts]:
    """Of all models of a server. Raises BenchError if it does not tell."""
    try:
        return read_counts(_ask_grpc(address) if protocol == "grpc" else _ask_http(address))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchError(f"{protocol}://{address} does not tell its statistics: {error}") from error


def _sum(one: StepCounts, other: StepCounts) -> StepCounts:
    return StepCounts(
        one.images + other.images,
        one.runs + other.runs,
        one.requests + other.requests,
        one.failed + other.failed,
        {part: one.ns[part] + other.ns[part] for part in _PARTS},
    )


def _ask_http(address: str) -> Any:
    connection = http.client.HTTPConnection(address, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/v2/models/stats")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"HTTP {answer.status}: {body[:200].decode(errors='replace')}")
    return json.loads(body)


def _ask_grpc(address: str) -> Any:
    import tritonclient.grpc as module
    from tritonclient.utils import InferenceServerException

    client = module.InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)])
    try:
        return client.get_inference_statistics(as_json=True, client_timeout=_ANSWER_S)
    except InferenceServerException as error:
        raise OSError(str(error)) from error
    finally:
        client.close()
