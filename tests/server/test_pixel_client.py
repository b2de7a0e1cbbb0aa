"""Those who send pixels: the same logits and labels over messages and shared memory, and nothing left of the memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from conftest import serve
from jpeg_client import Client, InvalidArgument, JpegClientError, PixelClient, ServerTimeout, SharedMemoryError
from jpeg_client import shared_memory as regions
from jpeg_contract import model_config
from jpeg_contract.folders import SHARED_MEMORY
from jpeg_contract.gpus import find_gpus
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import Preprocessor
from jpeg_serve import TritonServer
from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.ports import LOOPBACK, free_port
from jpeg_serve.state import find_at
from numpy.typing import NDArray
from support import edit, photo
from tritonclient.utils import InferenceServerException

KEY = "a-key-of-clients-of-this-machine"
NAMES = ("coffee", "chelsea", "china", "grace_hopper")


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text(f"{KEY}\n")
    return path


@pytest.fixture(scope="module")
def shared(built_repository: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that opens shared memory with a key of its own."""
    log = tmp_path_factory.mktemp("shared") / "triton.log"
    yield from serve(built_repository, log, shared_memory_key_file=key_file)


@pytest.fixture
def url(shared: TritonServer) -> str:
    return f"grpc://{shared.grpc_address}"


@pytest.fixture(scope="module")
def pixels(built_repository: Path) -> NDArray[np.uint8]:
    """(4, 224, 224, 3): the photos of NAMES, as `preprocess` makes them."""
    parameters = model_config.parameters(model_config.read(built_repository / "preprocess" / "config.pbtxt"))
    with closing(Preprocessor(PreprocessSettings.from_parameters(parameters))) as preprocess:
        found, errors = preprocess([photo(name) for name in NAMES])
    assert errors == [None] * len(NAMES)
    return found


def over_memory(url: str, **options: Any) -> PixelClient:
    return PixelClient(url, shared_memory="system", shared_memory_key=KEY, **options)


def files(url: str) -> set[str]:
    """The regions of /dev/shm that were made for a server."""
    return {path.name for path in SHARED_MEMORY.glob(f"{regions.PREFIX}{url.rpartition(':')[2]}-*")}


@contextmanager
def memory_of(server: TritonServer) -> Iterator[Any]:
    """A function that lists the names of the regions that a server knows."""
    running = find_at(server.http_address)
    assert running is not None
    key, value = running.keys["shared-memory"]
    headers = {f"triton-grpc-protocol-{key}": value}
    with closing(tritonclient.grpc.InferenceServerClient(server.grpc_address)) as triton:

        def registered() -> set[str]:
            status = triton.get_system_shared_memory_status(headers=headers, as_json=True)
            return set(status.get("regions", {}))

        yield registered


def test_labels_are_those_of_the_ensemble_either_way(url: str, pixels: NDArray[np.uint8]) -> None:
    with Client(url) as client:
        wanted = client.classify([photo(name) for name in NAMES], k=3)
    with PixelClient(url) as messages, over_memory(url) as memory:
        assert messages.classify(pixels, k=3) == wanted
        assert memory.classify(pixels, k=3) == wanted
        assert len(memory.classify(pixels[:1])[0].labels) == 5
        with pytest.raises(JpegClientError) as error:
            memory.classify(pixels, k=1001)
    assert error.value.reason == "invalid_k"


def test_more_images_than_a_request_takes_are_split(url: str, pixels: NDArray[np.uint8]) -> None:
    many = np.concatenate([pixels] * 33)  # 132, and a request takes 64
    with PixelClient(url) as messages, over_memory(url) as memory:
        found = memory.logits(many)
        assert found.shape == (132, 1000)
        assert np.array_equal(found, messages.logits(many))
        # Not contiguous: every second image, mirrored.
        assert np.array_equal(memory.logits(many[::2, :, ::-1]), messages.logits(many[::2, :, ::-1]))


def test_threads_get_the_logits_of_their_own_pixels(url: str, pixels: NDArray[np.uint8]) -> None:
    with over_memory(url) as memory:
        alone = [memory.logits(pixels[at : at + 1])[0].argmax() for at in range(len(pixels))]

        def send(number: int) -> bool:
            size = 1 + number % 3
            batch = np.stack([pixels[(number + at) % len(pixels)] for at in range(size)])
            best = memory.logits(batch).argmax(axis=1).tolist()
            return list(best) == [alone[(number + at) % len(pixels)] for at in range(size)]

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(send, range(60)))
        assert len(files(url)) <= 6 + 2
    assert files(url) == set()


def test_nothing_is_left_in_the_machine_or_the_server(
    shared: TritonServer, url: str, pixels: NDArray[np.uint8]
) -> None:
    with memory_of(shared) as registered:
        with over_memory(url) as memory:
            memory.logits(pixels[:1])
            (small,) = files(url)
            assert registered() == {small}
            assert (SHARED_MEMORY / small).stat().st_mode & 0o777 == 0o600
            memory.logits(pixels)  # a larger region takes its place
            (large,) = files(url)
            assert registered() == {large} != {small}
            memory.logits(pixels[:2])
            assert files(url) == {large}
        assert (files(url), registered()) == (set(), set())


CRASHING = """
import sys
import numpy as np
from jpeg_client import PixelClient
client = PixelClient(sys.argv[1], shared_memory="system", shared_memory_key=sys.argv[2])
client.logits(np.zeros((2, 224, 224, 3), np.uint8))
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_client_leaves_is_removed_by_the_next_and_a_living_one_keeps_its_own(
    shared: TritonServer, url: str, pixels: NDArray[np.uint8]
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CRASHING), url, KEY]
    with over_memory(url) as living, memory_of(shared) as registered:
        wanted = living.logits(pixels)
        own = files(url)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crashing:
            assert crashing.stdout is not None
            assert crashing.stdout.readline() == "ready\n"
            (left,) = files(url) - own
            with over_memory(url) as other:
                other.logits(pixels[:1])
                assert left in files(url)  # its owner lives
            crashing.send_signal(signal.SIGKILL)
            crashing.wait(timeout=10)
        assert registered() == {*own, left}
        with over_memory(url) as following:
            following.logits(pixels[:1])
            assert left not in registered() | files(url)
            assert own < registered()
        assert np.array_equal(living.logits(pixels), wanted)
        assert files(url) == own == registered()


def test_regions_of_servers_that_are_gone_are_removed(url: str, pixels: NDArray[np.uint8]) -> None:
    gone = SHARED_MEMORY / f"{regions.PREFIX}{free_port(LOOPBACK)}-0123456789abcdef"
    gone.touch()
    with over_memory(url) as memory:
        memory.logits(pixels[:1])
    assert not gone.exists()


def test_a_region_that_the_server_may_still_read_is_not_used_again(
    shared: TritonServer, url: str, pixels: NDArray[np.uint8]
) -> None:
    many = np.concatenate([pixels] * 16)
    with over_memory(url) as memory:
        wanted = memory.logits(many)
        (region,) = files(url)
        with pytest.raises(ServerTimeout):
            memory.logits(many, timeout_s=0.02)
        assert np.array_equal(memory.logits(many), wanted)
        assert files(url) - {region}
        memory.logits(many)
    # A server that still reads it keeps it until a later client comes.
    with memory_of(shared) as registered, over_memory(url) as later:
        later.logits(pixels[:1])
        assert len(files(url)) == 1
        assert registered() == files(url)


def test_a_client_goes_on_with_the_server_that_follows(
    built_repository: Path, key_file: Path, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    port = free_port(LOOPBACK)
    options = {"grpc_port": port, "shared_memory_key_file": key_file}
    with over_memory(f"grpc://127.0.0.1:{port}") as memory:
        for first in serve(built_repository, tmp_path / "first.log", **options):
            wanted = memory.logits(pixels)
            os.kill(first.pid, signal.SIGKILL)
            with pytest.raises(JpegClientError):
                memory.logits(pixels, timeout_s=0.5)
        for _ in serve(built_repository, tmp_path / "second.log", **options):
            assert np.array_equal(memory.logits(pixels), wanted)


def test_a_classifier_that_was_swapped_is_found_again(url: str, pixels: NDArray[np.uint8]) -> None:
    with over_memory(url) as memory:
        wanted = memory.logits(pixels)
        assert memory._found is not None
        memory._found = replace(memory._found, classifier="classifier_of_before")
        assert np.array_equal(memory.logits(pixels), wanted)


@pytest.mark.parametrize("key", [None, "another-key-of-32-characters-or-so"])
def test_shared_memory_needs_its_key(url: str, pixels: NDArray[np.uint8], key: str | None) -> None:
    with (
        PixelClient(url, shared_memory="system", shared_memory_key=key) as memory,
        pytest.raises(SharedMemoryError) as error,
    ):
        memory.logits(pixels)
    assert error.value.reason == "shared_memory_refused"
    assert KEY not in str(error.value)
    assert files(url) == set()


def test_without_a_key_file_the_key_of_management_opens_it(server: TritonServer, pixels: NDArray[np.uint8]) -> None:
    with (
        PixelClient(f"grpc://{server.grpc_address}", shared_memory="system", shared_memory_key=KEY) as memory,
        pytest.raises(SharedMemoryError) as error,
    ):
        memory.logits(pixels)
    assert error.value.reason == "shared_memory_refused"


def test_the_key_of_clients_opens_shared_memory_only(shared: TritonServer) -> None:
    running = find_at(shared.http_address)
    assert running is not None
    assert running.keys["shared-memory"] == ["shared-memory-key", KEY]
    assert running.keys["model-repository"] == running.keys["trace"] == running.keys["logging"]
    assert KEY not in running.keys["model-repository"]
    names = ("triton-grpc-protocol-shared-memory-key", "triton-grpc-protocol-admin-key")
    with closing(tritonclient.grpc.InferenceServerClient(shared.grpc_address)) as triton:
        for call in (triton.get_model_repository_index, triton.get_trace_settings, triton.get_log_settings):
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                call(headers=dict.fromkeys(names, KEY))


@pytest.mark.parametrize("text", [None, "", "short", "with spaces and more than 16", "colon:and=equals-0123456789"])
def test_a_file_without_a_key_is_refused(built_repository: Path, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PrerequisiteError) as error:
        next(iter(serve(built_repository, tmp_path / "triton.log", shared_memory_key_file=file)))
    assert error.value.reason == "invalid_key_file"
    assert not text or text not in str(error.value)


def test_a_full_folder_is_an_error_and_leaves_nothing() -> None:
    port = free_port(LOOPBACK)
    with pytest.raises(SharedMemoryError) as error:
        regions.SystemRegion(port, 2**60)
    assert error.value.reason in ("shared_memory_full", "shared_memory_unavailable")
    assert list(SHARED_MEMORY.glob(f"{regions.PREFIX}{port}-*")) == []


def test_memory_of_a_gpu_says_what_is_missing(url: str, pixels: NDArray[np.uint8]) -> None:
    if find_gpus().found:
        pytest.skip("here is a GPU: tests/gpu/test_cuda_memory.py uses its memory")
    with (
        PixelClient(url, shared_memory="cuda", shared_memory_key=KEY) as memory,
        pytest.raises(SharedMemoryError) as error,
    ):
        memory.logits(pixels)
    assert error.value.reason == "shared_memory_unavailable"
    assert files(url) == set()


@pytest.mark.parametrize(
    ("address", "options", "reason"),
    [
        ("http://127.0.0.1:8000", {}, "grpc_required"),
        ("grpc://192.0.2.1:8001", {"shared_memory": "system"}, "not_this_machine"),
        ("grpc://127.0.0.1:8001", {"shared_memory": "disk"}, "invalid_shared_memory"),
    ],
)
def test_calls_that_make_no_sense(address: str, options: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        PixelClient(address, **options)
    assert error.value.reason == reason


def test_pixels_of_another_shape_or_type_are_refused(url: str, pixels: NDArray[np.uint8]) -> None:
    with over_memory(url) as memory:
        for wrong in (pixels[0], pixels[:0], pixels[:, :100], pixels.astype(np.float32), [1, 2], pixels.tobytes()):
            with pytest.raises(InvalidArgument) as error:
                memory.logits(wrong)
            assert error.value.reason == "invalid_pixels"
    assert files(url) == set()


def test_labels_are_made_within_the_batch_limit_of_the_ensemble(
    repository: Path, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    """A classifier may take larger batches than the steps around it."""
    for model in ("jpeg_classifier", "preprocess", "postprocess"):
        edit(repository / model / "config.pbtxt", "max_batch_size: 64", "max_batch_size: 3")
    for server in serve(repository, tmp_path / "triton.log"):
        with PixelClient(f"grpc://{server.grpc_address}") as client:
            assert [each.labels[0] for each in client.classify(pixels)] == [
                "espresso",
                "Egyptian cat",
                "palace",
                "bow tie",
            ]
