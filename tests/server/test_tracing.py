"""Traces in a real OpenTelemetry collector: the spans of each request, their order and their times."""

import importlib.util
import re
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import serve
from jpeg_client import Client
from jpeg_serve.tracing import collector_url
from support import photo, run_module

STEPS = ["preprocess", "classifier_onnx", "postprocess"]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@dataclass
class Span:
    trace: str
    parent: str
    id: str
    name: str
    start: int
    end: int

    def within(self, other):
        # The system clock may be adjusted meanwhile, by less than a millisecond.
        return other.start - 1_000_000 <= self.start <= self.end <= other.end + 1_000_000


SPAN = re.compile(
    r"Span #\d+\n\s+Trace ID\s+: (\w*)\n\s+Parent ID\s+: (\w*)\n\s+ID\s+: (\w*)\n\s+Name\s+: (\w*)\n"
    r"(?:.*\n)*?Start time: (\d+)\nEnd time: (\d+)"
)


class Collector:
    """rotel: receives OTLP and prints each span."""

    def __init__(self, folder):
        package = importlib.util.find_spec("rotel")
        assert package is not None
        assert package.origin is not None
        self.output = folder / "collector.txt"
        ports = []
        for _ in range(2):
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                ports.append(listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{ports[0]}"
        with self.output.open("wb") as sink:
            self.process = subprocess.Popen(
                [
                    Path(package.origin).parent / "rotel-agent", "start", "--exporter", "blackhole",
                    "--otlp-http-endpoint", f"127.0.0.1:{ports[0]}", "--otlp-grpc-endpoint", f"127.0.0.1:{ports[1]}",
                    "--debug-log", "traces", "--debug-log-verbosity", "detailed",
                    "--pid-file", folder / "rotel.pid", "--log-file", folder / "rotel.log",
                ],
                stdout=sink,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            try:
                socket.create_connection(("127.0.0.1", ports[0]), timeout=1).close()
            except OSError:
                assert self.process.poll() is None, self.output.read_text()
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the collector does not listen: {self.output.read_text()}")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def spans(self):
        text = self.output.read_text(errors="replace")
        return [
            Span(trace, parent, own, name, int(start), int(end))
            for trace, parent, own, name, start, end in SPAN.findall(text)
        ]

    def traces(self, number):
        """Return the spans by their traces, once there are so many complete ones."""
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            by_trace: dict[str, list[Span]] = {}
            for span in self.spans():
                by_trace.setdefault(span.trace, []).append(span)
            # The span of the request ends last, after all spans below it.
            if sum(any(span.name == "InferRequest" for span in spans) for spans in by_trace.values()) >= number:
                time.sleep(1)  # for one too many
                assert len(by_trace) == number
                return by_trace
            time.sleep(0.1)
        raise AssertionError(f"not {number} traces, but: {self.output.read_text()[-3000:]}")


@pytest.fixture
def collector(tmp_path):
    collector = Collector(tmp_path)
    yield collector
    collector.stop()


def traced(repository, tmp_path, collector, rate):
    # By default Triton gathers spans for 5 s.
    often = ["--trace-config=opentelemetry,bsp_schedule_delay=200"]
    log = tmp_path / "triton.log"
    yield from serve(repository, log, trace_to=collector_url(collector.url), trace_rate=rate, triton=often)


def classify_over_http(server, headers):
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/jpeg_classifier/infer",
        data=photo("coffee"),
        headers={"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0", **headers},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert b"espresso" in response.read()


def assert_nested(spans):
    """The request holds the ensemble, the ensemble its steps one after the other, and each step its computation."""
    (request,) = [span for span in spans if span.name == "InferRequest"]
    (ensemble,) = [span for span in spans if span.name == "jpeg_classifier"]
    assert ensemble.parent == request.id
    assert ensemble.within(request)
    steps = [next(span for span in spans if span.name == name) for name in STEPS]
    assert [step.start for step in steps] == sorted(step.start for step in steps)
    for step in steps:
        assert step.parent == ensemble.id
        assert step.within(ensemble)
        computed = [span for span in spans if span.parent == step.id]
        assert [span.name for span in computed] == ["compute"]
        assert computed[0].within(step)
    assert len(spans) == 2 + 2 * len(STEPS)
    return request


def test_every_request_is_a_trace_with_a_span_for_each_step(built_repository, tmp_path, collector):
    for server in traced(built_repository, tmp_path, collector, rate=1):
        classify_over_http(server, TRACEPARENT)
        with Client(f"grpc://{server.grpc_address}") as client:
            client.classify([photo("coffee")])
        traces = collector.traces(2)
        # The caller's trace goes on in the server.
        assert assert_nested(traces.pop(TRACE)).parent == PARENT
        (own,) = traces.values()
        assert assert_nested(own).parent == ""
        assert "service.name: Str(jpeg-classifier)" in collector.output.read_text()
        collector.stop()
        classify_over_http(server, TRACEPARENT)  # without a collector, requests succeed


def test_with_rate_0_only_requests_with_a_traceparent_are_traced(built_repository, tmp_path, collector):
    for server in traced(built_repository, tmp_path, collector, rate=0):
        for _ in range(3):
            classify_over_http(server, {})
        classify_over_http(server, TRACEPARENT)
        assert_nested(collector.traces(1)[TRACE])


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_a_collector_may_be_named_without_the_path(given, url):
    assert collector_url(given) == url


@pytest.mark.parametrize("given", ["localhost:4318", "grpc://localhost:4317", "http://", "http://a,file=/etc/x"])
def test_an_invalid_url_of_a_collector_is_refused_before_the_start(given):
    done = run_module("jpeg_serve", "--trace-to", given)
    assert done.returncode == 2
    assert "http://HOST:4318" in done.stderr
    assert done.stderr.endswith("[invalid_call]\n")
