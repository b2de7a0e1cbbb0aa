"""The load generator over gRPC, on a server of grpcio that behaves as each test needs it."""

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
from jpeg_bench.asks import Ask, Load
from jpeg_bench.errors import BenchError
from jpeg_bench.grpc_load import ask_once
from jpeg_bench.load import drive, sample

PATH = "/test.Service/Ask"
SHORT: Any = {"warmup_s": 0.1, "seconds": 0.4}
STALL_S = 0.4


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers by what the request says, behind the last ':'."""

    def __init__(self):
        self.bodies: Counter[bytes] = Counter()
        self.numbers = itertools.count()
        self.under_way = self.most = 0
        self.lock = threading.Lock()
        self.address = ""
        self.end = lambda: None

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer) if details.method == PATH else None

    def answer(self, request, context):
        with self.lock:
            self.bodies[request] += 1
            number = next(self.numbers)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            return self.behave(request.rpartition(b":")[2], number, context)
        finally:
            with self.lock:
                self.under_way -= 1

    def behave(self, how, number, context):
        if how == b"refuse" or (how == b"refuse some" and number % 4 == 0):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "größer als 100 %\nof it")
        if how == b"stall" and number == 10:
            time.sleep(STALL_S)
        if how == b"hang":
            time.sleep(1.5)
        if how == b"slow":
            time.sleep(0.02)
        return b"x" * 3_000_000 if how == b"large" else b"answer"


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


def asks(server, *bodies, images=1, path=PATH):
    return [Ask("grpc", server.address, path, (), body, images) for body in bodies or (b"body:",)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        # Windows as narrow as they get, which are not widened by what is measured.
        {"http2_bdp_probe": 0, "http2_lookahead_bytes": 1024},
        {"http2_max_frame_size": 1 << 20},
    ],
    ids=["default", "narrow", "large frames"],
)
def test_every_answer_counts_however_large_the_request(options):
    body = bytes(range(256)) * 12_000 + b":"
    with serving(**options) as server:
        found = sample(asks(server, body, images=3), Load(in_flight=4, channels=2, **SHORT))
    measured = found.measured()
    assert measured.messages == ()
    assert measured.failures == 0
    assert measured.requests > 0
    assert measured.images == 3 * measured.requests
    assert measured.requests <= sum(server.bodies.values())
    # What is given up at the end aside, each came as it was sent.
    assert set(server.bodies) == {body}
    assert server.most <= 4
    assert found.answers == {0: [b"answer"]}
    assert 0 < measured.p50_ms <= measured.p99_ms <= measured.max_ms
    assert measured.client_cpu_cores > 0


def test_large_answers_come_whole():
    with serving() as server:
        found = sample(asks(server, b":large"), Load(in_flight=4, warmup_s=0, seconds=1))
    assert found.failures == 0
    # More than the connection takes before the server is told to go on.
    assert len(found.done) * 3_000_000 > 40 << 20
    assert found.answers == {0: [b"x" * 3_000_000]}


def test_asks_are_used_in_rotation_by_all_processes():
    with serving() as server:
        bodies = [b"one:", b"two:", b"three:", b"four:"]
        measured = drive(asks(server, *bodies), Load(in_flight=3, processes=2, **SHORT))
    assert measured.client_processes == 2
    assert set(server.bodies) == {*bodies}
    assert max(server.bodies.values()) - min(server.bodies.values()) <= 3


def test_refusals_are_failures_with_their_words():
    with serving() as server:
        some = drive(asks(server, b":refuse some"), Load(in_flight=2, **SHORT))
        assert some.failures > 0
        assert some.requests > some.failures
        assert some.messages == ("INVALID_ARGUMENT: größer als 100 %\nof it",)
    with serving() as server:
        # It gives up long before the 20 s are over.
        none = drive(asks(server, b":refuse"), Load(in_flight=2, warmup_s=0, seconds=20))
        assert sum(server.bodies.values()) < 1000
        assert none.requests == 0
        assert none.failures >= 100
        unknown = drive(asks(server, b"x" * 5_000_000, path="/test.Service/Nothing"), Load(in_flight=2, **SHORT))
        assert unknown.requests == 0
        assert "UNIMPLEMENTED" in unknown.messages[0]


def test_a_server_that_ages_its_connections_loses_nothing():
    with serving(max_connection_age_ms=150, max_connection_age_grace_ms=2000) as server:
        measured = drive(asks(server, b":slow"), Load(in_flight=4, warmup_s=0, seconds=1))
    assert measured.messages == ()
    assert measured.failures == 0
    assert measured.requests > 50


def test_a_server_that_takes_few_calls_at_a_time_gets_no_more():
    with serving(max_concurrent_streams=2) as server:
        measured = drive(asks(server, b":slow"), Load(in_flight=3, **SHORT))
    assert server.most == 2
    assert measured.requests > 0
    # gRPC refuses a call that begins while it puts another one away. That is a failure, and never passes silently.
    assert all("ENHANCE_YOUR_CALM" in message for message in measured.messages)


def test_an_answer_that_does_not_come_is_a_failure():
    with serving(threads=4) as server:
        measured = drive(asks(server, b":hang"), Load(in_flight=2, timeout_s=0.5, warmup_s=0, seconds=1))
    assert measured.requests == 0
    assert measured.failures >= 2
    assert set(measured.messages) == {"no answer within 0.5 s"}


def test_an_open_loop_counts_from_when_a_request_was_due():
    load = Load(arrivals_per_s=50, poisson=False, most_outstanding=1, warmup_s=0, seconds=1.2)
    with serving() as server:
        measured = drive(asks(server, b":stall"), load)
    assert measured.max_ms >= STALL_S * 1e3
    # A third of the 60 requests were due while it stalled, and waited for half of it on average.
    assert measured.p90_ms > STALL_S * 1e3 / 3
    assert measured.held_back > 5
    assert measured.failures == 0
    assert measured.requests == pytest.approx(60, abs=2)


def test_a_server_that_ends_is_a_failure():
    with serving() as server, ThreadPoolExecutor(1) as pool:
        driving = pool.submit(drive, asks(server, b":slow"), Load(in_flight=2, warmup_s=0, seconds=20))
        while not server.bodies:
            time.sleep(0.01)
        server.end()
        began = time.monotonic()
        measured = driving.result()
    assert time.monotonic() - began < 10  # it does not ask in vain for the 20 s
    assert measured.failures >= 100
    assert all(message.startswith(("no answer: ", "UNAVAILABLE", "CANCELLED")) for message in measured.messages)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"])
def test_something_else_on_the_port_is_named(said):
    def answer():
        opened, _ = listener.accept()
        with opened:
            opened.recv(65536)
            opened.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        pool.submit(answer)
        with pytest.raises(BenchError, match=rf"grpc://{address}.*something else"):
            drive([Ask("grpc", address, PATH, (), b"", 1)], Load(in_flight=1, **SHORT))


def test_a_single_question_is_answered_or_says_why():
    with serving() as server:
        assert ask_once(asks(server, b"one:")[0], timeout_s=5) == b"answer"
        with pytest.raises(BenchError, match="INVALID_ARGUMENT: größer"):
            ask_once(asks(server, b":refuse")[0], timeout_s=5)
        with pytest.raises(BenchError, match=r"no answer: .*timed out"):
            ask_once(asks(server, b":hang")[0], timeout_s=0.3)
    with pytest.raises(BenchError, match=rf"grpc://{server.address}.*is it running"):
        ask_once(asks(server)[0], timeout_s=5)
