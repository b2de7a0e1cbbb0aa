"""The queries of the autoscalers, evaluated by a real Prometheus that scrapes a real server under load."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import helm_python
import pytest
import yaml
from debian_tools import tool
from jpeg_client import Client
from jpeg_serve import TritonServer
from prometheus_client.parser import text_string_to_metric_families
from support import ROOT, photo

CHART = ROOT / "deploy/kubernetes/chart"
KSERVE = ROOT / "deploy/kubernetes/kserve"
NAMESPACE, DEPLOYMENT = "vision", "demo-triton-jpeg-classifier"
POD = f"{DEPLOYMENT}-7d9f8b6c5d-x2x4z"
THREADS = 4
WINDOW = "6s"  # instead of one minute in the rules


def adapter_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text())[
        "rules"
    ]["custom"]
    return rules


def adapter_query(rule: dict[str, Any], pod: str = POD) -> str:
    """Expand the query as prometheus-adapter does for the pods of one autoscaler (its docs/config.md)."""
    series = re.match(r"\w+", rule["seriesQuery"])
    assert series is not None
    query = rule["metricsQuery"]
    for field, value in (
        ("Series", series[0]),
        ("LabelMatchers", f'namespace="{NAMESPACE}",pod=~"{pod}"'),
        ("GroupBy", "pod"),
    ):
        query = query.replace(f"<<.{field}>>", value)
    assert "<<" not in query
    return str(query)


def rendered(kind: str, by: str) -> dict[str, Any]:
    targets = {"inFlightRequests": 3, "queueMilliseconds": 50, "imagesPerSecond": 80}
    scaling = {"enabled": True, "by": by, "prometheusAddress": "http://prometheus:9090", **targets}
    with helm_python.Chart.load(CHART) as chart:
        manifests = chart.render({"server": {"autoscaling": scaling}}, name="demo", namespace=NAMESPACE)
    (document,) = [
        document
        for name, text in manifests.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document and document["kind"] == kind
    ]
    return dict(document)


def keda_queries() -> dict[str, str]:
    return {t["name"]: t["metadata"]["query"] for t in rendered("ScaledObject", "keda")["spec"]["triggers"]}


def kserve_query() -> str:
    service = yaml.safe_load((KSERVE / "inferenceservice.yaml").read_text())
    (metric,) = service["spec"]["predictor"]["autoScaling"]["metrics"]
    return str(metric["external"]["metric"]["query"])


def all_queries() -> list[str]:
    return [*map(adapter_query, adapter_rules()), *keda_queries().values(), kserve_query()]


def test_the_autoscaler_uses_the_metrics_of_the_adapter() -> None:
    used = [
        metric["pods"]["metric"]["name"] for metric in rendered("HorizontalPodAutoscaler", "hpa")["spec"]["metrics"]
    ]
    provided = [rule["name"]["as"] for rule in adapter_rules()]
    assert sorted(used) == sorted(provided)
    for rule in adapter_rules():
        assert {v["resource"] for v in rule["resources"]["overrides"].values()} == {"namespace", "pod"}


def test_every_metric_is_exported(server: TritonServer) -> None:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics") as response:
        families = text_string_to_metric_families(response.read().decode())
        samples = [sample for family in families for sample in family.samples]
    exported = {sample.name for sample in samples}
    # Triton's counters lack the suffix _total, which the parser adds.
    exported |= {name.removesuffix("_total") for name in exported}
    named = {name for query in all_queries() for name in re.findall(r"\bnv_\w+", query)}
    assert named == {
        "nv_inference_count",
        "nv_inference_queue_duration_us",
        "nv_inference_request_duration_us",
        "nv_inference_request_success",
    }
    assert named <= exported
    models = {
        sample.labels["model"] for sample in samples if sample.name.startswith("nv_inference_request_duration_us")
    }
    assert {model for query in all_queries() for model in re.findall(r'model!?="([^"]+)"', query)} <= models


class Prometheus:
    """A running Prometheus."""

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, query: str, *, window: str = WINDOW, at: float | None = None) -> list[float]:
        """Return the values of a query, now or at a time in seconds since 1970."""
        text = urllib.parse.urlencode({"query": query.replace("[1m]", f"[{window}]"), "time": at or time.time()})
        with urllib.request.urlopen(f"http://{self.address}/api/v1/query?{text}", timeout=10) as response:
            found = json.load(response)
        assert found["status"] == "success"
        return [float(result["value"][1]) for result in found["data"]["result"]]


@contextlib.contextmanager
def prometheus(server: TritonServer, pods: list[str], folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the server twice a second as each of these pods."""
    from jpeg_serve.ports import free_port

    program = tool("prometheus", "prometheus")
    config = {
        "global": {"scrape_interval": "500ms"},
        "scrape_configs": [
            {
                "job_name": pod,
                "static_configs": [
                    {"targets": [server.metrics_address], "labels": {"namespace": NAMESPACE, "pod": pod}}
                ],
            }
            for pod in pods
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    options = ["--config.file=prometheus.yaml", f"--web.listen-address={address}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=log)
        try:
            limit = time.monotonic() + 30
            while True:
                try:
                    urllib.request.urlopen(f"http://{address}/-/ready", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "prometheus.log").read_text()
                    assert time.monotonic() < limit, "Prometheus did not become ready"
                    time.sleep(0.2)
            yield Prometheus(address)
        finally:
            process.terminate()
            process.wait(20)


class Watched(NamedTuple):
    """A Prometheus that scraped an idle server, and then the same server with THREADS concurrent requests."""

    prometheus: Prometheus
    images_per_second: float
    idle_at: float  # seconds since 1970


@pytest.fixture(scope="module")
def watched(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Yield during the load, after some seconds of it."""
    pods = [POD, "other-triton-jpeg-classifier-1-1", "jpeg-classifier-predictor-1-1"]
    counts = [0] * THREADS
    running = True

    def load(index: int) -> None:
        with Client(f"grpc://{server.grpc_address}", timeout_s=30) as client:
            while running:
                client.classify([photo("chelsea")])
                counts[index] += 1

    with prometheus(server, pods, tmp_path_factory.mktemp("prometheus")) as prom:
        limit = time.monotonic() + 60
        while not all(prom.query(query, window="3s") for query in all_queries()):
            assert time.monotonic() < limit, "Prometheus has no samples to compute a rate from"
            time.sleep(0.5)
        idle_at = time.time()
        threads = [threading.Thread(target=load, args=(index,)) for index in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(3)
            before, begun = sum(counts), time.monotonic()
            time.sleep(7)
            rate = (sum(counts) - before) / (time.monotonic() - begun)
            yield Watched(prom, rate, idle_at)
        finally:
            running = False
            for thread in threads:
                thread.join()


def test_adapter_rules_measure_the_load(watched: Watched) -> None:
    prom, rate, _ = watched
    in_flight, waiting, images = (prom.query(adapter_query(rule)) for rule in adapter_rules())
    # Each client has one open request, with a short pause between two.
    assert in_flight == [pytest.approx(THREADS, rel=0.3)]
    assert images == [pytest.approx(rate, rel=0.3)]
    # Little's law bounds the wait: no request waits longer than all concurrent requests take.
    assert len(waiting) == 1
    assert 0 < waiting[0] < 1000 * THREADS / rate


def test_keda_queries_measure_the_load_of_their_pods_only(watched: Watched) -> None:
    prom, rate, _ = watched
    values = {name: prom.query(query) for name, query in keda_queries().items()}
    assert values["in-flight-requests"] == [pytest.approx(THREADS, rel=0.3)]
    assert values["images-per-second"] == [pytest.approx(rate, rel=0.3)]
    assert len(values["queue-milliseconds"]) == 1
    assert 0 < values["queue-milliseconds"][0] < 1000 * THREADS / rate


def test_kserve_query_measures_the_load(watched: Watched) -> None:
    assert watched.prometheus.query(kserve_query()) == [pytest.approx(THREADS, rel=0.3)]


def test_discovery_query_of_each_rule_finds_its_series(watched: Watched) -> None:
    for rule in adapter_rules():
        assert watched.prometheus.query(f"count({rule['seriesQuery']})") == [3]


def test_idle_server_yields_zero(watched: Watched) -> None:
    """Without a value, or with NaN, the autoscaler does not scale."""
    for query in all_queries():
        assert watched.prometheus.query(query, window="3s", at=watched.idle_at) == [0], query
