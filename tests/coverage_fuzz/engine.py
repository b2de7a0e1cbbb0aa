"""The process that fuzzes one target: `python -m coverage_fuzz.engine TARGET FILES FINDINGS [libFuzzer options]`.

A program of its own, since libFuzzer ends its process. It needs atheris, and imports what is fuzzed after it, so that
each branch is counted. C code, such as libjpeg-turbo in Pillow, msgspec and protobuf's upb, is not instrumented.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import atheris

from coverage_fuzz import targets
from coverage_fuzz.check import Target
from coverage_fuzz.findings import Recorder
from coverage_fuzz.jpeg_mutator import cross, mutate

# Our own packages, and the parsers in Python that they call.
INSTRUMENTED = (
    "jpeg_contract",
    "jpeg_preprocess",
    "jpeg_build",
    "jpeg_runtime",
    "tomllib",
    "google.protobuf.text_format",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.TiffImagePlugin",
    "PIL.WebPImagePlugin",
    "coverage_fuzz.planted",
)
_ADDRESS_SPACE_BYTES = 6 * 2**30
_PLAIN_MUTATIONS = 0.15
_PR_SET_PDEATHSIG = 1  # prctl(2)


def ignore_pillows_warnings() -> None:
    """Make warnings errors, except Pillow's own, about EXIF data for example."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module=r"PIL\.")


def main(arguments: Sequence[str]) -> None:
    """Fuzz; does not return."""
    name, files, findings, *options = arguments
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        target = targets.load(name)
    ignore_pillows_warnings()
    check, recorder = target.make_check(Path(files)), Recorder(Path(findings), name)

    def test_one(data: bytes) -> None:
        try:
            check(data)
        except Exception as error:
            recorder.record(data, error)

    # The first option is the program that libFuzzer starts again to merge.
    atheris.Setup(options, test_one, custom_mutator=_mutator(target), custom_crossover=_crossover(target))
    atheris.Fuzz()


def _mutator(target: Target) -> object:
    def mutate_bytes(data: bytes, most: int) -> bytes:
        # Looked up late: `Fuzz` replaces it.
        changed = atheris.Mutate(data, most)
        assert isinstance(changed, bytes)
        return changed

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < _PLAIN_MUTATIONS or not data:
            return mutate_bytes(data, max_size)
        return target.mutate(data, rng, mutate_bytes)[:max_size]

    return mutated


def _crossover(target: Target) -> object:
    def crossed(first: bytes, second: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if target.mutate is mutate:
            return cross(first, second, rng)[:max_size]
        mine, theirs = first.splitlines(keepends=True), second.splitlines(keepends=True)
        at = rng.randint(0, len(mine))
        return b"".join([*mine[:at], *theirs[rng.randint(0, len(theirs)) :]])[:max_size]

    return crossed


def in_own_process(run: Callable[[], None]) -> int:
    """Run in a child, and return its exit status as a shell does.

    libFuzzer's limit of memory looks at the highest use so far, and Linux lets a program that another one starts begin
    with that of the other one. A child of fork(2) begins with its own (tried: 4 MB instead of pytest's 710).
    """
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            run()
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(in_own_process(lambda: main(sys.argv[1:])))
