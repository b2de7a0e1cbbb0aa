"""Measure the memory of a server and of the gateway in front of it, under the worst that the gateway lets through.

Run it as a program: `python tests/gateway_memory.py --model-repository model_repository`. It starts the real nginx and
a real `jpeg-serve`, with the defaults of both, and sends more of each kind of request than the gateway takes, with
several keys: the longest requests over HTTP and gRPC, each with a photo that takes nearly all the memory that one may;
the longest that are not large; the longest that are not long. It prints JSON.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import grpc
from gateway_support import INFER, RAW_HEADERS, Endpoint, Gateway, tiny_jpeg
from jpeg_serve.ports import free_port
from PIL import Image
from tritonclient.grpc import service_pb2

MIB = 2**20
LONGEST = 49 * MIB
# The longest of each class of bodies, see nginx.conf.template.
LONGEST_NOT_LARGE = 4_999_999
LONGEST_SHORT = 299_999
# Bytes for the JSON, or the other fields of a message.
_HEAD = 2000


@cache
def greedy_jpeg() -> bytes:
    """Return a progressive JPEG of 81 megapixels, whose coefficients take 466 MiB; 512 are allowed."""
    stream = io.BytesIO()
    Image.new("RGB", (9024, 9024), (90, 120, 60)).save(stream, "JPEG", progressive=True, subsampling=0)
    return stream.getvalue()


@cache
def images(length: int, *, greedy: bool) -> tuple[bytes, ...]:
    """Return a photo, and as many bytes that are no JPEG as a request of this length has room for."""
    photo = greedy_jpeg() if greedy else tiny_jpeg()
    left = length - _HEAD - len(photo)
    parts = -(-left // 20_000_000)
    return (photo, *(bytes(left // parts) for _ in range(parts)))


@cache
def http_request(length: int, *, greedy: bool) -> tuple[bytes, int]:
    """Return the body of a request with nearly this length, and the length of its JSON."""
    data = b"".join(struct.pack("<I", len(each)) + each for each in images(length, greedy=greedy))
    tensor = {
        "name": "IMAGE",
        "shape": [len(images(length, greedy=greedy)), 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + data, len(head)


@cache
def grpc_request(length: int, *, greedy: bool) -> bytes:
    """Return a message of nearly this length."""
    request = service_pb2.ModelInferRequest(model_name="jpeg_classifier")
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[len(images(length, greedy=greedy)), 1])
    data = b"".join(struct.pack("<I", len(each)) + each for each in images(length, greedy=greedy))
    request.raw_input_contents.append(data)
    return bytes(request.SerializeToString())


@dataclass
class Peak:
    """Memory in bytes, and the most of it seen so far.

    Attributes:
        private: Anonymous memory of a tree of processes, without pages of files.
        shared: Shared memory.
        total: Most of both at the same time.
    """

    private: int = 0
    shared: int = 0
    total: int = 0

    def see(self, private: int, shared: int) -> None:
        """Count a sample."""
        self.private, self.shared = max(self.private, private), max(self.shared, shared)
        self.total = max(self.total, private + shared)

    def mib(self) -> dict[str, int]:
        """Return the values in MiB."""
        return {name: value // MIB for name, value in vars(self).items()}


def processes(root: int) -> Iterator[int]:
    """Return a process and all its descendants."""
    yield root
    for thread in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            children = [int(child) for child in thread.read_text().split()]
        except OSError:  # it ended
            continue
        for child in children:
            yield from processes(child)


def memory(root: int, segments: str) -> tuple[int, int]:
    """Return the private memory of a tree of processes, and its shared memory, in bytes.

    Args:
        root: Process id.
        segments: Prefix of the tree's files in /dev/shm; empty counts what the processes share anonymously.
    """
    private = anonymous = 0
    for pid in processes(root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it ended
            continue
        kib = {name: int(value) for name, value in re.findall(r"^(Rss\w+):\s+(\d+) kB$", status, re.MULTILINE)}
        private += kib.get("RssAnon", 0) * 1024
        anonymous = max(anonymous, kib.get("RssShmem", 0) * 1024)
    if not segments:
        return private, anonymous
    shared = 0
    for segment in Path("/dev/shm").glob(f"{segments}*"):  # the kernel's folder of shared memory
        try:
            shared += segment.stat().st_blocks * 512
        except OSError:  # removed
            continue
    return private, shared


@contextmanager
def serving(repository: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run jpeg-serve, and yield its process and its entry in GATEWAY_SERVERS."""
    ports = [free_port("127.0.0.1") for _ in range(3)]
    options = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    command = [sys.executable, "-m", "jpeg_serve", f"--model-repository={repository}", *options]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as process:
        try:
            yield process, f"127.0.0.1:{ports[0]}:{ports[1]}"
        finally:
            process.terminate()


@dataclass
class Load:
    """Clients that send one kind of request again and again, in threads.

    Attributes:
        outcomes: How often each kind of request had each status, or ended with an error of its connection.
    """

    running: bool = True
    outcomes: Counter[str] = field(default_factory=Counter)
    _threads: list[threading.Thread] = field(default_factory=list)

    def add(self, name: str, clients: int, send: Callable[[], str]) -> None:
        """Start clients."""
        for _ in range(clients):
            self._threads.append(threading.Thread(target=self._run, args=[name, send]))
            self._threads[-1].start()

    def stop(self) -> None:
        """Let each client end its request, and wait for it."""
        self.running = False
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, send: Callable[[], str]) -> None:
        while self.running:
            try:
                status = send()
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            self.outcomes[f"{name} {status}"] += 1
            # Sooner than Retry-After says.
            time.sleep(0.02 if status in ("200", "OK", "left") else 0.2)


def over_http(endpoint: Endpoint, body: bytes, json_length: int, *, leave: bool = False) -> str:
    """Send a request, and return its status; leave: without waiting for it."""
    connection = http.client.HTTPSConnection("localhost", endpoint.port, timeout=60, context=endpoint.tls())
    try:
        headers = {**RAW_HEADERS, **endpoint.headers, "Inference-Header-Content-Length": str(json_length)}
        connection.request("POST", INFER, body, headers)
        if leave:
            time.sleep(0.1)
            return "left"
        response = connection.getresponse()
        response.read()
        return str(response.status)
    finally:
        connection.close()


def over_grpc(endpoint: Endpoint, message: bytes, *, leave: bool = False) -> str:
    """Send a request over a connection of its own, and return its status; leave: without waiting for it."""
    with endpoint.channel(("grpc.enable_retries", 0)) as channel:
        path = "/inference.GRPCInferenceService/ModelInfer"
        method = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            method(message, metadata=endpoint.metadata(), timeout=1 if leave else 60)
        except grpc.RpcError as error:
            return "left" if leave and error.code().name == "DEADLINE_EXCEEDED" else str(error.code().name)
        return "OK"


def wait_until_ready(gateway: Gateway, limit_s: float = 120) -> None:
    """Wait for the server behind a gateway."""
    limit = time.monotonic() + limit_s
    while gateway.request("/v2/models/jpeg_classifier/ready").status != 200:
        if time.monotonic() > limit:
            raise TimeoutError("the server is not ready")
        time.sleep(0.2)


def measure(repository: Path, seconds: float, *, leave: bool = False) -> dict[str, object]:
    """Apply the worst load for some seconds.

    Args:
        repository: The models.
        seconds: Duration.
        leave: Whether half of the clients with large requests leave without waiting for the response.

    Returns:
        The memory of both in MiB, idle and at its peak, and how the requests ended.
    """
    peaks, idle = {"server": Peak(), "gateway": Peak()}, {"server": Peak(), "gateway": Peak()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, address = stack.enter_context(serving(repository, folder / "server.log"))
        gateway = stack.enter_context(Gateway([address], {"WORKERS": 2}))
        keys = [gateway.endpoint.key, *(gateway.secrets("add", gateway.keys, f"key-{n}").strip() for n in range(8))]
        gateway.command("reload")
        wait_until_ready(gateway)
        time.sleep(3)
        roots = {"server": (server.pid, f"jpeg_serve_{server.pid}_"), "gateway": (gateway.process.pid, "")}

        def sample(into: dict[str, Peak]) -> None:
            for name, (pid, segments) in roots.items():
                into[name].see(*memory(pid, segments))

        sample(idle)
        load = Load()
        endpoints = [replace(gateway.endpoint, key=key) for key in keys]
        for number, endpoint in enumerate(endpoints):
            leaves = leave and number % 2 == 1
            for name, length, greedy, clients in (
                ("large", LONGEST, True, 2),
                ("medium", LONGEST_NOT_LARGE, False, 4),
                ("short", LONGEST_SHORT, False, 30),
            ):
                away = leaves and name == "large"
                body = http_request(length, greedy=greedy)
                load.add(f"http {name}", clients, partial(over_http, endpoint, *body, leave=away))
                if name != "short":
                    message = grpc_request(length, greedy=greedy)
                    load.add(f"grpc {name}", clients, partial(over_grpc, endpoint, message, leave=away))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sample(peaks)
            time.sleep(0.02)
        load.stop()
        answers = gateway.classify(tiny_jpeg()).status
        server_log = (folder / "server.log").read_text()
    (model,) = set(re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    return {
        "machine": model,
        "idle_mib": {name: peak.mib() for name, peak in idle.items()},
        "peak_mib": {name: peak.mib() for name, peak in peaks.items()},
        "outcomes": dict(sorted(load.outcomes.items())),
        "status_afterwards": answers,
        "servers_replaced": server_log.count("is replaced"),
    }


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-repository", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--leave", action="store_true", help="half of the large requests are not waited for")
    options = parser.parse_args()
    print(json.dumps(measure(options.model_repository, options.seconds, leave=options.leave), indent=2))


if __name__ == "__main__":
    main()
