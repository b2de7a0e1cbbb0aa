"""What else serves images, each in an environment of its own, with the same network and the same decoding as ours.

    prepare("litserve")
    with running("litserve", "tuned", threads=2) as peer:
        measured = drive(peer.asks(photos), Load(in_flight=32))

bench/peers/NAME/ has what a peer runs, peer_settings.py how it is set up, and why.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jpeg_preprocess import PostprocessSettings
from jpeg_serve.models import Model, read_models

from jpeg_bench.asks import Ask
from jpeg_bench.errors import BenchError
from jpeg_bench.peer_answers import post, wait_until_right
from jpeg_bench.peer_environment import SOURCES, environment_of, is_prepared, prepare, versions
from jpeg_bench.peer_process import PeerProcess, free_ports
from jpeg_bench.peer_settings import CONFIGURATIONS, PEERS, Configuration, Peer
from jpeg_bench.peer_starts import Choice, Place
from jpeg_bench.photos import PROJECT, read_photos

__all__ = [
    "CONFIGURATIONS",
    "PEERS",
    "Configuration",
    "RunningPeer",
    "broken_image",
    "is_prepared",
    "prepare",
    "running",
]

CLASSIFIER = "classifier_onnx"
_EXPECTED_S = 120.0


@dataclass(frozen=True)
class RunningPeer:
    """A peer that answers. address: HOST:PORT. versions: of it, and of what it shares with us. choice: its setup."""

    name: str
    configuration: Configuration
    address: str
    versions: dict[str, str]
    choice: Choice
    decoder: str
    ready_s: float
    process: PeerProcess

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self.process.pid

    def memory_mib(self) -> float:
        """Of all its processes, shared pages counted once."""
        return self.process.memory_mib()

    def asks(self, photos: Sequence[bytes]) -> list[Ask]:
        """A request for each photo."""
        peer = PEERS[self.name]
        return [
            Ask("http", self.address, peer.path, peer.headers, peer.body(photo), 1, f"photo {index}")
            for index, photo in enumerate(photos)
        ]

    def labels(self, photo: bytes) -> tuple[int, dict[str, Any] | str]:
        """What it answers for an image: the HTTP status, and labels and scores, or the text of a refusal."""
        return post(PEERS[self.name], self.address, photo)

    def broken_image(self, photos: Sequence[bytes], rounds: int = 5, together: int = 24) -> dict[str, Any]:
        """What a broken JPEG does to good ones that are sent with it, in the same moment.

        rounds: how often. together: requests of a round, one of them broken, by as many threads.

        Returns the counts of HTTP statuses of the broken image and of the good ones (0: no answer), and what was said.
        """
        broken, good, said = Counter[int](), Counter[int](), Counter[str]()
        with ThreadPoolExecutor(together) as pool:
            for _ in range(rounds):
                barrier = threading.Barrier(together)

                def ask(index: int, barrier: threading.Barrier = barrier) -> None:
                    is_broken = index == together // 2
                    photo = photos[index % len(photos)]
                    barrier.wait()
                    try:
                        status, answer = self.labels(photo[: len(photo) // 2] if is_broken else photo)
                    except (OSError, http.client.HTTPException):
                        status, answer = 0, "no answer"
                    (broken if is_broken else good)[status] += 1
                    if status != 200:
                        said[str(answer)[:120]] += 1

                list(pool.map(ask, range(together)))
        return {
            "rounds": rounds,
            "good_in_a_round": together - 1,
            "status_of_broken": {str(status): count for status, count in sorted(broken.items())},
            "status_of_good": {str(status): count for status, count in sorted(good.items())},
            "good_lost": sum(count for status, count in good.items() if status != 200),
            "said": [text for text, _ in said.most_common(3)],
        }

    def to_json(self) -> dict[str, Any]:
        """What a result says of it."""
        return {
            "peer": self.name,
            "configuration": self.configuration,
            "versions": self.versions,
            "decoder": self.decoder,
            **asdict(self.choice),
            "ready_s": self.ready_s,
        }


@contextlib.contextmanager
def running(
    name: str,
    configuration: Configuration,
    threads: int,
    *,
    repository: Path = PROJECT / "model_repository",
    cache: Path | None = None,
    choice: Choice | None = None,
) -> Iterator[RunningPeer]:
    """Serve with a peer on a free port of 127.0.0.1 until the block ends.

    threads: that it may compute with. repository: whose ONNX file, labels and preprocessing it takes. cache: where its
    environment is. choice: instead of the one that `configuration` has.

    Raises BenchError if it is not prepared, does not start, or answers wrongly; with the end of its log.
    """
    peer = _peer(name)
    if not is_prepared(name, cache):
        raise BenchError(f"the environment of {name} is not there: make it with jpeg_bench.peers.prepare({name!r})")
    environment = environment_of(name, cache)
    choice = choice or (peer.tuned if configuration == "tuned" else peer.default)(threads)
    # Not below a TMPDIR that is long: Ray puts sockets there, whose names may not be.
    folder = Path(tempfile.mkdtemp(prefix="jpeg-", dir="/tmp" if len(tempfile.gettempdir()) > 20 else None))  # noqa: S108
    try:
        port, *ports = free_ports(5)
        setup = _setup(choice, configuration, repository, folder, port)
        start = peer.start(Place(SOURCES / name, environment, folder, port, tuple(ports)), choice)
        variables = _variables(environment, setup, start.variables)
        expected = _expected(environment, variables)
        begun = time.monotonic()
        process = PeerProcess(start.command, variables, folder, folder / "log")
        try:
            wait_until_right(peer, process, f"127.0.0.1:{port}", expected, max(choice.workers, 1))
            yield RunningPeer(
                name,
                configuration,
                f"127.0.0.1:{port}",
                versions(name, {name: peer.package, "onnxruntime": "onnxruntime", "pillow": "pillow"}, cache),
                choice,
                setup["preprocess"]["decoder"],
                time.monotonic() - begun,
                process,
            )
        finally:
            process.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def broken_image(name: str, threads: int, *, cache: Path | None = None) -> dict[str, Any]:
    """`RunningPeer.broken_image` of a peer in its tuned configuration, started for this."""
    with running(name, "tuned", threads, cache=cache) as peer:
        return peer.broken_image(read_photos().data)


def _peer(name: str) -> Peer:
    if name not in PEERS:
        raise BenchError(f"there is no peer {name}: known are {', '.join(PEERS)}")
    return PEERS[name]


def _setup(choice: Choice, configuration: Configuration, repository: Path, folder: Path, port: int) -> dict[str, Any]:
    models, problems = read_models(repository)
    needed: list[Model] = []
    for model in ("preprocess", "postprocess", CLASSIFIER):
        if model not in models:
            raise BenchError(f"{repository} has no model {model}: {'; '.join(map(str, problems)) or 'build it'}")
        needed.append(models[model])
    preprocess, postprocess, classifier = needed
    artefacts = [path for _, path in classifier.artefacts() if path.is_file()]
    if not artefacts:
        raise BenchError(f"{classifier.folder} has no ONNX file, which the peers serve, too: jpeg-build makes it")
    parameters = {key: value.string_value for key, value in preprocess.config.parameters.items() if not key.isupper()}
    if configuration == "default":
        parameters["decoder"] = "full"
    chosen = asdict(choice)
    del chosen["why"]
    labels = postprocess.folder / (postprocess.parameter("labels_file") or PostprocessSettings.labels_file)
    return {
        **chosen,
        "model": str(artefacts[-1].resolve()),
        "labels": str(labels.resolve()),
        "preprocess": parameters,
        "port": port,
        "folder": str(folder),
    }


def _variables(environment: Path, setup: dict[str, Any], more: Any) -> dict[str, str]:
    # What our own environment sets for Python and its libraries is not theirs.
    ours = ("PYTHON", "VIRTUAL_ENV", "OMP_", "OPENBLAS_", "MKL_", "UVICORN_", "WEB_CONCURRENCY", "RAY_", "BENTOML_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = [SOURCES / "common", PROJECT / "preprocess", *([more["PYTHONPATH"]] if "PYTHONPATH" in more else [])]
    return {
        **variables,
        **more,
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "PEER": json.dumps(setup),
    }


def _expected(environment: Path, variables: dict[str, str]) -> list[tuple[bytes, dict[str, Any]]]:
    """The project's photos, and what the same code with the same files answers for them in one process."""
    files = sorted((PROJECT / "photos").glob("*.jpg"))
    command = [str(environment / "bin" / "python"), "-m", "peer_pipeline", *map(str, files)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=_EXPECTED_S)
    if done.returncode != 0:
        raise BenchError(f"{environment} cannot classify: {' '.join(done.stderr.split())[-600:]}")
    return list(zip([file.read_bytes() for file in files], json.loads(done.stdout), strict=True))
