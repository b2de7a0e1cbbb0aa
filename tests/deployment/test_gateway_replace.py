"""A server ends while requests run, and no client notices."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import serve
from gateway_load import Load
from gateway_support import Gateway, labels, ports_of, small_jpeg
from jpeg_serve import TritonServer


@pytest.fixture
def second(built_repository: Path, tmp_path: Path) -> Iterator[TritonServer]:
    yield from serve(built_repository, tmp_path / "second.log")


@pytest.fixture
def gateway(server: TritonServer, second: TritonServer) -> Iterator[Gateway]:
    with Gateway([ports_of(server), ports_of(second)]) as gateway:
        yield gateway


def load(gateway: Gateway, protocol: str) -> Load:
    """Four clients of the gateway, asking for a photo that it labels rightly now."""
    jpeg = small_jpeg()
    return Load(gateway, protocol, 4, jpeg, labels(gateway.classify(jpeg)))


def served(gateway: Gateway, path: str, server: TritonServer, *, since: int = 0) -> list[str]:
    """Which servers were asked for each request to a path that this server had a part in."""
    ports = f":{server.options.http_port}", f":{server.options.grpc_port}"
    lines = [line["server"] for line in gateway.log_lines()[since:] if line["path"].endswith(path)]
    return [asked for asked in lines if any(port in asked for port in ports)]


def test_a_killed_server_costs_no_request(gateway: Gateway, second: TritonServer) -> None:
    with load(gateway, "http") as over_http, load(gateway, "grpc") as over_grpc:
        for each in (over_http, over_grpc):
            each.wait_for_more(50)
        os.kill(second.pid, signal.SIGKILL)
        for each in (over_http, over_grpc):
            each.wait_for_more(150)

    assert over_http.failures + over_grpc.failures == [], (gateway.folder / "nginx.log").read_text()
    for path in ("/infer", "/ModelInfer"):
        # It was asked, and what it had not answered went to the other one.
        assert any("," in asked for asked in served(gateway, path, second)), path
    # After some failures it is asked once in a while only.
    assert len(served(gateway, "nfer", second, since=-100)) < 10


def test_a_server_is_replaced_without_losing_a_request(gateway: Gateway, second: TritonServer, tmp_path: Path) -> None:
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
            wait_for_more(150)
            assert len(served(gateway, "nfer", replaced, since=put_in)) > 50
            lines = gateway.log_lines()
            assert gateway.command("out", "2").returncode == 0

    assert over_http.failures + over_grpc.failures == []
    # None was saved by being sent twice: the server had nothing open when it was stopped.
    assert [line for line in lines if "," in line["server"]] == []


def test_a_reload_under_load_takes_new_keys(gateway: Gateway) -> None:
    """A request that crosses the end of its connection is told so, and was not answered: docs/gateway.md says it."""
    jpeg = small_jpeg()
    key = gateway.secrets("add", gateway.keys, "late").strip()
    late = {"X-Api-Key": key}
    assert gateway.classify(jpeg, late, key=False).status == 401
    with load(gateway, "grpc") as over_grpc:
        over_grpc.wait_for_more(30)
        done = gateway.command("reload")
        assert done.returncode == 0, done.stderr
        over_grpc.wait_for_more(150)
    # One for each client's connection at the most, and no other failure.
    assert len(over_grpc.failures) <= 4
    assert all("GOAWAY" in failure for failure in over_grpc.failures), over_grpc.failures
    limit = time.monotonic() + 10
    while gateway.classify(jpeg, late, key=False).status != 200:  # an old worker may still take a connection
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_the_only_server_cannot_be_taken_out(server: TritonServer) -> None:
    with Gateway([ports_of(server)]) as gateway:
        done = gateway.command("out", "1")
        assert done.returncode == 1
        assert "the only one" in done.stderr


def test_one_server_at_a_time(gateway: Gateway) -> None:
    assert gateway.command("out", "1").returncode == 0
    refused = gateway.command("out", "2")
    assert refused.returncode == 1
    assert "one at a time" in refused.stderr
    assert gateway.command("in", "1").returncode == 0
    for nonsense in ("3", "0", "x", "", "../1"):
        assert gateway.command("out", nonsense).returncode == 2, nonsense
