"""The load generator over HTTP, on a small server whose behaviour each test chooses."""

from __future__ import annotations

import http.server
import itertools
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import Any

import pytest
from jpeg_bench.errors import BenchError
from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.load_generator import run_load, sample_load
from jpeg_bench.recorder import MAX_CONSECUTIVE_FAILURES

STALL_S = 0.4


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: Server

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        number = next(self.server.numbers)
        self.server.bodies[body] += 1
        behaviour = self.server.behaviour
        if behaviour == "stall" and number == 10:
            time.sleep(STALL_S)
        if behaviour == "drop" and number % 5 == 4:
            self.close_connection = True
            return
        if behaviour == "slow":
            with self.server.one_at_a_time:
                time.sleep(0.01)
        refused = behaviour == "refuse" or (behaviour == "refuse some" and number % 4 == 0)
        self.send_response(503 if refused else 200)
        content = b"busy" if behaviour.startswith("refuse") else b"result"
        if behaviour == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"2;x=y\r\nre\r\n4\r\nsult\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(content)))
            if behaviour == "close":
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behaviour):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = behaviour
        self.numbers = itertools.count()
        self.bodies: Counter[bytes] = Counter()
        self.one_at_a_time = threading.Lock()


@contextmanager
def serving(behaviour=""):
    server = Server(behaviour)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def prepare(server, *bodies, images=1):
    address = f"127.0.0.1:{server.server_address[1]}"
    headers = (("X-Kind", "test"),)
    return [PreparedRequest("http", address, "/classify", headers, body, images) for body in bodies or (b"body",)]


SHORT: Any = {"warmup_s": 0.1, "seconds": 0.3}


@pytest.mark.parametrize("behaviour", ["", "chunked", "close"])
def test_every_response_counts_with_any_framing(behaviour):
    with serving(behaviour) as server:
        samples = sample_load(prepare(server, b"x" * 300_000, images=3), Load(concurrency=4, **SHORT))
        result = samples.result()
    assert result.failures == 0
    assert result.failure_messages == ()
    assert result.requests > 0
    assert result.images == 3 * result.requests
    assert result.images_per_s == pytest.approx(3 * result.requests_per_s)
    # The server also saw the warm-up, and the requests that were outstanding at the end.
    assert result.requests <= sum(server.bodies.values())
    assert set(server.bodies) == {b"x" * 300_000}
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms <= result.max_ms
    assert result.client_cpu_cores > 0
    responses = [response for each in samples.responses.values() for response in each]
    assert all(response.endswith((b"result", b"0\r\n\r\n")) for response in responses)


def test_all_processes_send_the_requests_in_rotation():
    with serving() as server:
        requests = prepare(server, b"one", b"two", b"three", b"four")
        result = run_load(requests, Load(concurrency=3, client_processes=2, **SHORT))
        assert result.client_processes == 2
        assert set(server.bodies) == {b"one", b"two", b"three", b"four"}
        assert max(server.bodies.values()) - min(server.bodies.values()) <= 2


def test_error_responses_are_failures_without_throughput():
    with serving("refuse some") as server:
        some = run_load(prepare(server), Load(concurrency=2, **SHORT))
    assert some.failures > 0
    assert some.requests > some.failures
    assert some.failure_messages == ("HTTP 503: busy",)
    with serving("refuse") as server:
        none = run_load(prepare(server), Load(concurrency=2, warmup_s=0, seconds=20))
        # It aborts long before the 20 s are over.
        assert sum(server.bodies.values()) < 1000
    assert none.requests == 0
    assert none.images_per_s == 0
    assert none.failures >= MAX_CONSECUTIVE_FAILURES
    assert none.to_json()["p50_ms"] is None


def test_a_request_on_a_closed_connection_is_sent_again():
    with serving("drop") as server:
        result = run_load(prepare(server), Load(concurrency=1, **SHORT))
    assert result.requests > 0
    # Each closed connection had a response before, so it was idle.
    assert result.reconnects > 0
    assert result.failures == 0


def test_an_open_loop_counts_from_the_scheduled_time():
    """Coordinated omission: during a stall a closed loop sends nothing, and hardly notices it."""
    with serving("stall") as server:
        closed = run_load(prepare(server), Load(concurrency=1, warmup_s=0, seconds=1.2))
    with serving("stall") as server:
        # One connection: all requests scheduled during the stall wait for it.
        load = Load(request_rate=50, distribution="constant", max_outstanding=1, warmup_s=0, seconds=1.2)
        opened = run_load(prepare(server), load)
    stall_ms = STALL_S * 1e3
    assert closed.max_ms >= stall_ms
    assert closed.p90_ms < stall_ms / 3
    assert opened.max_ms >= stall_ms
    # A third of the 60 requests were scheduled during the stall, and waited for half of it on average.
    assert opened.p90_ms > stall_ms / 3
    assert opened.delayed > 5
    assert opened.failures == 0


def test_an_overloaded_server_delays_requests():
    with serving("slow") as server:
        result = run_load(prepare(server), Load(request_rate=400, max_outstanding=4, **SHORT))
    assert result.requests_per_s < 110
    assert result.delayed > 0
    assert result.p99_ms > 100


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_unreachable_server_is_named(protocol):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: no other program can take the port
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        request = PreparedRequest(protocol, address, "/x", (), b"")
        with pytest.raises(BenchError, match=f"{protocol}://{address}") as raised:
            run_load([request], Load(concurrency=1, **SHORT))
        assert raised.value.reason == "server_unreachable"


def test_requests_to_two_servers_are_rejected():
    one = PreparedRequest("http", "127.0.0.1:1", "/x", (), b"")
    other = PreparedRequest("http", "127.0.0.1:2", "/x", (), b"")
    with pytest.raises(ValueError, match="one address"):
        run_load([one, other], Load(concurrency=1))
