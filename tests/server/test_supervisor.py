"""Several servers on the same ports: watched, reloaded, restarted, and measured together."""

import os
import re
import signal
import threading
import time
import urllib.request

import psutil
from jpeg_client import Client
from jpeg_serve import socket_buffers, state
from prometheus_client.parser import text_string_to_metric_families
from serve_command import Command, gone
from support import copy_classifier, edit, photo, run_module

COFFEE = photo("coffee")


def addresses(server):
    """The addresses that it prints: HTTP, gRPC, metrics."""
    found = server.wait_for(r"HTTP     http://(\S+)\n  gRPC     (\S+)\n  metrics  http://(\S+)/metrics")
    return found[1], found[2], found[3]


def servers_of(owner):
    return sorted(
        (running for _, running in state.find_running() if running.owner == owner), key=lambda each: each.server_id
    )


def samples(address, name):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    return [
        sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name
    ]


class Traffic:
    """Clients that classify until they are stopped; every answer must be right."""

    def __init__(self, url, clients=4):
        self._url, self._stop = url, threading.Event()
        self.answers, self.errors = 0, []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        with Client(self._url, timeout_s=60) as client:
            while not self._stop.is_set():
                try:
                    assert client.classify([COFFEE], k=1)[0].labels == ("espresso",)
                    self.answers += 1
                except Exception as error:
                    self.errors.append(error)


def test_two_servers_share_the_ports_and_both_answer(command):
    server = command("--servers", "2")
    http, grpc, metrics = addresses(server)
    first, second = servers_of(server.process.pid)
    assert (first.http_address, first.grpc_address) == (http, grpc) == (second.http_address, second.grpc_address)
    assert first.server_id != second.server_id
    for _ in range(32):  # each a connection of its own
        with Client(f"http://{http}") as client:
            assert client.classify([COFFEE], k=1)[0].labels == ("espresso",)
    counts = {
        sample.labels["server"]: sample.value
        for sample in samples(metrics, "nv_inference_request_success_total")
        if sample.labels["model"] == "jpeg_classifier"
    }
    assert set(counts) == {"1", "2"}
    assert all(count > 3 for count in counts.values()), counts  # the probe at the start sends some
    assert {sample.labels["server"]: sample.value for sample in samples(metrics, "jpeg_server_up")} == {"1": 1, "2": 1}
    family = server.family()
    server.process.terminate()
    assert server.process.wait(60) == 0
    assert gone(family) == []
    assert server.segments() == []


def test_a_reload_goes_to_all_servers(command, repository):
    copy_classifier(repository, "classifier_other")
    server = command("--servers", "2", repository=repository)
    _, grpc, _ = addresses(server)
    edit(repository / "jpeg_classifier" / "config.pbtxt", '"classifier_onnx"', '"classifier_other"')
    with Traffic(f"grpc://{grpc}") as traffic:
        done = run_module("jpeg_serve", "reload", "--model-repository", repository)
    assert done.returncode == 0, done.stderr
    assert "server 2 of 2" in done.stderr
    assert traffic.errors == []
    assert len(re.findall("successfully unloaded 'classifier_onnx'", server.text())) == 2


def test_a_restart_replaces_one_server_after_the_other_and_costs_no_answer(command, built_repository):
    server = command("--servers", "2")
    http, _, _ = addresses(server)
    before = [running.pid for running in servers_of(server.process.pid)]
    with Traffic(f"http://{http}") as traffic:
        done = run_module("jpeg_serve", "restart", "--http-port", http.rpartition(":")[2])
        assert done.returncode == 0, done.stderr
        server.wait_for("server 2 is drained and replaced")
        limit = time.monotonic() + 60
        while {running.pid for running in servers_of(server.process.pid)} & set(before):
            assert time.monotonic() < limit
            time.sleep(0.2)
    assert traffic.errors == []
    assert traffic.answers > 10


def test_a_dead_worker_is_noticed_and_counted(command):
    server = command()
    http, _, metrics = addresses(server)
    worker = next(
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if any("preprocess" in part for part in process.cmdline())
    )
    begun = time.monotonic()
    worker.send_signal(signal.SIGKILL)
    server.wait_for("server 1 serves again")
    assert time.monotonic() - begun < 20
    with Client(f"http://{http}") as client:
        assert client.classify([COFFEE], k=1)[0].labels == ("espresso",)
    (counted,) = samples(metrics, "jpeg_server_replaced_total")
    assert (counted.labels, counted.value) == ({"server": "1", "reason": "worker_died"}, 1)


def test_it_serves_without_tritons_metrics(command):
    server = command("--", "--allow-metrics=false")
    http, _, metrics = addresses(server)
    with Client(f"http://{http}") as client:
        assert client.classify([COFFEE], k=1)[0].labels == ("espresso",)
    assert samples(metrics, "jpeg_server_up")[0].value == 1


def test_it_listens_on_an_ipv6_address(command):
    server = command("--address", "::1")
    http, grpc, metrics = addresses(server)
    assert http.startswith("[::1]:")
    for url in (f"http://{http}", f"grpc://{grpc}"):
        with Client(url) as client:
            assert client.classify([COFFEE], k=1)[0].labels == ("espresso",)
    assert samples(metrics, "jpeg_server_up")[0].value == 1


def test_a_triton_that_one_request_can_end_does_not_listen_beyond_this_machine(command, tmp_path, built_repository):
    refused = command("--address", "0.0.0.0")
    assert refused.process.wait(30) == 1
    assert refused.text().endswith("[known_killers]\n")
    told = Command(built_repository, tmp_path, "--address", "0.0.0.0", "--behind-gateway")
    try:
        told.wait_for("jpeg-serve: ready")
    finally:
        told.process.terminate()
        told.process.wait(60)
        told.output.close()


def test_everything_killed_at_once_leaves_nothing_after_the_next_start(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = command()
    server.wait_for("jpeg-serve: ready")
    family = server.family()
    assert server.segments()
    for process in family:
        process.kill()
    server.process.wait()
    gone(family)
    assert server.segments()
    assert state.find_running() == []
    assert server.segments() == []
    assert list((tmp_path / "cache" / "jpeg-serve" / "servers").iterdir()) == []


def test_the_buffers_that_lose_responses_are_enlarged(server):
    """With root's rights beyond the system's bound, otherwise up to it."""
    least = 8000 if os.geteuid() == 0 else 277
    assert server.most_http_responses >= least
    assert socket_buffers.enlarge(server.pid) == server.most_http_responses
