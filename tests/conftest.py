from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jpeg_client import Client
from jpeg_serve import ServerOptions, TritonServer
from support import SMALL_RECIPE, copy_committed_repository, run_module, small_network

# These machines are slow at times; how long one example takes says nothing here.
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def built_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the committed repository with the demo classifier built into it. Not to be changed."""
    repository = tmp_path_factory.mktemp("built") / "model_repository"
    copy_committed_repository(repository)
    done = run_module("jpeg_build", "mobilenet_v2", "--model-repository", repository)
    assert done.returncode == 0, done.stderr
    return repository


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed repository with a network of one convolution, which needs next to no time. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    small_network(folder)
    (folder / "small.toml").write_text(SMALL_RECIPE)
    repository = folder / "model_repository"
    copy_committed_repository(repository)
    done = run_module("jpeg_build", folder / "small.toml", "--model-repository", repository)
    assert done.returncode == 0, done.stderr
    return repository


@pytest.fixture
def repository(built_repository: Path, tmp_path: Path) -> Path:
    """A copy of the built repository, to be changed as a test likes."""
    shutil.copytree(built_repository, tmp_path / "model_repository")
    return tmp_path / "model_repository"


def serve(repository: Path, log: Path, **options: object) -> Iterator[TritonServer]:
    """Run a real tritonserver on free ports, and kill it at the end; a test of its stop calls `stop` before."""
    settled = ServerOptions(
        model_repository=repository,
        **{"http_port": 0, "grpc_port": 0, "metrics_port": 0, **options},  # type: ignore[arg-type]
    )
    with log.open("wb") as sink, TritonServer(settled, log=sink) as server:
        yield server
        # Triton's own end takes some three seconds, in which it waits for its workers.
        server.clean_up()


@pytest.fixture(scope="session")
def server(built_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The demo classifier as it is served by default."""
    yield from serve(built_repository, tmp_path_factory.mktemp("server") / "triton.log")


@pytest.fixture(scope="session", params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: TritonServer) -> str:
    """The server's address for each protocol."""
    return f"grpc://{server.grpc_address}" if request.param == "grpc" else f"http://{server.http_address}"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A client of the server, once for each protocol."""
    with Client(url) as client:
        yield client
