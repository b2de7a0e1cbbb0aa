"""Retries and connections of the client."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jpeg_client import (
    CertificateRefused,
    Client,
    InvalidResponse,
    JpegClientError,
    ProtocolMismatch,
    RequestLost,
    RequestRefused,
    ServerTimeout,
    ServerUnavailable,
    TooManyRequests,
)
from jpeg_client.retries import SETTLE_S, call_with_retries
from support import run


class RefusingTransport:
    """Raise the given errors, one per call, then succeed; the gateway tests use a real connection."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.timeouts_s: list[float] = []

    def config(self, model: str, timeout_s: float) -> dict[str, int]:
        self.timeouts_s.append(timeout_s)
        if self.errors:
            raise self.errors.pop(0)
        return {"max_batch_size": 8}

    def close(self) -> None:
        pass


def batch_size(client: Client) -> int:
    return client._batch_limit(client.model, client.timeout_s)


def batch_limit(transport: RefusingTransport, timeout_s: float, *, retry: bool = True) -> int:
    client = Client("grpc://localhost:1", timeout_s=timeout_s, retry=retry)
    client.close()
    client._transport = transport  # type: ignore[assignment]
    return batch_size(client)


def test_it_waits_and_retries_within_the_timeout() -> None:
    transport = RefusingTransport(*(TooManyRequests("wait", "429", 0.1) for _ in range(3)))
    begun = time.monotonic()
    assert batch_limit(transport, 2) == 8
    waited = time.monotonic() - begun
    assert 0.3 <= waited < 2
    assert transport.timeouts_s[0] == 2
    # Each call gets the time that is left after a wait of at least wait_s.
    pairs = zip(transport.timeouts_s, transport.timeouts_s[1:], strict=False)
    assert all(before - after >= 0.1 for before, after in pairs)
    assert len(transport.timeouts_s) == 4


def test_it_does_not_wait_beyond_the_timeout() -> None:
    transport = RefusingTransport(TooManyRequests("wait", "429", 60))
    begun = time.monotonic()
    with pytest.raises(TooManyRequests):
        batch_limit(transport, 1)
    assert time.monotonic() - begun < 0.5
    assert len(transport.timeouts_s) == 1
    # The timeout ends the retries even if every wait is zero.
    transport = RefusingTransport(*(TooManyRequests("wait", "429", 0) for _ in range(10_000)))
    with pytest.raises(TooManyRequests):
        batch_limit(transport, 0.5)
    assert time.monotonic() - begun < 2


def test_unavailable_servers_are_retried_until_the_timeout() -> None:
    transport = RefusingTransport(*(ServerUnavailable("no") for _ in range(3)))
    assert batch_limit(transport, 20) == 8
    assert len(transport.timeouts_s) == 4
    transport = RefusingTransport(*(ServerUnavailable("no") for _ in range(10_000)))
    begun = time.monotonic()
    with pytest.raises(ServerUnavailable):
        batch_limit(transport, 1)
    assert 0.8 < time.monotonic() - begun < 1.5
    assert 4 < len(transport.timeouts_s) < 100


def test_retry_after_of_an_unavailable_server_is_honoured() -> None:
    transport = RefusingTransport(ServerUnavailable("full", wait_s=0.5))
    begun = time.monotonic()
    assert batch_limit(transport, 5) == 8
    assert time.monotonic() - begun >= 0.5
    with pytest.raises(ServerUnavailable):
        batch_limit(RefusingTransport(ServerUnavailable("full", wait_s=60)), 5)


def test_a_lost_request_is_repeated_once_its_server_is_gone() -> None:
    begun = time.monotonic()
    assert batch_limit(RefusingTransport(RequestLost("gone")), 60) == 8
    assert time.monotonic() - begun >= SETTLE_S


def test_a_lost_request_is_repeated_once() -> None:
    assert batch_limit(RefusingTransport(RequestLost("gone")), 5) == 8
    # A refused connection between the two attempts does not count: it has sent nothing.
    transport = RefusingTransport(
        RequestLost("gone"), ServerUnavailable("no"), RequestLost("gone", reason="worker_died", wait_s=0.1)
    )
    with pytest.raises(RequestLost) as lost:
        batch_limit(transport, 5)
    assert lost.value.reason == "worker_died"
    assert len(transport.timeouts_s) == 3
    # The wait for a restart is shorter where the timeout demands it.
    assert batch_limit(RefusingTransport(RequestLost("gone", wait_s=60)), 1) == 8


@pytest.mark.parametrize(
    "error",
    [
        RequestRefused("no", "401"),
        ServerTimeout("no"),
        CertificateRefused("no"),
        JpegClientError("no"),
        ProtocolMismatch("no"),
    ],
)
def test_it_retries_no_other_error(error: JpegClientError) -> None:
    transport = RefusingTransport(error)
    with pytest.raises(type(error)):
        batch_limit(transport, 5)
    assert len(transport.timeouts_s) == 1


def test_without_retries_each_request_is_sent_once() -> None:
    for error in (ServerUnavailable("no"), TooManyRequests("wait", "429", 0.1), InvalidResponse("other")):
        transport = RefusingTransport(error)
        with pytest.raises(type(error)):
            batch_limit(transport, 5, retry=False)
        assert len(transport.timeouts_s) == 1


def test_an_attempt_that_is_cut_short_by_the_deadline_does_not_hide_the_cause() -> None:
    """The server refuses connections for most of the time, then one attempt gets no response in the rest of it."""

    def request(limit_s: float) -> None:
        if limit_s > 0.4:
            raise ServerUnavailable("no server")
        time.sleep(limit_s)
        raise ServerTimeout("late")

    begun = time.monotonic()
    with pytest.raises(ServerUnavailable, match="no server") as refused:
        call_with_retries(request, 1)
    assert isinstance(refused.value.__cause__, ServerTimeout)
    assert 0.9 < time.monotonic() - begun < 1.5


def test_a_timeout_of_a_gateway_is_not_retried_after_a_retry() -> None:
    transport = RefusingTransport(ServerUnavailable("full"), ServerTimeout("504"))
    with pytest.raises(ServerTimeout):
        batch_limit(transport, 5)
    assert len(transport.timeouts_s) == 2


def test_retries_print_nothing_without_a_logging_setup() -> None:
    program = (
        "from jpeg_client import Client, ServerUnavailable\n"
        "try:\n"
        "    Client('http://127.0.0.1:1', timeout_s=0.5).classify([b'x'])\n"
        "except ServerUnavailable as error:\n"
        "    print(error.reason)"
    )
    done = run(sys.executable, "-c", program)
    assert (done.stdout, done.stderr) == ("server_unavailable\n", "")


# --- Connections ---


@contextlib.contextmanager
def listener(respond: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[tuple[int, list[int]]]:
    """Yield the port of a TCP server, and the ports of the connections that it has accepted."""
    accepted: list[int] = []
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            respond(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connection, peer = listening.accept()
                connections.append(connection)
                accepted.append(peer[1])
                threads.append(threading.Thread(target=answer, args=(connection,)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield listening.getsockname()[1], accepted
    finally:
        for each in (listening, *connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in threads:
            thread.join()


def respond_with(*responses: bytes, close: bool = False) -> Callable[[socket.socket], None]:
    """Send one of the responses for each request of a connection; then close it, or say nothing more."""

    def respond(connection: socket.socket) -> None:
        for response in responses:
            if not connection.recv(65536):
                break
            connection.sendall(response)
        if close:
            connection.close()
        while connection.recv(65536):
            pass

    return respond


def http_response(body: bytes, length: int | None = None, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


CONFIG = b'{"max_batch_size": 8}'


@pytest.mark.parametrize(
    "response", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Le", http_response(b'{"max', 100)]
)
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_says_half_a_response_ends_with_the_timeout(scheme: str, response: bytes) -> None:
    with listener(respond_with(response)) as (port, _), Client(f"{scheme}://127.0.0.1:{port}", timeout_s=1) as client:
        begun = time.monotonic()
        with pytest.raises(JpegClientError) as late:
            client.classify([b"x"])
        assert time.monotonic() - begun < 2
        assert late.value.reason in ("server_timeout", "server_unavailable", "protocol_mismatch")
        if scheme == "http" or not response:
            assert late.value.reason == "server_timeout"


@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
def test_over_http_a_request_is_sent_twice_at_most(kept: bool) -> None:
    """libcurl would repeat a request on a kept connection by itself."""
    received: list[bytes] = []

    def respond(connection: socket.socket) -> None:
        if kept and len(accepted) == 1:
            connection.recv(65536)
            connection.sendall(http_response(CONFIG))
        received.append(connection.recv(65536))
        connection.shutdown(socket.SHUT_RDWR)

    with listener(respond) as (port, accepted), Client(f"http://127.0.0.1:{port}", timeout_s=20) as client:
        if kept:
            assert batch_size(client) == 8
        with pytest.raises(RequestLost) as lost:
            client.classify([b"x" * 1000])
        assert lost.value.reason == "request_lost"
        assert sum(b"POST /v2/models/jpeg_classifier/infer" in each for each in received) == 2


def test_over_http_the_connection_is_kept_until_a_failure() -> None:
    full = http_response(b'{"error":"Exceeds maximum queue size"}', status="503 Service Unavailable")
    refused = http_response(b'{"error":"k must be positive"}', status="400 Bad Request")
    with (
        listener(respond_with(http_response(CONFIG), refused, full, full)) as (port, accepted),
        Client(f"http://127.0.0.1:{port}", timeout_s=1, retry=False) as client,
    ):
        assert batch_size(client) == 8
        with pytest.raises(RequestRefused):
            client.classify([b"x"])
        with pytest.raises(ServerUnavailable) as unavailable:
            client.classify([b"x"])
        assert unavailable.value.reason == "queue_full"
        assert len(accepted) == 1
        with pytest.raises(JpegClientError) as other:  # the response of the new connection is the model's config
            client.classify([b"x"])
        assert other.value.reason == "unexpected_response"
        assert len(accepted) == 2


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_threads_that_end_leave_nothing_behind() -> None:
    with (
        listener(respond_with(*[http_response(CONFIG)] * 100)) as (port, accepted),
        Client(f"http://127.0.0.1:{port}", timeout_s=5) as client,
    ):
        before = -1
        for number in range(20):
            thread = threading.Thread(target=lambda: client._transport.config("any", 5))
            thread.start()
            thread.join()
            if number == 0:
                before = open_files()
        assert open_files() == before
        assert len(accepted) == 1


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_closed_client_refuses_requests(scheme: str) -> None:
    client = Client(f"{scheme}://127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(JpegClientError) as closed:
        client.classify([b"x"])
    assert closed.value.reason == "client_closed"


def test_ctrl_c_ends_a_wait_over_http() -> None:
    program = (
        "import sys; from jpeg_client import Client\n"
        "try:\n"
        "    Client(sys.argv[1], timeout_s=30).classify([b'x'])\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')"
    )
    arrived = threading.Event()
    with listener(lambda connection: arrived.set() if connection.recv(65536) else None) as (port, _):
        waiting = subprocess.Popen(
            [sys.executable, "-c", program, f"http://127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
        )
        assert arrived.wait(20)
        begun = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        output, _ = waiting.communicate(timeout=25)
        assert output == "interrupted\n"
        assert time.monotonic() - begun < 3


def test_over_http_the_timeout_covers_the_whole_response() -> None:
    """Each byte of this response arrives within the timeout, the whole response does not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n":
                    if over.wait(0.2):
                        return
                    connection.sendall(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            begun = time.monotonic()
            with (
                Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.6) as client,
                pytest.raises(ServerTimeout, match=r"0\.6 s") as late,
            ):
                client.classify([b"x"])
            assert 0.5 < time.monotonic() - begun < 2
            assert late.value.reason == "server_timeout"
        finally:
            over.set()
            thread.join()
