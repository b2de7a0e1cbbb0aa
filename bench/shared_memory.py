"""Measures what shared memory saves between a client and a server of one machine.

The same requests travel in gRPC messages, through the machine's memory, and through that of a GPU where there is one:
encoded JPEGs to the ensemble, by tritonclient, and pixels to the classifier, by `PixelClient`. The ways take turns
within each round, and a ratio compares the ways of one round.
"""

from __future__ import annotations

import json
import secrets
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import stamina
import tritonclient.grpc
from jpeg_client import PixelClient
from jpeg_client.shared_memory import Kind
from jpeg_contract.command_line import FAILED, OK, make_app, note, run_app
from jpeg_contract.errors import ReasonedError
from jpeg_contract.gpus import find_gpus
from jpeg_contract.keys import GRPC_KEY_HEADER, SHARED_MEMORY_KEY
from jpeg_contract.resources import PHOTOS
from jpeg_contract.tensors import ENSEMBLE, IMAGE
from jpeg_serve import ServerOptions, TritonServer
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
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
        way: message; system or cuda memory; or cuda memory from an array on the GPU.
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
    with tempfile.TemporaryDirectory() as folder:
        key, key_file = secrets.token_hex(16), Path(folder) / "key"
        key_file.write_text(key)
        options = ServerOptions(
            model_repository=model_repository, http_port=0, grpc_port=0, metrics_port=0, shared_memory_key_file=key_file
        )
        with Path("/dev/null").open("wb") as log, TritonServer(options, log=log) as server:
            link = Link(server.grpc_address, key)
            measured = [each for load in _loads(classifier, link) for each in _measure(load, link, seconds)]
    print(f"{'load':<28} {'threads':>7} {'MB':>6}  {'way':<10} {'images/s':>9}  ratio")
    for each in measured:
        label = f"{each.load}, {each.images} a request"
        print(
            f"{label:<28} {each.threads:>7} {each.megabytes:>6.2f}  {each.way:<10} {each.images_per_second:>9,.0f}"
            f"  {each.ratio:.2f}"
        )
    if results is not None:
        results.write_text(json.dumps([asdict(each) for each in measured], indent=2) + "\n")
    return OK


@dataclass(frozen=True)
class Link:
    """A server's gRPC address, and the key of its shared memory."""

    address: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What opens its shared memory to a request of tritonclient."""
        return {f"{GRPC_KEY_HEADER}{SHARED_MEMORY_KEY}": self.key}


Sender = Callable[[Any, Link], AbstractContextManager[Callable[[], object]]]
"""Opens what sends some data again and again."""


@dataclass(frozen=True)
class Load:
    """A request that is sent again and again.

    Attributes:
        name: What is sent.
        data: (N, 1) array of encoded JPEGs, or (N, H, W, 3) pixels.
        threads: Requests at a time.
        ways: How it may be sent, messages first: each opens a sender.
    """

    name: str
    data: np.ndarray[Any, Any]
    threads: int
    ways: Mapping[str, Sender]

    @property
    def size(self) -> int:
        """Bytes of the serialised tensor."""
        return _serialised_bytes(self.data) if self.data.dtype == object else self.data.nbytes


def _loads(classifier: str, link: Link) -> Iterator[Load]:
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]
    with closing(tritonclient.grpc.InferenceServerClient(link.address)) as client:
        config = client.get_model_config(classifier, as_json=True)["config"]
    shape = [int(each) for each in config["input"][0]["dims"]]
    random = np.random.default_rng(0)
    pixel_ways: dict[str, Sender] = {"message": partial(_pixels, None), "system": partial(_pixels, "system")}
    if find_gpus().found:
        pixel_ways |= {"cuda": partial(_pixels, "cuda"), "GPU to GPU": _pixels_on_gpu}
    for images, threads in ((1, 1), (32, 1), (32, 4)):
        encoded = np.array([photos[number % len(photos)] for number in range(images)], dtype=object).reshape(-1, 1)
        yield Load("JPEGs", encoded, threads, {"message": _jpegs, "system": _jpegs_in_memory})
        yield Load("pixels", random.integers(0, 256, (images, *shape), np.uint8), threads, pixel_ways)


def _measure(load: Load, link: Link, seconds: float) -> Iterator[Measured]:
    rates: dict[str, list[float]] = {way: [] for way in load.ways}
    for _ in range(ROUNDS):
        for way, open_sender in load.ways.items():
            rates[way].append(_rate(load, link, open_sender, seconds))
    note(COMMAND, f"{load.name}, {len(load.data)} a request, {load.threads} threads: done")
    for way, found in rates.items():
        ratios = [one / other for one, other in zip(found, rates["message"], strict=True)]
        yield Measured(
            load.name,
            len(load.data),
            load.threads,
            round(load.size / 1e6, 3),
            way,
            round(statistics.median(found), 3),
            round(statistics.median(ratios), 3),
        )


def _rate(load: Load, link: Link, open_sender: Sender, seconds: float) -> float:
    """Return the images per second of `threads` senders."""
    start = threading.Barrier(load.threads)

    def send() -> float:
        with open_sender(load.data, link) as sender:
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
def _pixels(kind: Kind | None, data: Any, link: Link) -> Iterator[Callable[[], object]]:
    with PixelClient(f"grpc://{link.address}", shared_memory=kind, shared_memory_key=link.key) as client:
        yield lambda: client.logits(data)


@contextmanager
def _pixels_on_gpu(data: Any, link: Link) -> Iterator[Callable[[], object]]:
    import cupy

    with _pixels("cuda", cupy.asarray(data), link) as sender:
        yield sender


@contextmanager
def _jpegs(data: Any, link: Link) -> Iterator[Callable[[], object]]:
    with closing(tritonclient.grpc.InferenceServerClient(link.address)) as client:

        def send() -> object:
            tensor = tritonclient.grpc.InferInput(IMAGE, list(data.shape), "BYTES")
            tensor.set_data_from_numpy(data)
            return client.infer(ENSEMBLE, [tensor])

        yield send


@contextmanager
def _jpegs_in_memory(data: Any, link: Link) -> Iterator[Callable[[], object]]:
    size = _serialised_bytes(data)
    name = f"bench-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        client = stack.enter_context(closing(tritonclient.grpc.InferenceServerClient(link.address)))
        region = system_memory.create_shared_memory_region(name, f"/{name}", size)
        stack.callback(system_memory.destroy_shared_memory_region, region)
        client.register_system_shared_memory(name, f"/{name}", size, headers=link.headers)
        stack.callback(_unregister, client, name, link)

        def send() -> object:
            # As a client does that has new images each time.
            system_memory.set_shared_memory_region(region, [serialize_byte_tensor(data)])
            tensor = tritonclient.grpc.InferInput(IMAGE, list(data.shape), "BYTES")
            tensor.set_shared_memory(name, size)
            return client.infer(ENSEMBLE, [tensor])

        yield send


def _serialised_bytes(data: Any) -> int:
    """Return the length of a tensor of BYTES, each element behind its own length."""
    return sum(4 + len(each) for each in data.ravel())


def _unregister(client: Any, name: str, link: Link) -> None:
    """Let the server forget a region, which it may hold for some moments after the last response."""
    for attempt in stamina.retry_context(on=InferenceServerException, timeout=10, wait_initial=0.01):
        with attempt:
            client.unregister_system_shared_memory(name, headers=link.headers)


if __name__ == "__main__":
    raise SystemExit(main())
