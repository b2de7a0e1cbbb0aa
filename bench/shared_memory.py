"""Measures what shared memory saves between a client and a server of one machine.

The same requests travel in gRPC messages, through system shared memory, and through CUDA shared memory where a GPU is:
encoded JPEGs to the ensemble, and pixels to the classifier itself. The ways take turns within each round, and a ratio
compares the ways of one round.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
from jpeg_contract.command_line import FAILED, OK, make_app, note, run_app
from jpeg_contract.errors import ReasonedError
from jpeg_contract.resources import PHOTOS
from jpeg_contract.tensors import ENSEMBLE, IMAGE, INPUT
from jpeg_serve import ServerOptions, TritonServer
from jpeg_serve.state import find_at
from tritonclient.utils import serialize_byte_tensor
from tritonclient.utils import shared_memory as system_memory

COMMAND = "shared_memory.py"
ROUNDS = 7

app = make_app(COMMAND, "Measure what shared memory saves between a client and a server of one machine.")
app.usage = f"Usage: {COMMAND} [OPTIONS]"


@dataclass(frozen=True)
class Measured:
    """One way of one load.

    Attributes:
        load: What is sent.
        images: Per request.
        threads: Requests at a time.
        megabytes: Of a request's tensor.
        way: message, system or cuda.
        images_per_second: Median of the rounds.
        ratio: Median of its ratio to the messages of the same round.
    """

    load: str
    images: int
    threads: int
    megabytes: float
    way: str
    images_per_second: float
    ratio: float


def main() -> int:
    """Run the command and return its exit status."""
    return run_app(app, None, extra="bench", statuses={ReasonedError: FAILED})


@app.default
def measure(
    *,
    model_repository: Path = Path("model_repository"),
    classifier: str = "classifier_onnx",
    seconds: float = 1.0,
    results: Path | None = None,
) -> int:
    """Serve a repository, send the loads each way, print a table, and return the exit status.

    Args:
        model_repository: Folder of the models.
        classifier: Classifier that gets pixels.
        seconds: Time of each way in each round.
        results: JSON file for the numbers. By default none.
    """
    options = ServerOptions(model_repository=model_repository, http_port=0, grpc_port=0, metrics_port=0)
    with Path("/dev/null").open("wb") as log, TritonServer(options, log=log) as server:
        running = find_at(server.http_address)
        assert running is not None, "a server publishes its state"
        key, value = running.keys["shared-memory"]
        link = Link(server.grpc_address, {f"triton-grpc-protocol-{key}": value})
        measured = [each for load in _loads(classifier, link) for each in _measure(load, link, seconds)]
    print(f"{'load':<28} {'threads':>7} {'MB':>6}  {'way':<8} {'images/s':>9}  ratio")
    for each in measured:
        label = f"{each.load}, {each.images} a request"
        print(
            f"{label:<28} {each.threads:>7} {each.megabytes:>6.2f}  {each.way:<8} {each.images_per_second:>9,.0f}"
            f"  {each.ratio:.2f}"
        )
    if results is not None:
        results.write_text(json.dumps([asdict(each) for each in measured], indent=2) + "\n")
    return OK


@dataclass(frozen=True)
class Link:
    """A server's gRPC address, and the headers that open its shared memory."""

    address: str
    headers: dict[str, str]

    def connect(self) -> Any:
        """Return a client of its own."""
        return tritonclient.grpc.InferenceServerClient(self.address)


@dataclass(frozen=True)
class Load:
    """A request that is sent again and again.

    Attributes:
        name: What is sent.
        model: Who gets it.
        tensor: Name of the input.
        datatype: Of the input.
        data: (N, ...) array.
        threads: Requests at a time.
    """

    name: str
    model: str
    tensor: str
    datatype: str
    data: np.ndarray[Any, Any]
    threads: int

    @property
    def size(self) -> int:
        """Bytes of the serialised tensor."""
        if self.datatype == "BYTES":
            return sum(4 + len(each) for each in self.data.ravel())
        return self.data.nbytes

    def serialised(self) -> np.ndarray[Any, Any]:
        """Return the data as a region holds them."""
        return serialize_byte_tensor(self.data) if self.datatype == "BYTES" else self.data


def _loads(classifier: str, link: Link) -> Iterator[Load]:
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]
    with_client = link.connect()
    config = with_client.get_model_config(classifier, as_json=True)["config"]
    with_client.close()
    shape = [int(each) for each in config["input"][0]["dims"]]
    random = np.random.default_rng(0)
    for images, threads in ((1, 1), (32, 1), (32, 4)):
        encoded = np.array([photos[number % len(photos)] for number in range(images)], dtype=object).reshape(-1, 1)
        yield Load("JPEGs", ENSEMBLE, IMAGE, "BYTES", encoded, threads)
        pixels = random.integers(0, 256, (images, *shape), np.uint8)
        yield Load("pixels", classifier, INPUT, "UINT8", pixels, threads)


def _measure(load: Load, link: Link, seconds: float) -> Iterator[Measured]:
    ways: dict[str, Callable[[Load, Link], Any]] = {"message": _by_message, "system": _by_system_memory}
    if _has_gpu() and load.datatype != "BYTES":
        ways["cuda"] = _by_cuda_memory
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, open_sender in ways.items():
            rates[way].append(_rate(load, link, open_sender, seconds))
    note(COMMAND, f"{load.name}, {len(load.data)} a request, {load.threads} threads: done")
    for way, found in rates.items():
        ratios = [one / other for one, other in zip(found, rates["message"], strict=True)]
        yield Measured(
            load.name,
            len(load.data),
            load.threads,
            load.size / 1e6,
            way,
            statistics.median(found),
            statistics.median(ratios),
        )


def _rate(load: Load, link: Link, open_sender: Callable[[Load, Link], Any], seconds: float) -> float:
    """Return the images per second of `threads` senders."""
    start = threading.Barrier(load.threads)

    def send() -> float:
        with open_sender(load, link) as sender:
            sender()
            start.wait(timeout=60)
            begun, images = time.perf_counter(), 0
            while (elapsed := time.perf_counter() - begun) < seconds or not images:
                sender()
                images += len(load.data)
            return images / elapsed

    with ThreadPoolExecutor(load.threads) as threads:
        return sum(each.result() for each in [threads.submit(send) for _ in range(load.threads)])


@contextmanager
def _by_message(load: Load, link: Link) -> Iterator[Callable[[], object]]:
    client = link.connect()

    def send() -> object:
        tensor = tritonclient.grpc.InferInput(load.tensor, list(load.data.shape), load.datatype)
        tensor.set_data_from_numpy(load.data)
        return client.infer(load.model, [tensor])

    with ExitStack() as stack:
        stack.callback(client.close)
        yield send


@contextmanager
def _by_system_memory(load: Load, link: Link) -> Iterator[Callable[[], object]]:
    client, name = link.connect(), f"bench-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        stack.callback(client.close)
        region = system_memory.create_shared_memory_region(name, f"/{name}", load.size)
        stack.callback(system_memory.destroy_shared_memory_region, region)
        client.register_system_shared_memory(name, f"/{name}", load.size, headers=link.headers)
        stack.callback(client.unregister_system_shared_memory, name, headers=link.headers)

        def send() -> object:
            # As a client does that has new images each time.
            system_memory.set_shared_memory_region(region, [load.serialised()])
            tensor = tritonclient.grpc.InferInput(load.tensor, list(load.data.shape), load.datatype)
            tensor.set_shared_memory(name, load.size)
            return client.infer(load.model, [tensor])

        yield send


@contextmanager
def _by_cuda_memory(load: Load, link: Link) -> Iterator[Callable[[], object]]:
    from tritonclient.utils import cuda_shared_memory as cuda_memory

    client, name = link.connect(), f"bench-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        stack.callback(client.close)
        region = cuda_memory.create_shared_memory_region(name, load.size, 0)
        stack.callback(cuda_memory.destroy_shared_memory_region, region)
        handle = cuda_memory.get_raw_handle(region)
        client.register_cuda_shared_memory(name, handle, 0, load.size, headers=link.headers)
        stack.callback(client.unregister_cuda_shared_memory, name, headers=link.headers)

        def send() -> object:
            cuda_memory.set_shared_memory_region(region, [load.data])
            tensor = tritonclient.grpc.InferInput(load.tensor, list(load.data.shape), load.datatype)
            tensor.set_shared_memory(name, load.size)
            return client.infer(load.model, [tensor])

        yield send


def _has_gpu() -> bool:
    from jpeg_contract.gpus import find_gpus

    return bool(find_gpus().found)


if __name__ == "__main__":
    raise SystemExit(main())
