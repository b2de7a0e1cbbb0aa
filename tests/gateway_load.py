"""Apply load to a gateway with clients in a process of their own.

Each client keeps its connection and does not retry, so that every lost request counts as a failure. The process prints
the number of correct responses after each response, or `failed: REASON`, and ends when its standard input closes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO

from gateway_support import INFER, RAW_HEADERS, Endpoint, Gateway, Response, grpc_labels, infer_request, labels, stub


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
        failures: The reason of each request without a correct response.
    """

    def __init__(self, gateway: Gateway, protocol: str, clients: int, jpeg: bytes, expected: Sequence[str]) -> None:
        self.answered = 0
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
            while not self.over.is_set():
                connection.request("POST", INFER, self.jpeg, {**RAW_HEADERS, **self.endpoint.headers})
                self._count(labels(Response.of(connection.getresponse())))

    def _grpc(self) -> None:
        request = infer_request(self.jpeg)
        with self.endpoint.channel(("grpc.enable_retries", 0)) as channel:
            while not self.over.is_set():
                response = stub(channel).ModelInfer(request, metadata=self.endpoint.metadata(), timeout=30)
                self._count(grpc_labels(response))

    def _count(self, got: Sequence[str]) -> None:
        if got != self.expected:
            raise ValueError(f"wrong labels: {got}")
        with self._lock:
            self._answered += 1
            print(self._answered, flush=True)

    def _print(self, line: str) -> None:
        with self._lock:
            print(line, flush=True)


def main() -> None:
    protocol, number, photo, expected, port, certificate, key = sys.argv[1:]
    clients = _Clients(Endpoint(int(port), Path(certificate), key), Path(photo).read_bytes(), json.loads(expected))
    threads = [threading.Thread(target=clients.run, args=[protocol]) for _ in range(int(number))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    clients.over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
