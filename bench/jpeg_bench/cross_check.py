"""Applies the same closed loop with an independent load generator: perf_analyzer or wrk, if it is installed."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jpeg_contract.tensors import IMAGE

from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.load import Load, PreparedRequest, Protocol

if TYPE_CHECKING:
    from jpeg_bench.target_server import TargetServer

Tool = Literal["perf_analyzer", "wrk"]

_INSTALL = {
    "perf_analyzer": "pip install perf-analyzer (it needs glibc 2.38 or later)",
    "wrk": "install the package wrk of the distribution",
}
_TIMEOUT_S = 90.0

# perf_analyzer repeats the measurement until this many are stable, or at most ten times.
_WINDOWS = 3
# In percent: accept the measurements of a virtual machine, and average them.
_STABILITY = 999

# wrk calls init in each thread, and request before each request: the requests are sent in rotation.
_WRK_SCRIPT = """\
local requests = {%(requests)s}
local next_request = 0
function init(arguments)
  for _, request in ipairs(requests) do
    local file = io.open(request.file, "rb")
    request.bytes = wrk.format("POST", request.path, request.headers, file:read("*a"))
    file:close()
  end
end
function request()
  next_request = next_request %% #requests + 1
  return requests[next_request].bytes
end
"""
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class ToolResult:
    """The result of a load generator.

    Attributes:
        images_per_s: Throughput.
        p50_ms: Median latency.
        p99_ms: 99th percentile of the latency.
    """

    images_per_s: float
    p50_ms: float
    p99_ms: float


def require_tool(tool: Tool) -> None:
    """Raise BenchError if a tool is not on the PATH."""
    if shutil.which(tool) is None:
        raise BenchError(f"{tool} is not on the PATH: {_INSTALL[tool]}", reason="tool_missing")


def supported_protocols(tool: Tool, protocols: Sequence[Protocol]) -> list[Protocol]:
    """Return the protocols that a tool supports. Raises InvalidOption if there are none."""
    supported = [protocol for protocol in protocols if tool != "wrk" or protocol == "http"]
    if not supported:
        raise InvalidOption(f"{tool} supports HTTP only: set --protocol http", reason="protocol_unsupported")
    return supported


def cross_check_load(
    tool: Tool, server: TargetServer, requests: Sequence[PreparedRequest], photos: Sequence[bytes], load: Load
) -> dict[str, Any]:
    """Apply a closed loop with this load generator, then with an independent one.

    Args:
        tool: The independent load generator.
        server: The server.
        requests: Sent in rotation.
        photos: Encoded images of the requests.
        load: The closed loop.

    Returns:
        Protocol, batch size, concurrency, and throughput and latency by load generator.

    Raises:
        BenchError: A load generator fails.
    """
    from jpeg_bench.load_point import measure_load

    own = measure_load(server, requests, load).result
    if tool == "perf_analyzer":
        other = run_perf_analyzer(requests[0], photos, load.concurrency, load.seconds, server.model)
    else:
        other = run_wrk(requests, load.concurrency, load.seconds)
    return {
        "protocol": requests[0].protocol,
        "batch_size": requests[0].images,
        **load.to_json(),
        "results": {
            "jpeg-bench": asdict(ToolResult(round(own.images_per_s, 1), round(own.p50_ms, 3), round(own.p99_ms, 3))),
            tool: asdict(other),
        },
    }


def run_perf_analyzer(
    request: PreparedRequest, photos: Sequence[bytes], concurrency: int, seconds: float, model: str
) -> ToolResult:
    """Apply a closed loop with perf_analyzer.

    Args:
        request: Prepared request with protocol, address and batch size.
        photos: Encoded images, sent in rotation.
        concurrency: Concurrent requests.
        seconds: Duration of each of the three measurements.
        model: Name of the ensemble.

    Raises:
        BenchError: perf_analyzer fails.
    """
    from jpeg_bench.ensemble_requests import serialize_bytes_tensor

    # The base64 text of a BYTES element includes its 4-byte length.
    data = [{IMAGE: {"b64": base64.b64encode(serialize_bytes_tensor([photo])).decode()}} for photo in photos]
    with tempfile.TemporaryDirectory() as folder:
        inputs, report = Path(folder) / "inputs.json", Path(folder) / "report.csv"
        inputs.write_text(json.dumps({"data": data}))
        command = ["perf_analyzer", "-m", model, "-i", request.protocol, "-u", request.address]
        command += ["-b", str(request.images)]
        command += ["--input-data", str(inputs), "--concurrency-range", str(concurrency), "-f", str(report)]
        command += ["--measurement-interval", str(max(1, round(seconds * 1e3))), "-s", str(_STABILITY)]
        output = _run(command, _WINDOWS * seconds + _TIMEOUT_S)
        if not report.is_file():
            raise BenchError(f"perf_analyzer: {_tail(output)}", reason="tool_failed")
        return parse_perf_analyzer(report.read_text())


def parse_perf_analyzer(report: str) -> ToolResult:
    """Parse the CSV report of perf_analyzer with one row; latencies are in microseconds."""
    try:
        (row,) = csv.DictReader(report.splitlines())
        return ToolResult(
            images_per_s=round(float(row["Inferences/Second"]), 1),
            p50_ms=float(row["p50 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"perf_analyzer: unknown report: {_tail(report)}", reason="tool_failed") from error


def run_wrk(requests: Sequence[PreparedRequest], concurrency: int, seconds: float) -> ToolResult:
    """Apply a closed loop with wrk.

    Args:
        requests: Prepared HTTP requests, sent in rotation.
        concurrency: Number of connections.
        seconds: Duration.

    Raises:
        BenchError: wrk fails, or a response has a status other than 200.
    """
    first = requests[0]
    with tempfile.TemporaryDirectory() as folder:
        tables = []
        for number, request in enumerate(requests):
            file = Path(folder) / str(number)
            file.write_bytes(request.body)
            # JSON strings are valid Lua strings for paths and headers.
            headers = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in request.headers)
            fields = f"file = {json.dumps(str(file))}, path = {json.dumps(request.path)}, headers = {{{headers}}}"
            tables.append(f"{{{fields}}}")
        script = Path(folder) / "script.lua"
        script.write_text(_WRK_SCRIPT % {"requests": ", ".join(tables)})
        command = ["wrk", "--threads=1", f"--connections={concurrency}", f"--duration={max(1, round(seconds))}s"]
        command += ["--timeout=30s", "--latency", f"--script={script}", f"http://{first.address}{first.path}"]
        return parse_wrk(_run(command, seconds + _TIMEOUT_S), first.images)


def parse_wrk(output: str, batch_size: int) -> ToolResult:
    """Parse the output of wrk.

    Args:
        output: Its output.
        batch_size: Images per request.

    Raises:
        BenchError: The output reports failures or has no result.
    """
    rate = re.search(r"Requests/sec:\s*([\d.]+)", output)
    p50, p99 = (re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s|m)\b", output) for percent in (50, 99))
    failures = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*[1-9].*", output)
    if rate is None or p50 is None or p99 is None or failures is not None:
        raise BenchError(f"wrk: {failures[0] if failures else _tail(output)}", reason="tool_failed")
    return ToolResult(
        images_per_s=round(float(rate[1]) * batch_size, 1),
        p50_ms=float(p50[1]) * _UNITS_MS[p50[2]],
        p99_ms=float(p99[1]) * _UNITS_MS[p99[2]],
    )


def _run(command: Sequence[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} did not finish within {timeout_s:.0f} s", reason="tool_timeout") from error
    return done.stdout + done.stderr


def _tail(output: str) -> str:
    return " ".join(output.split())[-300:]
