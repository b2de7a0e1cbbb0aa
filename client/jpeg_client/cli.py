"""The command `jpeg-classify`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jpeg_client.client import Client

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# Files are read and sent in groups of this many, so that a folder of any size fits into memory.
GROUP = 32

KEY_VARIABLE = "JPEG_API_KEY"

# A key has some fifty characters; whatever is longer is another file.
_MAX_KEY_BYTES = 4096

EPILOG = """\
For each image one line: its path, and its labels with their scores, best first.

A gateway asks for an API key. It is read from a file or from the environment variable JPEG_API_KEY, and is no option
itself: other users of this machine can read those in the list of processes.

exit status: 0 every image has its labels; 1 one has not, or the server could not be asked; 2 the call was wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    # gRPC writes notes of its own to stderr when a connection fails; what matters is in our line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        return _main(options)
    except ModuleNotFoundError as error:
        return _fail(
            f"the package {error.name} is not installed: pip install -e '.[client]' in this project's folder", 1
        )
    except BrokenPipeError:
        # Whoever read the lines has seen enough; Python must not try to write the rest on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)


def _main(options: argparse.Namespace) -> int:
    from jpeg_client.client import Client
    from jpeg_client.errors import JpegClientError

    if options.api_key_file is not None and not options.api_key_file.exists():
        # Not repeated: it may be the key.
        return _fail("there is no file of the name given as --api-key-file, which takes a file, not the key itself", 2)
    named = options.images if options.ca is None else [*options.images, options.ca]
    missing = [str(path) for path in named if not path.exists()]
    if missing:
        return _fail(f"there is no file or folder {', '.join(missing)}", 2)
    try:
        with Client(options.url, api_key=_key(options), ca=options.ca, timeout_s=options.timeout_s) as client:
            shown, failed = _classify(client, options)
    except ValueError as error:
        return _fail(str(error), 2)
    except JpegClientError as error:
        return _fail(str(error), 1)
    if not shown:
        return _fail(f"no image found; in folders, files ending in {', '.join(SUFFIXES)} count", 1)
    return 1 if failed else 0


def _classify(client: Client, options: argparse.Namespace) -> tuple[int, int]:
    """Ask for every file and print the answers; returns how many files there were, and how many have no labels."""
    shown = failed = 0
    files = _files(options.images)
    while group := list(islice(files, GROUP)):
        readable = {path: data for path in group if (data := _read(path)) is not None}
        answers = dict(zip(readable, client.classify(list(readable.values()), options.k), strict=True))
        for path in group:
            shown += 1
            prediction = answers.get(path)
            if prediction is None or prediction.error is not None:
                failed += 1
            if prediction is None:
                continue
            if options.json:
                print(json.dumps({"image": str(path), **dataclasses.asdict(prediction)}))
            elif prediction.error is not None:
                _fail(f"{path}: {prediction.error}", 1)
            else:
                pairs = zip(prediction.labels, prediction.scores, strict=True)
                print(f"{path}: " + ", ".join(f"{label} {score:.3f}" for label, score in pairs))
        sys.stdout.flush()
    return shown, failed


def _key(options: argparse.Namespace) -> str | None:
    """The API key, from the file or the environment; None if there is none in either."""
    if options.api_key_file is None:
        return os.environ.get(KEY_VARIABLE) or None
    with options.api_key_file.open("rb") as file:
        # Every byte is a character of latin-1; which of them a key may have, the client says.
        return str(file.read(_MAX_KEY_BYTES).decode("latin-1").strip())


def _read(path: Path) -> bytes | None:
    """The bytes of a file; None, and a line on stderr, if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        _fail(f"{path}: cannot be read: {error.strerror}", 1)
        return None


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Files as they are named; of folders, all JPEGs below, in the order of their names."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        else:
            yield path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-classify",
        description="Ask a running server for the labels of JPEG images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --api-key KEY is no short form of anything
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="PATH", help="image file, or folder to search through")
    parser.add_argument(
        "--url",
        default="grpc://localhost:8001",
        help="grpc://HOST:PORT or http://HOST:PORT; with TLS, as a gateway wants it, grpcs://HOST:PORT or "
        "https://HOST:PORT (default: grpc://localhost:8001)",
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="text file with the API key that a gateway asks for, and nothing else "
        f"(default: the key is in {KEY_VARIABLE}, or there is none)",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="PEM file with the certificates to trust, for grpcs and https: those of the server's own authority, or "
        "the server's if it signed it itself (default: the public authorities)",
    )
    parser.add_argument(
        "-k", "--k", type=_natural, metavar="N", help="labels for each image (default: the server's, 5)"
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=30,
        metavar="SECONDS",
        help="how long one request may take, with the waiting where there were too many (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (default: text)")
    return parser


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of labels: give 1 or more")
    return int(text)


def _fail(message: str, status: int) -> int:
    print(f"jpeg-classify: {message}", file=sys.stderr)
    return status
