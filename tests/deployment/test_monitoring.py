"""Prometheus, its rules and alerts, and Grafana's dashboard, with a real server."""

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from conftest import serve
from debian_tools import tool
from jpeg_client import Client
from jpeg_runtime.metrics import POSTPROCESS_SERIES, PREPROCESS_SERIES
from prometheus_client.parser import text_string_to_metric_families
from scrape import exported
from support import ROOT, photo, run

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "jpeg-classifier.json"
DOCS = (ROOT / "docs" / "monitoring.md").read_text()

# Only a machine with a GPU exports these. Source: Triton's user_guide/metrics.md, "GPU Metrics".
GPU_METRICS = {
    "nv_energy_consumption",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_limit",
    "nv_gpu_power_usage",
    "nv_gpu_utilization",
}


def rules(file):
    return [rule for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"] for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("rules.yaml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yaml")}
PANELS = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
SHOWN = [(f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]]
EXPRESSIONS = {**RECORDED, **{name: rule["expr"] for name, rule in ALERTS.items()}, **dict(SHOWN)}


def metrics_of(expression):
    """Return the metrics that an expression uses: ours, Triton's, and recorded rules."""
    without_texts = re.sub(r'"[^"]*"', "", expression)
    names = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", without_texts)
    return {name for name in names if ":" in name or name.startswith(("nv_", "jpeg_"))}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Prometheus:
    """A running Prometheus and its API."""

    def __init__(self, config, storage, log):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [
                tool("prometheus", "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={storage}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
            body = json.load(response)
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression):
        """Return the current values of an expression, without NaN."""
        found = self.get("query", query=expression)["result"]
        return [value for value in (float(each["value"][1]) for each in found) if not math.isnan(value)]

    def wait_for(self, condition, timeout_s=40):
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            assert self.process.poll() is None, "Prometheus ended"
            try:
                if condition():
                    return
            except OSError:
                pass  # Prometheus does not listen yet
            time.sleep(0.2)
        raise AssertionError("Prometheus did not meet the condition in time")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def load(server, seconds):
    """Send valid and invalid images, requests of one and of several images, and requests that are refused."""
    images = [photo("chelsea"), photo("coffee"), b"no", photo("china")[:90_000]]

    def go(number):
        with Client(f"grpc://{server.grpc_address}") as client:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                client.classify(images if number else images[:1], k=1)
                client.classify([b"no"])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(go, range(3)))


@pytest.fixture(scope="module")
def server(built_repository, tmp_path_factory):
    """A server whose counters belong to these tests alone."""
    log = tmp_path_factory.mktemp("monitored") / "triton.log"
    yield from serve(built_repository, log)


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    """Prometheus with the committed configuration, other targets, and a scrape per second, after some load."""
    tool("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(PROMETHEUS, folder / "config")
    config = folder / "config" / "prometheus.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config.write_text(yaml.safe_dump(settings))
    (folder / "config" / "targets" / "compose.yaml").write_text(f'- targets: ["{server.metrics_address}"]\n')
    with (folder / "log").open("wb") as log:
        prometheus = Prometheus(config, folder / "data", log)
        try:
            prometheus.wait_for(lambda: prometheus.query('up{job="triton"}') == [1])
            load(server, 5)
            # Two scrapes and one evaluation after the start of the load.
            prometheus.wait_for(lambda: prometheus.query("instance:jpeg_images_answered:rate5m > 0"))
            yield prometheus
        finally:
            prometheus.stop()


def test_prometheus_accepts_the_configuration_and_the_rules():
    promtool = tool("promtool", "prometheus")
    for arguments in (
        ("check", "config", PROMETHEUS / "prometheus.yaml"),
        ("check", "rules", PROMETHEUS / "rules.yaml", PROMETHEUS / "alerts.yaml"),
        ("test", "rules", PROMETHEUS / "alerts.test.yaml"),
    ):
        done = run(promtool, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_remedy():
    tested = (PROMETHEUS / "alerts.test.yaml").read_text()
    for name, rule in ALERTS.items():
        assert f'alertname="{name}"' in tested
        assert set(rule["annotations"]) == {"summary", "description", "remedy"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert f"`{name}`" in DOCS


def test_every_metric_of_ours_is_documented_and_on_the_dashboard():
    shown = set().union(*(metrics_of(expression) for _, expression in SHOWN))
    for series in {*PREPROCESS_SERIES, *POSTPROCESS_SERIES}:
        assert f"`{series.name}`" in DOCS
        assert any(name.startswith(series.name) for name in shown), series.name


def test_every_metric_of_panels_and_rules_is_exported(server):
    load(server, 1)
    found = exported(server)
    for title, expression in EXPRESSIONS.items():
        for name in metrics_of(expression) - GPU_METRICS:
            assert (name in RECORDED) if ":" in name else (name in found), f"{title}: {name}"


def test_gpu_metrics_are_those_of_a_server_with_a_gpu():
    """The file is an export of Triton 2.51.0 on an H100."""
    recorded = list(text_string_to_metric_families((ROOT / "tests/deployment/h100_metrics.txt").read_text()))
    samples = [sample for family in recorded for sample in family.samples]
    assert {sample.name.removesuffix("_total") for sample in samples} == GPU_METRICS
    named = set().union(*map(metrics_of, EXPRESSIONS.values()))
    assert {name for name in named if name.startswith(("nv_gpu", "nv_energy"))} == GPU_METRICS
    labels = {label for sample in samples for label in sample.labels}
    assert labels == {"gpu_uuid"}
    used = re.findall(r"{{ ?\$?(?:labels\.)?(gpu_\w+) ?}}", DASHBOARD.read_text() + str(ALERTS))
    assert set(used) == labels


@pytest.mark.parametrize(("title", "expression"), SHOWN, ids=[title for title, _ in SHOWN])
def test_every_panel_has_data(prometheus, title, expression):
    query = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
    assert "$" not in query
    values = prometheus.query(query)
    if metrics_of(expression) & GPU_METRICS:
        assert values == []
    else:
        assert values


def test_every_rule_is_evaluated_without_an_error(prometheus):
    evaluated = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in evaluated} == {*RECORDED, *ALERTS}
    assert [(rule["name"], rule.get("lastError")) for rule in evaluated if rule["health"] != "ok"] == []
    for name in RECORDED:
        assert prometheus.query(name), name


def test_recorded_rates_are_consistent(prometheus):
    (undecodable,) = prometheus.query("instance:jpeg_images_undecodable:ratio_rate5m")
    assert 0.3 < undecodable < 0.95
    # Only invalid images and refused requests fail here, so no request counts as lost, once a scrape follows the
    # models' last update, which comes some tenths of a second after Triton's.
    (refused,) = prometheus.query("sum(rate(jpeg_requests_refused_total[5m]))")
    assert refused > 0
    prometheus.wait_for(lambda: prometheus.query("instance:jpeg_requests_lost:rate5m")[0] <= 0.001 * refused)


# Last: it stops the server.
def test_stopped_server_raises_an_alert(prometheus, server):
    def state(alert):
        return [each["state"] for each in prometheus.get("alerts")["alerts"] if each["labels"]["alertname"] == alert]

    assert state("JpegServerDown") == []
    assert state("JpegClassifierNotLoaded") == []
    server.stop()
    prometheus.wait_for(lambda: state("JpegServerDown") == ["pending"])


def test_grafana_files_refer_to_each_other():
    """Without Grafana itself."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/jpeg.yaml").read_text())["providers"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert provider["type"] == "file"
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in PANELS:
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
