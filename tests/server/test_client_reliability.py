"""One client, many threads, and servers that die, stop, stall or are full: every answer is right, or a clear error."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
import pytest
from client_support import streamed
from conftest import serve
from jpeg_client import (
    Classified,
    Client,
    InvalidResponse,
    JpegClientError,
    Prediction,
    RequestLost,
    ServerTimeout,
    ServerUnavailable,
)
from jpeg_serve import ServerOptions, TritonServer
from numpy.typing import NDArray
from PIL import Image
from scrape import grown, sums
from support import edit, encode, photo

THREADS = 32
# Sums in another order, as in another batch, differ by less; the images' own scores differ by more.
TOLERANCE = 1e-4

protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


@pytest.fixture(scope="module")
def small_server(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    yield from serve(small_repository, tmp_path_factory.mktemp("server") / "triton.log")


def address_of(server: TritonServer, protocol: str) -> str:
    return f"grpc://{server.grpc_address}" if protocol == "grpc" else f"http://{server.http_address}"


def images_with_identity(count: int) -> list[bytes]:
    """Images in one colour each, so that every image has its own scores."""
    colours = np.random.default_rng(3).integers(0, 256, (count, 3))
    return [encode(Image.new("RGB", (64, 64), tuple(colour.tolist()))) for colour in colours]


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return images_with_identity(THREADS)


@pytest.fixture(scope="module")
def expected(small_server: TritonServer, images: list[bytes]) -> list[Prediction]:
    """The answer of each image, asked alone."""
    with Client(address_of(small_server, "grpc")) as client:
        found = [client.classify([image], k=3)[0] for image in images]
    rows = np.array([by_class(prediction) for prediction in found])
    distances = np.abs(rows[:, None] - rows[None]).max(axis=2) + np.eye(len(rows))
    assert distances.min() > 2 * TOLERANCE, "two images have the same answer: the test would not see them mixed up"
    return found


def by_class(prediction: Prediction) -> NDArray[np.float64]:
    """The scores in the order of the classes."""
    assert prediction.error is None
    scores = np.empty(len(prediction.scores))
    scores[list(prediction.indices)] = prediction.scores
    return scores


def is_answer(found: Prediction, expected: Prediction) -> bool:
    return bool(np.abs(by_class(found) - by_class(expected)).max() < TOLERANCE)


def in_threads(
    count: int, work: Callable[[int], None], *, seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> list[BaseException]:
    """Run work(0), work(1), ... in a thread each; return what they raised. A thread that does not end is a failure.

    Args:
        count: Number of threads.
        work: Gets the number of its thread.
        seconds: Time limit for the threads.
        meanwhile: Runs in this thread: a server ends with the thread that started it.
    """
    raised: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # shown by the test
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    meanwhile()
    limit = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, limit - time.monotonic()))
    hanging = sum(thread.is_alive() for thread in threads)
    assert not hanging, f"{hanging} of {count} threads hang; the others raised {raised}"
    return raised


@protocols
@pytest.mark.timeout(120)
def test_threads_share_a_client(
    small_server: TritonServer, protocol: str, images: list[bytes], expected: list[Prediction]
) -> None:
    wrong: list[int] = []
    with Client(address_of(small_server, protocol), timeout_s=20) as client:

        def work(number: int) -> None:
            for _ in range(20):
                (found,) = client.classify([images[number]], k=3)
                if not is_answer(found, expected[number]):
                    wrong.append(number)

        assert in_threads(THREADS, work, seconds=60) == []
    assert wrong == []


def test_ipv6(small_repository: Path, tmp_path: Path, images: list[bytes], expected: list[Prediction]) -> None:
    for server in serve(small_repository, tmp_path / "triton.log", address="::1"):
        ports = {"grpc": server.options.grpc_port, "http": server.options.http_port}
        for protocol, port in ports.items():
            with Client(f"{protocol}://[::1]:{port}") as client:
                (found,) = client.classify([images[0]], k=3)
            assert is_answer(found, expected[0])


# --- Servers that stall ---


@protocols
def test_a_stopped_server_ends_a_call_with_the_timeout(
    small_repository: Path, tmp_path: Path, protocol: str, images: list[bytes]
) -> None:
    for server in serve(small_repository, tmp_path / "triton.log"):
        with (
            Client(address_of(server, protocol), timeout_s=2) as connected,
            Client(address_of(server, protocol), timeout_s=2) as new,
        ):
            connected.classify([images[0]])
            os.killpg(server.pid, signal.SIGSTOP)
            try:

                def work(number: int) -> None:
                    begun = time.monotonic()
                    with pytest.raises(ServerTimeout) as late:
                        (connected if number % 2 else new).classify([images[number]])
                    assert 1.9 < time.monotonic() - begun < 3
                    assert late.value.reason == "server_timeout"

                assert in_threads(8, work, seconds=20) == []
            finally:
                server.kill()


# --- Servers that die ---


class RestartedServer:
    """A server that is started again on the same ports.

    Args:
        repository: The models to serve.
        log: Receives everything that tritonserver prints.
    """

    def __init__(self, repository: Path, log: BinaryIO) -> None:
        self._repository, self._log = repository, log
        self.server = self._start({"http_port": 0, "grpc_port": 0, "metrics_port": 0})
        used = self.server.options
        self._ports = {
            "http_port": used.http_port,
            "grpc_port": used.grpc_port,
            "metrics_port": used.metrics_port,
        }

    def _start(self, ports: dict[str, int]) -> TritonServer:
        server = TritonServer(ServerOptions(self._repository, **ports), log=self._log)  # type: ignore[arg-type]
        server.__enter__()
        return server

    def restart(self, *, gently: bool = False) -> None:
        """Kill or gently stop the server with its workers, and start it again."""
        self.server.stop() if gently else self.stop()
        self.server = self._start(self._ports)

    def restart_when_dead(self, over: threading.Event) -> None:
        """Start the server again whenever it has died, until it is over."""
        while not over.wait(0.1):
            if not psutil.pid_exists(pid := self.server.pid) or psutil.Process(pid).status() == "zombie":
                self.restart()

    def stop(self) -> None:
        self.server.kill()
        self.server.clean_up()


@contextmanager
def restarted(repository: Path, log: Path) -> Iterator[RestartedServer]:
    with log.open("wb") as sink:
        running = RestartedServer(repository, sink)
        try:
            yield running
        finally:
            running.stop()


@protocols
@pytest.mark.timeout(200)
@pytest.mark.parametrize("gently", [False, True], ids=["killed", "stopped"])
def test_no_request_fails_while_a_server_ends_and_is_started_again(
    small_repository: Path, tmp_path: Path, protocol: str, images: list[bytes], expected: list[Prediction], gently: bool
) -> None:
    over = threading.Event()
    answers, wrong = [0] * 8, []
    with (
        restarted(small_repository, tmp_path / "triton.log") as running,
        Client(address_of(running.server, protocol), timeout_s=60) as client,
    ):

        def work(number: int) -> None:
            while not over.is_set():
                (found,) = client.classify([images[number]], k=3)
                answers[number] += 1
                if not is_answer(found, expected[number]):
                    wrong.append(number)

        def wait_for_an_answer_in_each_thread() -> None:
            before, limit = list(answers), time.monotonic() + 30
            while any(now == then for now, then in zip(answers, before, strict=True)) and time.monotonic() < limit:
                time.sleep(0.05)

        def disturb() -> None:
            try:
                for _ in range(2):
                    # A request that is lost with both servers is not repeated again: no thread holds one of before.
                    wait_for_an_answer_in_each_thread()
                    running.restart(gently=gently)
                wait_for_an_answer_in_each_thread()
            finally:
                over.set()

        assert in_threads(8, work, seconds=70, meanwhile=disturb) == []
    assert wrong == []
    assert min(answers) >= 3


FAULTY = '''

# --- A fault of this test ---

import os
import time

from jpeg_preprocess import requests as _requests

_execute, _correct, _seen = TritonPythonModel.execute, _requests.checksum, {}


def checksum(image):
    """Be wrong twice about each image that asks for it."""
    if b"wrong twice" in image and _seen.setdefault(image, 0) < 2:
        _seen[image] += 1
        return _correct(b"another image")
    return _correct(image)


def execute(self, requests):
    for request in requests:
        data = pb_utils.get_input_tensor_by_name(request, IMAGE).as_numpy().ravel().tolist()[0]
        with open(__file__ + ".seen", "ab") as seen:
            seen.write(data[-24:] + b"\\n")
        if b"kill the server" in data:
            os.kill(os.getppid(), 9)
            time.sleep(5)
        if b"kill the worker" in data:
            os._exit(1)
        if b"slow" in data:
            time.sleep(1.5)
    return _execute(self, requests)


TritonPythonModel.execute = execute
_requests.checksum = checksum
'''


def faulty_repository(small_repository: Path, folder: Path) -> Path:
    """A copy of the repository whose `preprocess` has the faults that an image asks for with its last bytes."""
    repository = folder / "model_repository"
    shutil.copytree(small_repository, repository)
    # It counts in its process, so that there must be one.
    edit(repository / "preprocess" / "config.pbtxt", "count: 2", "count: 1")
    with (repository / "preprocess" / "1" / "model.py").open("a") as model:
        model.write(FAULTY)
    return repository


def asking(image: bytes, fault: str) -> bytes:
    """An image with a text behind its end, where decoders do not look."""
    return image + fault.encode().rjust(24)


def executions(repository: Path, fault: str) -> int:
    """How often `preprocess` got an image that asks for a fault."""
    return (repository / "preprocess" / "1" / "model.py.seen").read_bytes().count(fault.encode())


@protocols
@pytest.mark.timeout(120)
def test_a_request_that_kills_its_server_kills_at_most_two(
    small_repository: Path, tmp_path: Path, protocol: str, images: list[bytes]
) -> None:
    repository = faulty_repository(small_repository, tmp_path)
    over = threading.Event()
    with (
        restarted(repository, tmp_path / "triton.log") as running,
        Client(address_of(running.server, protocol), timeout_s=60) as client,
    ):
        client.classify([images[0]])

        def work(_: int) -> None:
            try:
                with pytest.raises(RequestLost) as lost:
                    client.classify([asking(images[0], "kill the server")])
                assert lost.value.reason == "request_lost"
            finally:
                over.set()

        assert in_threads(1, work, seconds=10, meanwhile=lambda: running.restart_when_dead(over)) == []
    assert executions(repository, "kill the server") == 2


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "protocol"), [("sync", "http"), ("async", "grpc")])
def test_a_stream_loses_nothing_and_an_image_that_kills_its_server_costs_no_other(
    small_repository: Path, tmp_path: Path, kind: str, protocol: str, images: list[bytes], expected: list[Prediction]
) -> None:
    """The server is killed by an image in the middle of a stream, and once more by the same image alone."""
    repository = faulty_repository(small_repository, tmp_path)
    sent = [*images, asking(images[0], "kill the server"), *images]
    over = threading.Event()
    results: list[Classified] = []
    with restarted(repository, tmp_path / "triton.log") as running:

        def work(_: int) -> None:
            try:
                results.extend(
                    streamed(kind, address_of(running.server, protocol), sent, k=3, batch_size=8, timeout_s=60)
                )
            finally:
                over.set()

        assert in_threads(1, work, seconds=10, meanwhile=lambda: running.restart_when_dead(over)) == []
    assert [each.index for each in results] == list(range(len(sent)))
    for each, answer in zip(results, [*expected, None, *expected], strict=True):
        if answer is None:
            assert each.prediction.reason == "request_lost"
        else:
            assert is_answer(each.prediction, answer), each
    assert executions(repository, "kill the server") == 2


@pytest.fixture(scope="module")
def faulty(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, Path]]:
    folder = tmp_path_factory.mktemp("faulty")
    repository = faulty_repository(small_repository, folder)
    for server in serve(repository, folder / "triton.log"):
        yield server, repository


# --- Answers belong to their images ---


@protocols
def test_an_answer_with_a_wrong_checksum_is_never_returned(
    faulty: tuple[TritonServer, Path], protocol: str, images: list[bytes], expected: list[Prediction]
) -> None:
    wrong = asking(images[1], f"wrong twice {protocol}")
    url = address_of(faulty[0], protocol)
    with Client(url, retry=False) as client, pytest.raises(InvalidResponse) as refused:
        client.classify([images[0], wrong])
    assert refused.value.reason == "wrong_checksum"
    # The second attempt is wrong, the third is not.
    with Client(url, timeout_s=30) as client:
        first, second = client.classify([images[0], wrong], k=3)
    assert is_answer(first, expected[0])
    assert is_answer(second, expected[1])
    assert executions(faulty[1], f"wrong twice {protocol}") == 0  # only first images are listed


@pytest.fixture(scope="module")
def without_checksums(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("without_checksums")
    repository = folder / "model_repository"
    shutil.copytree(small_repository, repository)
    config = repository / "jpeg_classifier" / "config.pbtxt"
    edit(config, 'output {\n  name: "CHECKSUM"\n  data_type: TYPE_UINT32\n  dims: [1]\n}\n', "")
    edit(config, '    output_map {\n      key: "CHECKSUM"\n      value: "CHECKSUM"\n    }\n', "")
    yield from serve(repository, folder / "triton.log")


@protocols
def test_a_server_without_checksums_is_served(
    without_checksums: TritonServer, protocol: str, images: list[bytes], expected: list[Prediction]
) -> None:
    with Client(address_of(without_checksums, protocol)) as client:
        for found, wanted in zip(client.classify(images, k=3), expected, strict=True):
            assert is_answer(found, wanted)


@protocols
def test_a_model_with_other_outputs_is_not_retried(faulty: tuple[TritonServer, Path], protocol: str) -> None:
    begun = time.monotonic()
    with (
        Client(address_of(faulty[0], protocol), model="preprocess") as client,
        pytest.raises(JpegClientError) as refused,
    ):
        client.classify([photo("coffee")])
    assert refused.value.reason == "unexpected_response"
    assert time.monotonic() - begun < 5


# --- Deadlines ---


@protocols
def test_work_that_nobody_waits_for_is_dropped(
    faulty: tuple[TritonServer, Path], protocol: str, images: list[bytes], expected: list[Prediction]
) -> None:
    server, repository = faulty
    url = address_of(server, protocol)
    before = sums(server, "model", "reason")
    with Client(url, timeout_s=20) as patient, Client(url, timeout_s=0.5, send_deadline=True) as hasty:
        slow, late = (
            asking(image, f"{text} {protocol}") for image, text in zip(images, ("slow", "late"), strict=False)
        )

        def work(number: int) -> None:
            if number == 0:
                (found,) = patient.classify([slow], k=3)
                assert is_answer(found, expected[0])
                return
            time.sleep(0.4)  # the worker is busy for another second
            with pytest.raises(ServerTimeout):
                hasty.classify([late])

        assert in_threads(2, work, seconds=30) == []
        patient.classify([images[2]])  # whatever was queued before has been executed
    assert executions(repository, f"slow {protocol}") == 1
    grown(server, before, {"jpeg_requests_refused_total{preprocess,late}": 1}, "model", "reason")


# --- Full queues ---


@pytest.fixture(scope="module")
def bounded(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Four requests may wait for `preprocess`, which takes a fifth of a second for each batch."""
    folder = tmp_path_factory.mktemp("bounded")
    repository = faulty_repository(small_repository, folder)
    with (repository / "preprocess" / "1" / "model.py").open("a") as model:
        model.write("\n_faulty = execute\nTritonPythonModel.execute = lambda *all: time.sleep(0.2) or _faulty(*all)\n")
    yield from serve(repository, folder / "triton.log", max_waiting=4)


@protocols
@pytest.mark.timeout(120)
def test_a_full_queue_is_retried(
    bounded: TritonServer, protocol: str, images: list[bytes], expected: list[Prediction]
) -> None:
    reasons: list[str] = []
    with Client(address_of(bounded, protocol), retry=False) as client:

        def once(number: int) -> None:
            try:
                client.classify([images[number]])
            except ServerUnavailable as error:
                reasons.append(error.reason)

        client.classify([images[0]])
        assert in_threads(THREADS, once, seconds=30) == []
    assert set(reasons) == {"queue_full"}
    with Client(address_of(bounded, protocol), timeout_s=60) as client:

        def patient(number: int) -> None:
            (found,) = client.classify([images[number]], k=3)
            assert is_answer(found, expected[number])

        client.classify([images[0]])
        assert in_threads(THREADS, patient, seconds=70) == []


# --- A worker that dies; last, because it breaks the server ---


@protocols
def test_a_dead_worker_is_named(small_repository: Path, tmp_path: Path, protocol: str, images: list[bytes]) -> None:
    repository = faulty_repository(small_repository, tmp_path)
    for server in serve(repository, tmp_path / "triton.log"):
        with Client(address_of(server, protocol), retry=False) as client:
            client.classify([images[0]])
            with pytest.raises(RequestLost) as lost:
                client.classify([asking(images[0], "kill the worker")])
            assert lost.value.reason == "worker_died"
