"""`jpeg-serve` as a user runs it."""

import re
import subprocess
import sys
import time

import psutil
from jpeg_serve import shared_memory
from support import ROOT


class Command:
    """`jpeg-serve` as a user runs it, with its stderr in a file."""

    def __init__(self, repository, folder, *options, environment=None):
        self.log = folder / "stderr"
        arguments = ["--model-repository", repository, "--backends", ROOT / "backends"]
        for port in ("--http-port", "--grpc-port", "--metrics-port"):
            arguments += [port, "0"]
        arguments += options  # the last one of a kind counts
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jpeg_serve", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
                text=True,
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def text(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern, timeout_s=60):
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            if found := re.search(pattern, self.text()):
                return found
            assert self.process.poll() is None or re.search(pattern, self.text()), self.text()
            time.sleep(0.05)
        raise AssertionError(f"{pattern} is not in the log:\n{self.text()}")

    def family(self):
        """All its processes: itself, the server, and the server's workers."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def segments(self):
        return shared_memory.segments(f"jpeg_serve_{self.process.pid}_")


def gone(family, timeout_s=10):
    _, alive = psutil.wait_procs(family, timeout=timeout_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
