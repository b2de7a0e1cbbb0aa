"""A running server's metrics, read by Prometheus's own parser."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from jpeg_serve import TritonServer
from jpeg_serve.triton_metrics import with_histograms
from prometheus_client.parser import text_string_to_metric_families

# From the recording of a metric to its place in a scrape: the models gather for 0.2 s, and the rest is a busy machine.
SHOWN_WITHIN_S = 10.0
QUIET_S = 0.5


def _scrape(server: TritonServer) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        # As jpeg-serve publishes them.
        return with_histograms(answer.read().decode())


def families(server: TritonServer) -> list[Any]:
    """The metric families of a scrape. The parser makes every counter's name end in `_total`."""
    return list(text_string_to_metric_families(_scrape(server)))


def exported(server: TritonServer) -> set[str]:
    """The names of all series that the server exports, as they stand there."""
    return set(re.findall(r"^(\w+)[{ ]", _scrape(server), re.MULTILINE))


def sums(server: TritonServer, *labels: str) -> dict[str, float]:
    """Each series added up over all labels but these, as `name{value of label 1,value of label 2}`."""
    total: dict[str, float] = {}
    for family in families(server):
        for sample in family.samples:
            values = [sample.labels[label] for label in labels if label in sample.labels]
            key = f"{sample.name}{{{','.join(values)}}}"
            total[key] = total.get(key, 0.0) + sample.value
    return total


def grown(server: TritonServer, before: Mapping[str, float], wanted: Mapping[str, float], *labels: str) -> None:
    """Assert that series have grown by exactly so much since `before`: that they come to it, and stay there."""

    def growth() -> dict[str, float]:
        now = sums(server, *labels)
        # A series that does not exist is no zero.
        return {name: now[name] - before.get(name, 0.0) for name in wanted}

    limit = time.monotonic() + SHOWN_WITHIN_S
    while growth() != wanted and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(QUIET_S)
    assert growth() == wanted
