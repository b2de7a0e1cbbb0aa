"""Apply load to a gateway with clients in a process of their own.

`Load` is a steady load. Each client keeps its connection and repeats a request only after UNAVAILABLE (HTTP 502, 503),
the promised answer of a request whose server died; every other lost request counts as a failure. Its process prints the
number of correct responses after each response, `repeated`, or `failed: REASON`, and ends when its input closes.

`storm` opens many connections and sends a request over each of them at the same moment.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO

import grpc
from gateway_support import INFER, RAW_HEADERS, Endpoint, Gateway, Response, grpc_labels, infer_request, labels, stub

# A request that its server lost is answered by another server, or by this one's successor.
_MOST_REPEATS = 20

# Longer than the gateway waits for a server.
_RESPONSE_S = 60


class Load:
    """Concurrent clients over one protocol, for the duration of a `with` block.

    Args:
        gateway: The gateway.
        protocol: "http" or "grpc".
        clients: Concurrency.
        jpeg: The image to send.
        expected: Its labels.

    Attributes:
        answered: Correct responses so far.
        repeated: Requests that a client sent again, because they were UNAVAILABLE.
        failures: The reason of each request without a correct response.
    """

    def __init__(self, gateway: Gateway, protocol: str, clients: int, jpeg: bytes, expected: Sequence[str]) -> None:
        self.answered = 0
        self.repeated = 0
        self.failures: list[str] = []
        self._photo = gateway.folder / "load.jpg"
        self._photo.write_bytes(jpeg)
        endpoint = gateway.endpoint
        self._arguments = [protocol, str(clients), str(self._photo), json.dumps(list(expected))]
        self._arguments += [str(endpoint.port), str(endpoint.certificate), endpoint.key]

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stdout])
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        status = self._process.wait(timeout=60)
        self._reader.join()
        self._process.stdout.close()
        if status != 0:
            self.failures.append(f"failed: the clients' process ended with {status}")

    def wait_for_more(self, number: int, limit_s: float = 60) -> None:
        """Wait for this many more correct responses, or for a failure."""
        goal = self.answered + number
        begun = time.monotonic()
        while self.answered < goal and not self.failures:
            assert time.monotonic() - begun < limit_s, f"{self.answered} responses after {limit_s} s, not {goal}"
            time.sleep(0.02)

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith("failed: "):
                self.failures.append(line.strip())
            elif line == "repeated\n":
                self.repeated += 1
            else:
                self.answered = int(line)


class _Clients:
    def __init__(self, endpoint: Endpoint, jpeg: bytes, expected: Sequence[str]) -> None:
        self.endpoint, self.jpeg, self.expected = endpoint, jpeg, expected
        self.over = threading.Event()
        self._answered = 0
        self._lock = threading.Lock()

    def run(self, protocol: str) -> None:
        try:
            {"http": self._http, "grpc": self._grpc}[protocol]()
        except Exception as error:
            self._print(f"failed: {time.strftime('%T')} {protocol}: {error!r}".replace("\n", " "))

    def _http(self) -> None:
        with closing(self.endpoint.connection()) as connection:
            repeats = 0
            while not self.over.is_set():
                connection.request("POST", INFER, self.jpeg, {**RAW_HEADERS, **self.endpoint.headers})
                response = Response.of(connection.getresponse())
                if response.status in (502, 503) and repeats < _MOST_REPEATS:
                    repeats += 1
                    self._repeat(float(response.headers["retry-after"]))
                else:
                    repeats = 0
                    self._count(labels(response))

    def _grpc(self) -> None:
        request = infer_request(self.jpeg)
        with self.endpoint.channel(("grpc.enable_retries", 0)) as channel:
            repeats = 0
            while not self.over.is_set():
                try:
                    response = stub(channel).ModelInfer(request, metadata=self.endpoint.metadata(), timeout=30)
                except grpc.RpcError as error:
                    # Not after a GOAWAY of the gateway's reload, which has no Retry-After: a test counts those.
                    wait_s = dict(error.trailing_metadata() or ()).get("retry-after")
                    if wait_s is None or error.code() != grpc.StatusCode.UNAVAILABLE or repeats >= _MOST_REPEATS:
                        raise
                    repeats += 1
                    self._repeat(float(wait_s))
                else:
                    repeats = 0
                    self._count(grpc_labels(response))

    def _repeat(self, wait_s: float) -> None:
        self._print("repeated")
        time.sleep(wait_s)

    def _count(self, got: Sequence[str]) -> None:
        if got != self.expected:
            raise ValueError(f"wrong labels: {got}")
        with self._lock:
            self._answered += 1
            print(self._answered, flush=True)

    def _print(self, line: str) -> None:
        with self._lock:
            print(line, flush=True)


def storm(gateway: Gateway, protocol: str, connections: int, jpeg: bytes, seconds: float = 0) -> Counter[str]:
    """Open connections, then send a request over each of them at the same moment.

    Args:
        gateway: The gateway.
        protocol: "http" or "grpc".
        connections: Number of connections, each with one request at a time.
        jpeg: The image to send.
        seconds: For how long each connection sends further requests; one that is told to retry later does so.

    Returns:
        How often each HTTP status or gRPC status occurred, or the name of the error of a request without a response.
    """
    photo = gateway.folder / "storm.jpg"
    photo.write_bytes(jpeg)
    endpoint = gateway.endpoint
    reached_by = [str(endpoint.port), str(endpoint.certificate), endpoint.key]
    done = subprocess.run(
        [sys.executable, Path(__file__), "storm", protocol, str(connections), photo, str(seconds), *reached_by],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Counter(json.loads(done.stdout))


class _Storm:
    def __init__(self, endpoint: Endpoint, jpeg: bytes, connections: int, seconds: float) -> None:
        self.endpoint, self.jpeg, self.connections, self.seconds = endpoint, jpeg, connections, seconds
        self.tls = endpoint.tls()
        self.outcomes: Counter[str] = Counter()
        self.waiting = 0
        self.all_open = asyncio.Event()
        # A limit for the handshakes in progress: they are not what is measured.
        self.opening = asyncio.Semaphore(100)

    async def run(self, protocol: str) -> None:
        client = {"http": self._http, "grpc": self._grpc}[protocol]
        await asyncio.gather(*(self._end(client()) for _ in range(self.connections)))

    async def _end(self, client: Coroutine[None, None, None]) -> None:
        try:
            await client
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            self.outcomes[type(error).__name__] += 1

    async def _wait_for_all(self) -> float:
        """Wait until all connections are open; return when to stop."""
        self.waiting += 1
        if self.waiting == self.connections:
            self.all_open.set()
        await self.all_open.wait()
        return time.monotonic() + self.seconds

    async def _http(self) -> None:
        headers = {**RAW_HEADERS, **self.endpoint.headers, "Host": "x", "Content-Length": str(len(self.jpeg))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST {INFER} HTTP/1.1\r\n{lines}\r\n".encode() + self.jpeg
        async with self.opening:
            reader, writer = await asyncio.open_connection("localhost", self.endpoint.port, ssl=self.tls)
        stop = await self._wait_for_all()
        while True:
            writer.write(request)
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _RESPONSE_S)).decode().lower()
            status, *fields = head.split("\r\n")
            received = dict(field.split(": ", 1) for field in fields if field)
            await reader.readexactly(int(received["content-length"]))
            self.outcomes[status.split()[1]] += 1
            await asyncio.sleep(float(received.get("retry-after", 0)))
            if time.monotonic() >= stop:
                writer.close()
                return

    async def _grpc(self) -> None:
        credentials = grpc.ssl_channel_credentials(self.endpoint.certificate.read_bytes())
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        request, metadata = infer_request(self.jpeg), self.endpoint.metadata()
        async with grpc.aio.secure_channel(f"localhost:{self.endpoint.port}", credentials, options) as channel:
            async with self.opening:
                await channel.channel_ready()
            stop = await self._wait_for_all()
            while True:
                try:
                    await stub(channel).ModelInfer(request, metadata=metadata, timeout=_RESPONSE_S)
                    self.outcomes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    self.outcomes[error.code().name] += 1
                    await asyncio.sleep(1)
                if time.monotonic() >= stop:
                    return


async def _storm(protocol: str, number: str, photo: str, seconds: str, port: str, certificate: str, key: str) -> None:
    endpoint = Endpoint(int(port), Path(certificate), key)
    each = _Storm(endpoint, Path(photo).read_bytes(), int(number), float(seconds))
    await each.run(protocol)
    print(json.dumps(each.outcomes))


def _steady(protocol: str, number: str, photo: str, expected: str, port: str, certificate: str, key: str) -> None:
    clients = _Clients(Endpoint(int(port), Path(certificate), key), Path(photo).read_bytes(), json.loads(expected))
    threads = [threading.Thread(target=clients.run, args=[protocol]) for _ in range(int(number))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    clients.over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    if sys.argv[1] == "storm":
        asyncio.run(_storm(*sys.argv[2:]))
    else:
        _steady(*sys.argv[1:])
