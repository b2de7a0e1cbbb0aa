"""Metrics of tritonservers in Prometheus' text format: read, merged, and summed up.

As text, and not through a client library: Triton's counters lack the ending `_total`, which libraries add or refuse.
Source of the format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping

_PENDING = re.compile(r'^nv_inference_pending_request_count\{[^}]*\bmodel="([^"]*)"[^}]*\} ([0-9.e+]+)', re.MULTILINE)
_HEADER = re.compile(r"^# (?:HELP|TYPE) (\S+)")
_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?( .*)$")
_TIMEOUT_S = 2.0


def read_metrics(address: str) -> str:
    """Return all metrics that a server publishes, as text.

    Args:
        address: HOST:PORT of its metrics.

    Raises:
        OSError: It does not respond.
    """
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"{address} responds with something other than metrics") from error
    finally:
        connection.close()


def waiting_requests(text: str) -> dict[str, int]:
    """Return how many requests wait in the queue of each model."""
    waiting: dict[str, int] = {}
    for model, value in _PENDING.findall(text):
        waiting[model] = waiting.get(model, 0) + int(float(value))
    return waiting


def merge(texts: Mapping[str, str]) -> str:
    """Merge the metrics of several servers: each sample gets the label `server`, each metric is described once.

    Args:
        texts: Metrics by the server's name.
    """
    headers: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for server, text in texts.items():
        name = ""
        for line in text.splitlines():
            if header := _HEADER.match(line):
                name = header[1]
                known = headers.setdefault(name, [])
                if line not in known and len(known) < 2:
                    known.append(line)
            elif sample := _SAMPLE.match(line):
                labels = f'server="{server}"' + (f",{sample[2]}" if sample[2] else "")
                samples.setdefault(name, []).append(f"{sample[1]}{{{labels}}}{sample[3]}")
    return "".join(f"{line}\n" for name in headers for line in (*headers[name], *samples.get(name, [])))
