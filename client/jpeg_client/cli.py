"""The command `jpeg-classify`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# Files are read and sent in groups of this many, so that a folder of any size fits into memory.
GROUP = 32

EPILOG = """\
For each image one line: its path, and its labels with their scores, best first.

exit status: 0 every image has its labels; 1 one has not, or the server could not be asked; 2 the call was wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        from jpeg_client.client import Client
        from jpeg_client.errors import JpegClientError
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is not installed: pip install 'triton-jpeg-classifier[client]'", 1)
    missing = [str(path) for path in options.images if not path.exists()]
    if missing:
        return _fail(f"there is no file or folder {', '.join(missing)}", 2)
    failed = shown = 0
    try:
        with Client(options.url, timeout_s=options.timeout_s) as client:
            files = _files(options.images)
            while group := list(islice(files, GROUP)):
                for path, prediction in zip(group, client.classify(group, options.k), strict=True):
                    shown += 1
                    failed += prediction.error is not None
                    if options.json:
                        print(json.dumps({"image": str(path), **dataclasses.asdict(prediction)}))
                    elif prediction.error is not None:
                        _fail(f"{path}: {prediction.error}", 1)
                    else:
                        pairs = zip(prediction.labels, prediction.scores, strict=True)
                        print(f"{path}: " + ", ".join(f"{label} {score:.3f}" for label, score in pairs))
    except ValueError as error:
        return _fail(str(error), 2)
    except JpegClientError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    if not shown:
        return _fail(f"no image found; in folders, files ending in {', '.join(SUFFIXES)} count", 1)
    return 1 if failed else 0


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
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="PATH", help="image file, or folder to search through")
    parser.add_argument(
        "--url",
        default="grpc://localhost:8001",
        help="grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT (default: grpc://localhost:8001)",
    )
    parser.add_argument("-k", "--k", type=int, metavar="N", help="labels for each image (default: the server's, 5)")
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=30,
        metavar="SECONDS",
        help="how long one request may take (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (default: text)")
    return parser


def _fail(message: str, status: int) -> int:
    print(f"jpeg-classify: {message}", file=sys.stderr)
    return status
