"""Runs a peer with the network, labels and preprocessing of this project's model repository.

install("litserve")
with start_peer("litserve", "tuned", threads=2) as peer:
    result = run_load(peer.prepare_requests(photos), Load(concurrency=32))
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.load import PreparedRequest
from jpeg_bench.photos import read_photos
from jpeg_contract.forms import ONNX
from jpeg_contract.model_config import parameters
from jpeg_contract.settings import PostprocessSettings
from jpeg_contract.tensors import POSTPROCESS, PREPROCESS
from jpeg_serve.models import read_models

from comparison.checkout import CHECKOUT, MODEL_REPOSITORY, PEER_SOURCES, PHOTOS
from comparison.peer_environment import environment_of, installed_versions, is_installed
from comparison.peer_launch import Location, PeerOptions
from comparison.peer_process import PeerProcess, free_ports
from comparison.peer_responses import classify, wait_until_correct
from comparison.peer_settings import PEERS, Configuration, Peer

_REFERENCE_TIMEOUT_S = 120.0

# Unix domain sockets limit the length of paths below the temporary folder.
_MAX_TEMPORARY_PATH = 20


@dataclass(frozen=True)
class RunningPeer:
    """A peer that is ready.

    Attributes:
        name: Its name.
        configuration: Its configuration.
        address: HOST:PORT.
        versions: Versions of the peer and of the packages that it shares with this project.
        options: Its options.
        decoder: Decoder of the preprocessing.
        ready_s: Seconds from the launch to correct responses.
        process: Its processes.
    """

    name: str
    configuration: Configuration
    address: str
    versions: dict[str, str]
    options: PeerOptions
    decoder: str
    ready_s: float
    process: PeerProcess

    def memory_mib(self) -> float:
        """Return the memory of all its processes; see `PeerProcess.memory_mib`."""
        return self.process.memory_mib()

    def prepare_requests(self, photos: Sequence[bytes]) -> list[PreparedRequest]:
        """Serialise one request per photo."""
        peer = PEERS[self.name]
        return [
            PreparedRequest("http", self.address, peer.path, peer.headers, peer.encode(photo), 1, f"photo {index}")
            for index, photo in enumerate(photos)
        ]

    def classify(self, image: bytes) -> tuple[int, dict[str, Any] | str]:
        """Send one request: see `peer_responses.classify`."""
        return classify(PEERS[self.name], self.address, image)

    def measure_broken_image(self, photos: Sequence[bytes], rounds: int = 5, concurrency: int = 24) -> dict[str, Any]:
        """Measure how a truncated JPEG affects valid ones that are sent at the same time.

        Args:
            photos: Encoded images.
            rounds: Number of rounds.
            concurrency: Concurrent requests per round; one of them is truncated.

        Returns:
            Counts of the HTTP statuses of the truncated and of the valid images (0: no response), the number of valid
            images without labels, and the most frequent error responses.
        """
        broken, valid, errors = Counter[int](), Counter[int](), Counter[str]()
        with ThreadPoolExecutor(concurrency) as pool:
            for _ in range(rounds):
                barrier = threading.Barrier(concurrency)

                def send(index: int, barrier: threading.Barrier = barrier) -> None:
                    is_broken = index == concurrency // 2
                    photo = photos[index % len(photos)]
                    barrier.wait()
                    try:
                        status, response = self.classify(photo[: len(photo) // 2] if is_broken else photo)
                    except (OSError, http.client.HTTPException):
                        status, response = 0, "no response"
                    (broken if is_broken else valid)[status] += 1
                    if status != 200:
                        errors[str(response)[:120]] += 1

                list(pool.map(send, range(concurrency)))
        return {
            "rounds": rounds,
            "valid_per_round": concurrency - 1,
            "status_of_broken": {str(status): count for status, count in sorted(broken.items())},
            "status_of_valid": {str(status): count for status, count in sorted(valid.items())},
            "valid_lost": sum(count for status, count in valid.items() if status != 200),
            "errors": [text for text, _ in errors.most_common(3)],
        }

    def to_json(self) -> dict[str, Any]:
        """Return its configuration, versions and options as JSON values."""
        return {
            "peer": self.name,
            "configuration": self.configuration,
            "versions": self.versions,
            "decoder": self.decoder,
            **asdict(self.options),
            "ready_s": self.ready_s,
        }


@contextlib.contextmanager
def start_peer(
    name: str,
    configuration: Configuration,
    threads: int,
    *,
    repository: Path = MODEL_REPOSITORY,
    cache: Path | None = None,
    options: PeerOptions | None = None,
) -> Iterator[RunningPeer]:
    """Run a peer on a free port of 127.0.0.1 until the block ends.

    Args:
        name: Name of the peer.
        configuration: Its configuration.
        threads: Number of threads that may compute.
        repository: Model repository whose ONNX file, labels and preprocessing the peer uses.
        cache: Folder of the environments; None takes .bench of the checkout.
        options: Replaces the options of the configuration.

    Raises:
        InvalidOption: There is no such peer.
        BenchError: Its environment is not installed, it does not start, or a response is wrong.
    """
    peer = find_peer(name)
    if not is_installed(name, cache):
        raise BenchError(
            f"the environment of {name} is not installed: python -m comparison peers --peer {name}",
            reason="peer_not_installed",
        )
    environment = environment_of(name, cache)
    options = options or peer.options(configuration, threads)
    short = len(tempfile.gettempdir()) <= _MAX_TEMPORARY_PATH
    folder = Path(tempfile.mkdtemp(prefix="jpeg-", dir=None if short else "/tmp"))  # noqa: S108
    try:
        port, *ports = free_ports(5)
        setup = peer_setup(options, configuration, repository, folder, port)
        launch = peer.launch(Location(PEER_SOURCES / name, environment, folder, port, tuple(ports)), options)
        variables = _variables(environment, setup, launch.variables)
        expected = _expected_responses(environment, variables)
        begin = time.monotonic()
        process = PeerProcess(launch.command, variables, folder, folder / "log")
        try:
            wait_until_correct(peer, process, f"127.0.0.1:{port}", expected, max(options.workers, 1))
            packages = {name: peer.package, "onnxruntime": "onnxruntime", "pillow": "pillow"}
            yield RunningPeer(
                name=name,
                configuration=configuration,
                address=f"127.0.0.1:{port}",
                versions=installed_versions(name, packages, cache),
                options=options,
                decoder=setup["preprocess"]["decoder"],
                ready_s=time.monotonic() - begin,
                process=process,
            )
        finally:
            process.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_broken_image(name: str, threads: int, *, repository: Path = MODEL_REPOSITORY) -> dict[str, Any]:
    """Run a peer in its tuned configuration, and call `RunningPeer.measure_broken_image`."""
    with start_peer(name, "tuned", threads, repository=repository) as peer:
        return peer.measure_broken_image(read_photos(PHOTOS).data)


def find_peer(name: str) -> Peer:
    """Return a peer by its name. Raises InvalidOption if there is none."""
    if name not in PEERS:
        raise InvalidOption(f"there is no peer {name}; the peers are {', '.join(PEERS)}", reason="unknown_peer")
    return PEERS[name]


def peer_setup(
    options: PeerOptions, configuration: Configuration, repository: Path, folder: Path, port: int
) -> dict[str, Any]:
    """Return the fields of `Setup` in peers/common/peer_pipeline.py."""
    models, problems = read_models(repository)
    for name in (PREPROCESS, POSTPROCESS, ONNX.model):
        if name not in models:
            detail = "; ".join(map(str, problems)) or "build it with jpeg-build"
            raise BenchError(f"{repository} has no model {name}: {detail}", reason="model_missing")
    postprocess, classifier = models[POSTPROCESS], models[ONNX.model]
    artefacts = [path for _, path in classifier.artefacts() if path.is_file()]
    if not artefacts:
        raise BenchError(
            f"{classifier.folder} has no ONNX file, which the peers need: build it with jpeg-build",
            reason="artefact_missing",
        )
    settings = {key: value for key, value in parameters(models[PREPROCESS].config).items() if not key.isupper()}
    if configuration == "default":
        settings["decoder"] = "full"
    top_k = parameters(postprocess.config)
    labels = postprocess.folder / PostprocessSettings.from_parameters(top_k).labels_file
    values = asdict(options)
    del values["rationale"]
    return {
        **values,
        "model": str(artefacts[-1].resolve()),
        "labels": str(labels.resolve()),
        "preprocess": settings,
        "postprocess": top_k,
        "port": port,
        "folder": str(folder),
    }


def _variables(environment: Path, setup: dict[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    # Variables that configure Python and libraries of this process do not apply to the peer.
    removed = ("PYTHON", "VIRTUAL_ENV", "OMP_", "OPENBLAS_", "MKL_", "UVICORN_", "WEB_CONCURRENCY", "RAY_", "BENTOML_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    path = [PEER_SOURCES / "common", *(CHECKOUT / room for room in ("contract", "preprocess", "postprocess"))]
    own_path = [variables["PYTHONPATH"]] if "PYTHONPATH" in variables else []
    return {
        **inherited,
        **variables,
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join([*map(str, path), *own_path]),
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "PEER": json.dumps(setup),
    }


def _expected_responses(environment: Path, variables: dict[str, str]) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the photos of the checkout with labels and scores, computed by the same code in one process."""
    files = sorted(PHOTOS.glob("*.jpg"))
    command = [str(environment / "bin" / "python"), "-m", "peer_pipeline", *map(str, files)]
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, timeout=_REFERENCE_TIMEOUT_S
    )
    if done.returncode != 0:
        detail = " ".join(done.stderr.split())[-600:]
        raise BenchError(f"the environment {environment} cannot classify: {detail}", reason="peer_failed")
    return list(zip([file.read_bytes() for file in files], json.loads(done.stdout), strict=True))
