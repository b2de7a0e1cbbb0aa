"""The load generators, on a tiny HTTP server that behaves as each test needs it."""

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
from jpeg_bench.asks import Ask, Load
from jpeg_bench.errors import BenchError
from jpeg_bench.load import drive, sample

STALL_S = 0.4


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: Server

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        number = next(self.server.numbers)
        self.server.bodies[body] += 1
        how = self.server.how
        if how == "stalls" and number == 10:
            time.sleep(STALL_S)
        if how == "drops" and number % 5 == 4:
            self.close_connection = True
            return
        if how == "slow":
            with self.server.one_at_a_time:
                time.sleep(0.01)
        self.send_response(503 if how == "refuses" or (how == "refuses some" and number % 4 == 0) else 200)
        answer = b"busy" if how.startswith("refuses") else b"answer"
        if how == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"2;x=y\r\nan\r\n4\r\nswer\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(answer)))
            if how == "closes":
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer)
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, how):
        super().__init__(("127.0.0.1", 0), Handler)
        self.how = how
        self.numbers = itertools.count()
        self.bodies: Counter[bytes] = Counter()
        self.one_at_a_time = threading.Lock()


@contextmanager
def serving(how=""):
    server = Server(how)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asks(server, *bodies, images=1):
    address = f"127.0.0.1:{server.server_address[1]}"
    return [Ask("http", address, "/classify", (("X-Kind", "test"),), body, images) for body in bodies or (b"body",)]


SHORT: Any = {"warmup_s": 0.1, "seconds": 0.3}


@pytest.mark.parametrize("how", ["", "chunked", "closes"])
def test_every_answer_counts_however_it_is_framed(how):
    with serving(how) as server:
        found = sample(asks(server, b"x" * 300_000, images=3), Load(in_flight=4, **SHORT))
        measured = found.measured()
    assert measured.failures == 0
    assert measured.messages == ()
    assert measured.requests > 0
    assert measured.images == 3 * measured.requests
    assert measured.images_per_s == pytest.approx(3 * measured.requests_per_s)
    # What the server saw is what was counted, but for warm-up and what was under way at the end.
    assert measured.requests <= sum(server.bodies.values())
    assert set(server.bodies) == {b"x" * 300_000}
    assert 0 < measured.p50_ms <= measured.p90_ms <= measured.p99_ms <= measured.max_ms
    assert measured.client_cpu_cores > 0
    assert all(answer.endswith((b"answer", b"0\r\n\r\n")) for answers in found.answers.values() for answer in answers)


def test_asks_are_used_in_rotation_by_all_processes():
    with serving() as server:
        measured = drive(asks(server, b"one", b"two", b"three", b"four"), Load(in_flight=3, processes=2, **SHORT))
        assert measured.client_processes == 2
        assert set(server.bodies) == {b"one", b"two", b"three", b"four"}
        assert max(server.bodies.values()) - min(server.bodies.values()) <= 2


def test_refusals_are_failures_and_no_throughput():
    with serving("refuses some") as server:
        some = drive(asks(server), Load(in_flight=2, **SHORT))
    assert some.failures > 0
    assert some.requests > some.failures
    assert some.messages == ("HTTP 503: busy",)
    with serving("refuses") as server:
        none = drive(asks(server), Load(in_flight=2, warmup_s=0, seconds=20))
        # It gives up long before the 20 s are over.
        assert sum(server.bodies.values()) < 1000
    assert none.requests == 0
    assert none.images_per_s == 0
    assert none.failures >= 100
    assert none.to_json()["p50_ms"] is None


def test_a_server_that_closes_between_requests_is_asked_again():
    with serving("drops") as server:
        measured = drive(asks(server), Load(in_flight=1, **SHORT))
    assert measured.requests > 0
    # Each cut connection had answered before, so the request on it is sent once more and is no failure.
    assert measured.reconnects > 0
    assert measured.failures == 0


def test_an_open_loop_counts_from_when_a_request_was_due():
    """Coordinated omission: while a server stalls, a closed loop does not ask, and hardly notices."""
    with serving("stalls") as server:
        closed = drive(asks(server), Load(in_flight=1, warmup_s=0, seconds=1.2))
    with serving("stalls") as server:
        # One connection: all that is due during the stall waits behind it.
        load = Load(arrivals_per_s=50, poisson=False, most_outstanding=1, warmup_s=0, seconds=1.2)
        opened = drive(asks(server), load)
    stall_ms = STALL_S * 1e3
    assert closed.max_ms >= stall_ms
    assert closed.p90_ms < stall_ms / 3
    assert opened.max_ms >= stall_ms
    # A third of the 60 requests were due while it stalled, and waited for half of it on average.
    assert opened.p90_ms > stall_ms / 3
    assert opened.held_back > 5
    assert opened.failures == 0


def test_more_arrivals_than_the_server_can_take_are_seen():
    with serving("slow") as server:
        measured = drive(asks(server), Load(arrivals_per_s=400, most_outstanding=4, **SHORT))
    assert measured.requests_per_s < 110
    assert measured.held_back > 0
    assert measured.p99_ms > 100


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_there_names_the_address(protocol):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port
        address = f"127.0.0.1:{held.getsockname()[1]}"
        ask = Ask(protocol, address, "/x", (), b"")
        with pytest.raises(BenchError, match=f"{protocol}://{address}"):
            drive([ask], Load(in_flight=1, **SHORT))


def test_asks_of_two_servers_are_refused():
    one = Ask("http", "127.0.0.1:1", "/x", (), b"")
    with pytest.raises(ValueError, match="one address"):
        drive([one, Ask("http", "127.0.0.1:2", "/x", (), b"")], Load(in_flight=1))
