"""Metrics of tritonservers in Prometheus' text format: read, merged, and summed up.

As text, and not through a client library: Triton's counters lack the ending `_total`, which libraries add or refuse.
Source of the format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import http.client
import math
import re
from collections.abc import Mapping

_PENDING = re.compile(r'^nv_inference_pending_request_count\{[^}]*\bmodel="([^"]*)"[^}]*\} ([0-9.e+]+)', re.MULTILINE)
_HEADER = re.compile(r"^# (?:HELP|TYPE) (\S+)")
_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?( .*)$")
_PART = re.compile(r"^(jpeg_.+)_(bucket|sum|count)$")
_LE = re.compile(r',?\ble="([^"]*)"')
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


def with_histograms(text: str) -> str:
    """Publish the counters of `jpeg_runtime.metrics.Histogram` as histograms, each with its buckets in order.

    Args:
        text: Metrics of one server.
    """
    rest: list[str] = []
    headers: dict[str, list[str]] = {}
    samples: dict[str, list[tuple[str, float, str]]] = {}
    name = ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        name = header[1] if header else name
        part = _PART.match(name)
        if part is None:
            rest.append(line)
            continue
        histogram = part[1]
        if header is None:
            sample = _SAMPLE.match(line)
            labels = (sample[2] or "") if sample else ""
            le = _LE.search(labels)
            bound = float(le[1]) if le else math.inf
            # After the last bucket, sum and count: `_bucket` sorts before them.
            samples.setdefault(histogram, []).append((_LE.sub("", labels).strip(","), bound, line))
        elif part[2] == "bucket":
            kind, what = ("TYPE", "histogram") if line.startswith("# TYPE") else ("HELP", line.split(" ", 3)[3])
            headers.setdefault(histogram, []).append(f"# {kind} {histogram} {what}")
    for histogram, lines in headers.items():
        rest += lines
        rest += [line for _, _, line in sorted(samples.get(histogram, []))]
    return "".join(f"{line}\n" for line in rest)


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
