"""Replacing a server under load fails no request; one that dies costs its open requests, which a client repeats."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from conftest import serve
from gateway_load import Load
from gateway_support import Gateway, infer_request, labels, ports_of, small_jpeg, stub
from jpeg_serve import TritonServer
from jpeg_serve.state import find_running
from prometheus_client.parser import text_string_to_metric_families
from serve_command import Command


@pytest.fixture
def second(built_repository: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """A server that the test kills or stops."""
    yield from serve(built_repository, tmp_path / "second.log")


@pytest.fixture
def gateway(server: TritonServer, second: TritonServer) -> Iterator[Gateway]:
    with Gateway([ports_of(server), ports_of(second)]) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def other(built_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of the module, which goes on."""
    yield from serve(built_repository, tmp_path_factory.mktemp("other") / "triton.log")


@pytest.fixture
def lasting(server: TritonServer, other: TritonServer) -> Iterator[Gateway]:
    """A gateway whose servers go on."""
    with Gateway([ports_of(server), ports_of(other)]) as gateway:
        yield gateway


def load(gateway: Gateway, protocol: str) -> Load:
    """Apply load with four clients; the expected labels are those of a request now."""
    jpeg = small_jpeg()
    return Load(gateway, protocol, 4, jpeg, labels(gateway.classify(jpeg)))


def served(gateway: Gateway, path: str, server: TritonServer, *, since: int = 0) -> list[str]:
    """Return the upstream servers of each request to a path that involved this server."""
    ports = f":{server.options.http_port}", f":{server.options.grpc_port}"
    lines = [line["server"] for line in gateway.log_lines()[since:] if line["path"].endswith(path)]
    return [upstreams for upstreams in lines if any(port in upstreams for port in ports)]


def test_killed_server_costs_its_open_requests_only(gateway: Gateway, second: TritonServer) -> None:
    with load(gateway, "http") as over_http, load(gateway, "grpc") as over_grpc:
        for each in (over_http, over_grpc):
            each.wait_for_more(50)
        assert (over_http.repeated, over_grpc.repeated) == (0, 0)
        os.kill(second.pid, signal.SIGKILL)
        for each in (over_http, over_grpc):
            each.wait_for_more(100)

    assert over_http.failures + over_grpc.failures == [], (gateway.folder / "nginx.log").read_text()
    # Each of the four clients repeats at most the request that was open; a kept connection may cost it a second one.
    assert 1 <= over_http.repeated + over_grpc.repeated <= 12
    # Only a request whose connection failed went to the other server.
    elsewhere = [line for line in gateway.log_lines() if "," in line["server"]]
    log = (gateway.folder / "nginx.log").read_text().splitlines()
    assert len(elsewhere) == len([line for line in log if "connect() failed" in line])
    # After some failures the gateway tries it rarely.
    assert len(served(gateway, "nfer", second, since=-100)) < 10


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_request_that_its_server_died_of_goes_to_no_other(
    gateway: Gateway, server: TritonServer, second: TritonServer, protocol: str
) -> None:
    """The servers are stopped while they have a request each; one is killed, and the other answers only its own."""
    path, before = {"http": "/infer", "grpc": "/ModelInfer"}[protocol], len(gateway.log_lines())
    jpeg = small_jpeg()
    try:
        for each in (server, second):
            os.kill(each.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as pool:
            open_requests = [pool.submit(outcome, gateway, protocol, jpeg) for _ in range(2)]
            # Less than the second from which on a Python worker counts as lost.
            time.sleep(0.3)
            killed = time.monotonic()
            os.kill(second.pid, signal.SIGKILL)
            (lost,) = (each.result() for each in wait(open_requests, 10, FIRST_COMPLETED).done)
            took = time.monotonic() - killed
            os.kill(server.pid, signal.SIGCONT)
            results = [each.result() for each in open_requests]
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert lost == ({"http": "502", "grpc": "UNAVAILABLE"}[protocol], "1")
    assert took < 1
    assert sorted(results) == sorted([lost, ({"http": "200", "grpc": "OK"}[protocol], "")])
    servers = [line["server"] for line in gateway.log_lines()[before:] if line["path"].endswith(path)]
    assert len(servers) == 2
    assert all("," not in each for each in servers), servers
    assert len(served(gateway, path, second, since=before)) == 1


def test_only_a_get_is_repeated(server: TritonServer) -> None:
    """In place of the first server, a socket reads each request and hangs up, as a server does that dies."""
    with socket.create_server(("127.0.0.1", 0)) as dies:
        port = dies.getsockname()[1]
        got: list[bytes] = []

        def hang_up() -> None:
            for _ in range(2):
                connection, _ = dies.accept()
                with connection:
                    got.append(connection.recv(65536))

        thread = threading.Thread(target=hang_up)
        thread.start()
        with Gateway([f"127.0.0.1:{port}:1", ports_of(server)]) as gateway:
            first, second = gateway.request("/v2"), gateway.request("/v2")
            lost, answered = gateway.classify(small_jpeg()), gateway.classify(small_jpeg())
        thread.join(10)
    assert (first.status, second.status) == (200, 200)
    assert [each.split(b" ")[0] for each in got] == [b"GET", b"POST"]
    assert sorted([lost.status, answered.status]) == [200, 502]


def outcome(gateway: Gateway, protocol: str, jpeg: bytes) -> tuple[str, str]:
    """Send a photo; return the status and Retry-After."""
    if protocol == "http":
        response = gateway.classify(jpeg)
        return str(response.status), response.headers.get("retry-after", "")
    with gateway.endpoint.channel(("grpc.enable_retries", 0)) as channel:
        try:
            stub(channel).ModelInfer(infer_request(jpeg), metadata=gateway.endpoint.metadata(), timeout=30)
        except grpc.RpcError as error:
            sent = dict([*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())])
            return error.code().name, sent.get("retry-after", "")
    return "OK", ""


def test_replacing_a_server_loses_no_request(gateway: Gateway, second: TritonServer, tmp_path: Path) -> None:
    options = second.options
    with load(gateway, "http") as over_http, load(gateway, "grpc") as over_grpc:

        def wait_for_more(number: int) -> None:
            for each in (over_http, over_grpc):
                each.wait_for_more(number)

        wait_for_more(50)
        done = gateway.command("out", "2")
        assert done.returncode == 0, done.stderr
        listed = gateway.command("servers").stdout.splitlines()
        assert [line.split()[-1] for line in listed] == ["in", "out"]
        taken_out = len(gateway.log_lines())
        second.stop()
        wait_for_more(50)
        assert served(gateway, "nfer", second, since=taken_out) == []

        ports = {"http_port": options.http_port, "grpc_port": options.grpc_port}
        with contextmanager(serve)(options.model_repository, tmp_path / "again.log", **ports) as replaced:
            assert gateway.command("in", "2").returncode == 0
            put_in = len(gateway.log_lines())
            wait_for_more(60)
            assert len(served(gateway, "nfer", replaced, since=put_in)) > 20
            lines = gateway.log_lines()
            assert gateway.command("out", "2").returncode == 0

    assert over_http.failures + over_grpc.failures == []
    # The server had no open request when it stopped.
    assert (over_http.repeated, over_grpc.repeated) == (0, 0)
    assert [line for line in lines if "," in line["server"]] == []


def test_one_of_several_servers_at_one_address_dies(built_repository: Path, tmp_path: Path) -> None:
    """`jpeg-serve --servers 2` behind one entry of GATEWAY_SERVERS, as in a pod of the chart."""
    command = Command(built_repository, tmp_path, "--servers", "2")
    try:
        found = command.wait_for(r"HTTP     http://\S+:(\d+)\n  gRPC     \S+:(\d+)\n  metrics  http://(\S+)/metrics")
        with (
            Gateway([f"127.0.0.1:{found[1]}:{found[2]}"]) as gateway,
            load(gateway, "http") as over_http,
            load(gateway, "grpc") as over_grpc,
        ):
            for each in (over_http, over_grpc):
                each.wait_for_more(40)
            answered = answers(found[3])
            victim = min(running.pid for _, running in find_running() if running.owner == command.process.pid)
            os.kill(victim, signal.SIGKILL)
            for each in (over_http, over_grpc):
                each.wait_for_more(40)
            command.wait_for(r"server \d serves again")
        assert over_http.failures + over_grpc.failures == []
        assert sorted(answered) == ["1", "2"]
        assert min(answered.values()) > 5, answered
    finally:
        command.process.terminate()
        command.process.wait(60)
        command.output.close()


def answers(metrics: str) -> dict[str, float]:
    """Return how many requests each server of a `jpeg-serve` has answered."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    return {
        sample.labels["server"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "nv_inference_request_success_total" and sample.labels["model"] == "jpeg_classifier"
    }


def test_reload_under_load_takes_new_keys(lasting: Gateway) -> None:
    """docs/gateway.md: a request that crosses GOAWAY ends with UNAVAILABLE, and the server has not run it."""
    jpeg = small_jpeg()
    key = lasting.secrets("add", lasting.keys, "late").strip()
    late = {"X-Api-Key": key}
    assert lasting.classify(jpeg, late, key=False).status == 401
    with load(lasting, "grpc") as over_grpc:
        over_grpc.wait_for_more(30)
        done = lasting.command("reload")
        assert done.returncode == 0, done.stderr
        over_grpc.wait_for_more(60)
    # At most one for each client's connection, and no other failure.
    assert len(over_grpc.failures) <= 4
    assert all("GOAWAY" in failure for failure in over_grpc.failures), over_grpc.failures
    limit = time.monotonic() + 10
    while lasting.classify(jpeg, late, key=False).status != 200:  # an old worker may still take a connection
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_server_with_a_connection_left_stays_out_and_is_named(server: TritonServer, other: TritonServer) -> None:
    with (
        Gateway([ports_of(server), ports_of(other)], {"TIMEOUT_S": 1}) as gateway,
        socket.create_connection(("127.0.0.1", other.options.http_port)),
    ):
        done = gateway.command("out", "2")
        assert done.returncode == 1
        # TIMEOUT_S, the idle time of a connection to a server, and 5 s.
        assert "still has open connections after 10 s" in done.stderr
        assert gateway.command("servers").stdout.splitlines()[1].endswith(" out")


def test_only_server_cannot_be_taken_out(server: TritonServer) -> None:
    with Gateway([ports_of(server)]) as gateway:
        done = gateway.command("out", "1")
        assert done.returncode == 1
        assert "the only one" in done.stderr


def test_only_one_server_can_be_out(lasting: Gateway) -> None:
    assert lasting.command("out", "1").returncode == 0
    refused = lasting.command("out", "2")
    assert refused.returncode == 1
    assert "one at a time" in refused.stderr
    assert lasting.command("in", "1").returncode == 0
    for invalid in ("3", "0", "x", "", "../1"):
        assert lasting.command("out", invalid).returncode == 2, invalid
