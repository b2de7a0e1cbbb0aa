"""Triton's statistics per model: batch sizes, and the time requests spend in queue and computation.

Source: Triton's extension_statistics.md. Counters start with the server, so results are differences.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jpeg_bench.errors import BenchError

_TIMEOUT_S = 10.0
_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ModelCounters:
    """Counters of one model since the server's start.

    Attributes:
        images: Inferences.
        executions: Executions of a batch.
        requests: Successful requests.
        failures: Failed requests.
        ns: Nanoseconds of all requests by phase.
    """

    images: int
    executions: int
    requests: int
    failures: int
    ns: Mapping[str, int]

    def since(self, earlier: ModelCounters) -> dict[str, float | int | None]:
        """Return the differences to earlier counters, the mean batch size, and mean milliseconds per request."""
        executions, requests = self.executions - earlier.executions, self.requests - earlier.requests
        images = self.images - earlier.images
        phases = {
            f"{phase}_ms": round((self.ns[phase] - earlier.ns[phase]) / requests / 1e6, 3) if requests else None
            for phase in _PHASES
        }
        return {
            "images": images,
            "executions": executions,
            "requests": requests,
            "failures": self.failures - earlier.failures,
            "mean_batch": round(images / executions, 2) if executions else None,
            **phases,
        }


def differences(earlier: Mapping[str, ModelCounters], later: Mapping[str, ModelCounters]) -> dict[str, Any]:
    """Return `ModelCounters.since` for each model with requests between the two moments."""
    zero = ModelCounters(0, 0, 0, 0, dict.fromkeys(_PHASES, 0))
    found = {name: counters.since(earlier.get(name, zero)) for name, counters in later.items()}
    return {name: each for name, each in found.items() if each["requests"] or each["failures"]}


def parse_statistics(response: Mapping[str, Any]) -> dict[str, ModelCounters]:
    """Parse Triton's response; the versions of a model are summed."""
    found: dict[str, ModelCounters] = {}
    for model in response.get("model_stats", ()):
        inference = model.get("inference_stats", {})
        counters = ModelCounters(
            images=int(model.get("inference_count", 0)),
            executions=int(model.get("execution_count", 0)),
            requests=int(inference.get("success", {}).get("count", 0)),
            failures=int(inference.get("fail", {}).get("count", 0)),
            ns={phase: int(inference.get(phase, {}).get("ns", 0)) for phase in _PHASES},
        )
        known = found.get(model["name"])
        found[model["name"]] = counters if known is None else _sum(known, counters)
    return found


def fetch_statistics(protocol: str, address: str) -> dict[str, ModelCounters]:
    """Fetch the counters of all models.

    Args:
        protocol: grpc or http.
        address: HOST:PORT of the server.

    Raises:
        BenchError: The server does not provide statistics.
    """
    try:
        return parse_statistics(_fetch_grpc(address) if protocol == "grpc" else _fetch_http(address))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchError(
            f"{protocol}://{address} does not provide statistics: {error}", reason="statistics_missing"
        ) from error


def _sum(one: ModelCounters, other: ModelCounters) -> ModelCounters:
    return ModelCounters(
        one.images + other.images,
        one.executions + other.executions,
        one.requests + other.requests,
        one.failures + other.failures,
        {phase: one.ns[phase] + other.ns[phase] for phase in _PHASES},
    )


def _fetch_http(address: str) -> Any:
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/v2/models/stats")
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
    return json.loads(body)


def _fetch_grpc(address: str) -> Any:
    import tritonclient.grpc as module
    from tritonclient.utils import InferenceServerException

    client = module.InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)])
    try:
        return client.get_inference_statistics(as_json=True, client_timeout=_TIMEOUT_S)
    except InferenceServerException as error:
        raise OSError(str(error)) from error
    finally:
        client.close()
