"""`jpeg-web` as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

STARTED_WITHIN_S = 60.0


@dataclass(frozen=True)
class WebCommand:
    """A running `jpeg-web`.

    Attributes:
        url: http://HOST:PORT.
        process: The command.
        log: Its stderr.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class SupervisedServer:
    """The addresses of a `jpeg-serve`, each HOST:PORT."""

    http_address: str
    grpc_address: str
    metrics_address: str


@contextmanager
def web_command(log: Path, *options: str) -> Iterator[WebCommand]:
    """`jpeg-web` as a user runs it, on a free port."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "jpeg_web", "--port", "0", *options], stderr=sink, stdout=sink, cwd=ROOT
        )
    try:
        limit = time.monotonic() + STARTED_WITHIN_S
        while not (found := re.search(r"web +(http://[^\s]+)/", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)
        yield WebCommand(found[1], process, log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            process.kill()


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.02)
