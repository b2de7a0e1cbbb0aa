"""The load generator over gRPC, on a grpcio server whose behaviour each test chooses."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from jpeg_bench.errors import BenchError
from jpeg_bench.grpc_sender import send_once
from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.load_generator import run_load, sample_load
from jpeg_bench.recorder import MAX_CONSECUTIVE_FAILURES

PATH = "/test.Service/Classify"
SHORT: Any = {"warmup_s": 0.1, "seconds": 0.4}
STALL_S = 0.4


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The text after the last ':' of a request selects the behaviour."""

    def __init__(self):
        self.bodies: Counter[bytes] = Counter()
        self.numbers = itertools.count()
        self.outstanding = self.max_outstanding = 0
        self.lock = threading.Lock()
        self.address = ""
        self.end = lambda: None

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.respond) if details.method == PATH else None

    def respond(self, request, context):
        with self.lock:
            self.bodies[request] += 1
            number = next(self.numbers)
            self.outstanding += 1
            self.max_outstanding = max(self.max_outstanding, self.outstanding)
        try:
            return self.behave(request.rpartition(b":")[2], number, context)
        finally:
            with self.lock:
                self.outstanding -= 1

    def behave(self, behaviour, number, context):
        if behaviour == b"refuse" or (behaviour == b"refuse some" and number % 4 == 0):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "größer als 100 %\nof it")
        if behaviour == b"stall" and number == 10:
            time.sleep(STALL_S)
        if behaviour == b"hang":
            time.sleep(1.5)
        if behaviour == b"slow":
            time.sleep(0.02)
        return b"x" * 3_000_000 if behaviour == b"large" else b"result"


@contextmanager
def serving(threads=8, **options):
    handler = Server()
    settings = {"grpc.max_receive_message_length": -1, **{f"grpc.{name}": value for name, value in options.items()}}
    server = grpc.server(ThreadPoolExecutor(threads), handlers=[handler], options=list(settings.items()))
    handler.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    handler.end = lambda: server.stop(0).wait()
    server.start()
    try:
        yield handler
    finally:
        handler.end()


def prepare(server, *bodies, images=1, path=PATH):
    return [PreparedRequest("grpc", server.address, path, (), body, images) for body in bodies or (b"body:",)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        # The smallest flow control windows, which the server does not widen.
        {"http2_bdp_probe": 0, "http2_lookahead_bytes": 1024},
        {"http2_max_frame_size": 1 << 20},
    ],
    ids=["default", "small windows", "large frames"],
)
def test_every_response_counts_with_large_requests(options):
    body = bytes(range(256)) * 12_000 + b":"
    with serving(**options) as server:
        samples = sample_load(prepare(server, body, images=3), Load(concurrency=4, channels=2, **SHORT))
    result = samples.result()
    assert result.failure_messages == ()
    assert result.failures == 0
    assert result.requests > 0
    assert result.images == 3 * result.requests
    assert result.requests <= sum(server.bodies.values())
    assert set(server.bodies) == {body}
    assert server.max_outstanding <= 4
    assert samples.responses == {0: [b"result"]}
    assert 0 < result.p50_ms <= result.p99_ms <= result.max_ms
    assert result.client_cpu_cores > 0


def test_large_responses_are_complete():
    with serving() as server:
        samples = sample_load(prepare(server, b":large"), Load(concurrency=4, warmup_s=0, seconds=1))
    assert samples.failures == 0
    # More than the flow control window of the connection.
    assert len(samples.completed) * 3_000_000 > 40 << 20
    assert samples.responses == {0: [b"x" * 3_000_000]}


def test_all_processes_send_the_requests_in_rotation():
    with serving() as server:
        bodies = [b"one:", b"two:", b"three:", b"four:"]
        result = run_load(prepare(server, *bodies), Load(concurrency=3, client_processes=2, **SHORT))
    assert result.client_processes == 2
    assert set(server.bodies) == {*bodies}
    assert max(server.bodies.values()) - min(server.bodies.values()) <= 3


def test_error_responses_are_failures_with_their_message():
    with serving() as server:
        some = run_load(prepare(server, b":refuse some"), Load(concurrency=2, **SHORT))
        assert some.failures > 0
        assert some.requests > some.failures
        assert some.failure_messages == ("INVALID_ARGUMENT: größer als 100 %\nof it",)
    with serving() as server:
        # It aborts long before the 20 s are over.
        none = run_load(prepare(server, b":refuse"), Load(concurrency=2, warmup_s=0, seconds=20))
        assert sum(server.bodies.values()) < 1000
        assert none.requests == 0
        assert none.failures >= MAX_CONSECUTIVE_FAILURES
        requests = prepare(server, b"x" * 5_000_000, path="/test.Service/Unknown")
        unknown = run_load(requests, Load(concurrency=2, **SHORT))
        assert unknown.requests == 0
        assert "UNIMPLEMENTED" in unknown.failure_messages[0]


def test_a_server_that_ages_its_connections_loses_no_request():
    with serving(max_connection_age_ms=150, max_connection_age_grace_ms=2000) as server:
        result = run_load(prepare(server, b":slow"), Load(concurrency=4, warmup_s=0, seconds=1))
    assert result.failure_messages == ()
    assert result.failures == 0
    assert result.requests > 50


def test_the_stream_limit_of_the_server_is_respected():
    with serving(max_concurrent_streams=2) as server:
        result = run_load(prepare(server, b":slow"), Load(concurrency=3, **SHORT))
    assert server.max_outstanding == 2
    assert result.requests > 0
    # grpcio refuses a call that begins while it removes another one. That counts as a failure.
    assert all("ENHANCE_YOUR_CALM" in message for message in result.failure_messages)


def test_a_missing_response_is_a_failure():
    with serving(threads=4) as server:
        result = run_load(prepare(server, b":hang"), Load(concurrency=2, timeout_s=0.5, warmup_s=0, seconds=1))
    assert result.requests == 0
    assert result.failures >= 2
    assert len(result.failure_messages) == 1
    assert "within 0.5 s" in result.failure_messages[0]


def test_an_open_loop_counts_from_the_scheduled_time():
    load = Load(request_rate=50, distribution="constant", max_outstanding=1, warmup_s=0, seconds=1.2)
    with serving() as server:
        result = run_load(prepare(server, b":stall"), load)
    assert result.max_ms >= STALL_S * 1e3
    # A third of the 60 requests were scheduled during the stall, and waited for half of it on average.
    assert result.p90_ms > STALL_S * 1e3 / 3
    assert result.delayed > 5
    assert result.failures == 0
    assert result.requests == pytest.approx(60, abs=2)


def test_a_server_that_exits_aborts_the_load():
    with serving() as server, ThreadPoolExecutor(1) as pool:
        load = Load(concurrency=2, warmup_s=0, seconds=20)
        running = pool.submit(run_load, prepare(server, b":slow"), load)
        while not server.bodies:
            time.sleep(0.01)
        server.end()
        began = time.monotonic()
        result = running.result()
    assert time.monotonic() - began < 10
    assert result.failures >= MAX_CONSECUTIVE_FAILURES
    assert all(message.startswith(("no response: ", "UNAVAILABLE", "CANCELLED")) for message in result.failure_messages)


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"])
def test_a_server_without_grpc_is_named(response):
    def respond():
        opened, _ = listener.accept()
        with opened:
            opened.recv(65536)
            opened.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        pool.submit(respond)
        with pytest.raises(BenchError, match=f"grpc://{address}") as raised:
            run_load([PreparedRequest("grpc", address, PATH, (), b"", 1)], Load(concurrency=1, **SHORT))
        assert raised.value.reason == "not_grpc"


def test_a_single_request():
    with serving() as server:
        assert send_once(prepare(server, b"one:")[0], timeout_s=5) == b"result"
        with pytest.raises(BenchError, match="INVALID_ARGUMENT: größer") as refused:
            send_once(prepare(server, b":refuse")[0], timeout_s=5)
        assert refused.value.reason == "request_failed"
        with pytest.raises(BenchError, match="timed out") as late:
            send_once(prepare(server, b":hang")[0], timeout_s=0.3)
        assert late.value.reason == "request_failed"
    with pytest.raises(BenchError, match=f"grpc://{server.address}") as unreachable:
        send_once(prepare(server)[0], timeout_s=5)
    assert unreachable.value.reason == "server_unreachable"
