"""The same requests from a load generator that others wrote: wrk, where it is installed. It speaks HTTP only."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jpeg_bench.asks import Ask
from jpeg_bench.errors import BenchError

# wrk calls init in each of its threads, then request for each request: here, all photos in rotation.
_SCRIPT = """\
local requests = {%(requests)s}
local turn = 0
function init(arguments)
  for _, request in ipairs(requests) do
    local file = io.open(request.file, "rb")
    request.bytes = wrk.format("POST", request.path, request.headers, file:read("*a"))
    file:close()
  end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn].bytes
end
"""
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def wrk(asks: Sequence[Ask], in_flight: int, seconds: float) -> dict[str, Any] | None:
    """Images/s, p50_ms and p99_ms of a closed loop, as wrk measures them; None if wrk is not on the PATH.

    Raises BenchError if it fails, or if what it got was not all status 200.
    """
    if shutil.which("wrk") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        requests = []
        for number, ask in enumerate(asks):
            file = Path(folder) / str(number)
            file.write_bytes(ask.body)
            # JSON's strings are Lua's, as far as paths and headers go.
            headers = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in ask.headers)
            requests.append(
                f"{{file = {json.dumps(str(file))}, path = {json.dumps(ask.path)}, headers = {{{headers}}}}}"
            )
        script = Path(folder) / "script.lua"
        script.write_text(_SCRIPT % {"requests": ", ".join(requests)})
        command = ["wrk", "--threads=1", f"--connections={in_flight}", f"--duration={max(1, round(seconds))}s"]
        command += ["--timeout=30s", "--latency", f"--script={script}", f"http://{asks[0].address}{asks[0].path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 90)
    return read_wrk(done.stdout + done.stderr, asks[0].images)


def read_wrk(text: str, images: int) -> dict[str, Any]:
    """The numbers in what wrk printed, for requests of so many images. Raises BenchError if it saw failures."""
    rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
    p50, p99 = (re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s|m)\b", text) for percent in (50, 99))
    bad = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*[1-9].*", text)
    if rate is None or p50 is None or p99 is None or bad is not None:
        raise BenchError(f"wrk: {bad[0] if bad else ' '.join(text.split())[-300:]}")
    return {
        "images_per_s": round(float(rate[1]) * images, 1),
        "p50_ms": float(p50[1]) * _UNITS_MS[p50[2]],
        "p99_ms": float(p99[1]) * _UNITS_MS[p99[2]],
    }
