"""Replacing or losing a server under load fails no request."""

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
    """Apply load with four clients; the expected labels are those of a request now."""
    jpeg = small_jpeg()
    return Load(gateway, protocol, 4, jpeg, labels(gateway.classify(jpeg)))


def served(gateway: Gateway, path: str, server: TritonServer, *, since: int = 0) -> list[str]:
    """Return the upstream servers of each request to a path that involved this server."""
    ports = f":{server.options.http_port}", f":{server.options.grpc_port}"
    lines = [line["server"] for line in gateway.log_lines()[since:] if line["path"].endswith(path)]
    return [upstreams for upstreams in lines if any(port in upstreams for port in ports)]


def test_killed_server_loses_no_request(gateway: Gateway, second: TritonServer) -> None:
    with load(gateway, "http") as over_http, load(gateway, "grpc") as over_grpc:
        for each in (over_http, over_grpc):
            each.wait_for_more(50)
        os.kill(second.pid, signal.SIGKILL)
        for each in (over_http, over_grpc):
            each.wait_for_more(150)

    assert over_http.failures + over_grpc.failures == [], (gateway.folder / "nginx.log").read_text()
    for path in ("/infer", "/ModelInfer"):
        # The gateway repeated its open requests on the other server.
        assert any("," in upstreams for upstreams in served(gateway, path, second)), path
    # After some failures the gateway tries it rarely.
    assert len(served(gateway, "nfer", second, since=-100)) < 10


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
            wait_for_more(150)
            assert len(served(gateway, "nfer", replaced, since=put_in)) > 50
            lines = gateway.log_lines()
            assert gateway.command("out", "2").returncode == 0

    assert over_http.failures + over_grpc.failures == []
    # The gateway repeated none: the server had no open request when it stopped.
    assert [line for line in lines if "," in line["server"]] == []


def test_reload_under_load_takes_new_keys(gateway: Gateway) -> None:
    """docs/gateway.md: a request that crosses GOAWAY ends with UNAVAILABLE, and the server has not run it."""
    jpeg = small_jpeg()
    key = gateway.secrets("add", gateway.keys, "late").strip()
    late = {"X-Api-Key": key}
    assert gateway.classify(jpeg, late, key=False).status == 401
    with load(gateway, "grpc") as over_grpc:
        over_grpc.wait_for_more(30)
        done = gateway.command("reload")
        assert done.returncode == 0, done.stderr
        over_grpc.wait_for_more(150)
    # At most one for each client's connection, and no other failure.
    assert len(over_grpc.failures) <= 4
    assert all("GOAWAY" in failure for failure in over_grpc.failures), over_grpc.failures
    limit = time.monotonic() + 10
    while gateway.classify(jpeg, late, key=False).status != 200:  # an old worker may still take a connection
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_only_server_cannot_be_taken_out(server: TritonServer) -> None:
    with Gateway([ports_of(server)]) as gateway:
        done = gateway.command("out", "1")
        assert done.returncode == 1
        assert "the only one" in done.stderr


def test_only_one_server_can_be_out(gateway: Gateway) -> None:
    assert gateway.command("out", "1").returncode == 0
    refused = gateway.command("out", "2")
    assert refused.returncode == 1
    assert "one at a time" in refused.stderr
    assert gateway.command("in", "1").returncode == 0
    for invalid in ("3", "0", "x", "", "../1"):
        assert gateway.command("out", invalid).returncode == 2, invalid
