"""The real application in front of the real server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from jpeg_web import Settings, create_app
from serve_command import Command
from web_command import SupervisedServer, WebCommand, wait_until, web_command


@pytest.fixture(scope="session")
def server(built_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupervisedServer]:
    """The demo classifier with a supervisor: a browser can keep this machine so busy that a worker ends itself."""
    command = Command(built_repository, tmp_path_factory.mktemp("supervised"))
    try:
        ready = r"HTTP     http://(\S+)\n  gRPC     (\S+)\n  metrics  http://(\S+)/metrics"
        found = command.wait_for(ready, timeout_s=120)
        yield SupervisedServer(found[1], found[2], found[3])
    finally:
        command.process.send_signal(signal.SIGTERM)
        command.process.wait(60)
        command.output.close()


@pytest.fixture(scope="session")
def web(server: SupervisedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebCommand]:
    """`jpeg-web` in front of the session's server."""
    log = tmp_path_factory.mktemp("web") / "web.log"
    options = ["--url", f"grpc://{server.grpc_address}", "--metrics-url", f"http://{server.metrics_address}/metrics"]
    with web_command(log, *options) as command:
        yield command


@pytest.fixture(scope="session")
def web_url(web: WebCommand) -> str:
    """The address of the application and its page."""
    return web.url


@pytest.fixture
def http(web_url: str) -> Iterator[httpx2.Client]:
    """A client of the application."""
    with httpx2.Client(base_url=web_url, timeout=60) as client:
        yield client


Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def serve_app() -> Serve:
    """Serve the application with other settings, in a thread: `with serve_app(cors=("*",)) as url`."""

    @contextmanager
    def serve(*, root_path: str = "", **settings: Any) -> Iterator[str]:
        app = create_app(Settings(**settings))
        config = uvicorn.Config(app, port=0, root_path=root_path, log_config=None, access_log=False, ws="none")
        served = uvicorn.Server(config)
        thread = threading.Thread(target=served.run, name="web", daemon=True)
        thread.start()
        wait_until(lambda: served.started or not thread.is_alive())
        assert served.started
        port = served.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            served.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()

    return serve
