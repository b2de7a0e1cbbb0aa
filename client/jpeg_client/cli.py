"""The command `jpeg-classify`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jpeg_contract.command_line import FAILED, OK, WRONG_CALL, Parameter, fail, make_app, note, positive, run_app

from jpeg_client.defaults import DEFAULT_TIMEOUT_S, DEFAULT_URL
from jpeg_client.errors import InvalidArgument, JpegClientError

if TYPE_CHECKING:
    from jpeg_client.client import Client
    from jpeg_client.prediction import Prediction

COMMAND = "jpeg-classify"

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# Images per call: bounds the memory for folders of any size.
GROUP_SIZE = 32

KEY_VARIABLE = "JPEG_API_KEY"

# Keys have about fifty characters; the limit bounds the memory if the path names another file.
_MAX_KEY_BYTES = 4096

app = make_app(
    COMMAND,
    "Classify JPEG images on a running server.",
    # One line per paragraph: the help wraps them to the terminal.
    "Each image gets one line of output: its path, then its labels and their scores, best first.\n\n"
    f"A gateway requires an API key. It comes from a file or from the environment variable {KEY_VARIABLE}. No option "
    "takes the key itself, because other users of this machine can read options in the process list.\n\n"
    "Exit status: 0 every image has labels; 1 an image has none, or the request failed; 2 the call is invalid.",
)
app.usage = f"Usage: {COMMAND} PATH... [OPTIONS]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: None takes sys.argv.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    # Checked here, because the general error for an unknown option repeats its value.
    if any(token.partition("=")[0] == "--api-key" for token in tokens):
        return fail(
            COMMAND,
            "there is no option --api-key, because other users can read options in the process list: use "
            f"--api-key-file FILE, or the environment variable {KEY_VARIABLE}",
            WRONG_CALL,
            reason="invalid_call",
        )
    return run_app(app, tokens, extra="client", statuses={InvalidArgument: WRONG_CALL, JpegClientError: FAILED})


@app.default
def classify(
    *paths: Annotated[Path, Parameter(name="PATH", required=True)],
    url: str = DEFAULT_URL,
    api_key_file: Path | None = None,
    ca: Path | None = None,
    k: Annotated[int | None, Parameter(name=("--k", "-k"), validator=positive)] = None,
    timeout_s: Annotated[float, Parameter(validator=positive)] = DEFAULT_TIMEOUT_S,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Classify files, print the predictions to stdout, and return the exit status.

    Args:
        paths: Image files, or folders to search.
        url: Server: grpc://HOST:PORT, http://HOST:PORT, or with TLS grpcs://HOST:PORT, https://HOST:PORT.
        api_key_file: Text file with the API key for a gateway. By default JPEG_API_KEY holds the key, if any.
        ca: PEM file with the server's CA or self-signed certificate, for TLS. By default the public CAs are trusted.
        k: Labels per image. By default the server decides: 5.
        timeout_s: Time limit per request in seconds, including retries while the server cannot take it.
        as_json: Print one JSON object per line instead of text.
    """
    if api_key_file is not None and (not api_key_file.exists() or api_key_file.is_dir()):
        # Not repeated: the value may be the key.
        return fail(
            COMMAND,
            "--api-key-file does not name a file: it takes the path of a file, not the key itself",
            WRONG_CALL,
            reason="file_missing",
        )
    named = paths if ca is None else (*paths, ca)
    if missing := [str(path) for path in named if not path.exists()]:
        return fail(COMMAND, f"no such file or folder: {', '.join(missing)}", WRONG_CALL, reason="file_missing")

    from jpeg_client.client import Client

    _report_retries()
    with Client(url, api_key=_read_key(api_key_file), ca=ca, timeout_s=timeout_s) as client:
        found, failed = _classify_files(client, _find_files(paths), k, as_json=as_json)
    if not found:
        return fail(
            COMMAND, f"no images found: folders are searched for {', '.join(SUFFIXES)}", FAILED, reason="no_images"
        )
    return FAILED if failed else OK


def _report_retries() -> None:
    """Print each cause of retries to stderr, once."""
    from stamina.instrumentation import RetryDetails, set_on_retry_hooks

    reported: set[str] = set()

    def report(details: RetryDetails) -> None:
        message = str(details.caused_by)
        if message not in reported:
            reported.add(message)
            note(COMMAND, f"{message}: trying again")

    set_on_retry_hooks([report])


def _classify_files(client: Client, files: Iterator[Path], k: int | None, *, as_json: bool) -> tuple[int, int]:
    """Classify files and print the predictions.

    Args:
        client: Connection to the server.
        files: Image files.
        k: Labels per image; None takes the server's default.
        as_json: Print JSON instead of text.

    Returns:
        Number of files, and number of files without labels.
    """
    found = failed = 0
    while group := list(islice(files, GROUP_SIZE)):
        readable = {path: data for path in group if (data := _read_image(path)) is not None}
        predictions = dict(zip(readable, client.classify(list(readable.values()), k), strict=True))
        for path in group:
            found += 1
            prediction = predictions.get(path)
            if prediction is None or prediction.error is not None:
                failed += 1
            if prediction is not None:
                _print_prediction(path, prediction, as_json=as_json)
        sys.stdout.flush()
    return found, failed


def _print_prediction(path: Path, prediction: Prediction, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": str(path), **dataclasses.asdict(prediction)}))
    elif prediction.error is not None:
        fail(COMMAND, f"{path}: {prediction.error}", FAILED, reason=prediction.reason or "image_refused")
    else:
        pairs = zip(prediction.labels, prediction.scores, strict=True)
        print(f"{path}: " + ", ".join(f"{label} {score:.3f}" for label, score in pairs))


def _read_key(file: Path | None) -> str | None:
    """Read the API key from the file, or else from the environment; None if there is none."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    with file.open("rb") as stream:
        # latin-1 decodes any byte; the client refuses characters that a key cannot have.
        return stream.read(_MAX_KEY_BYTES).decode("latin-1").strip()


def _read_image(path: Path) -> bytes | None:
    """Read a file; report a failure on stderr and return None."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(COMMAND, f"{path}: cannot read the file: {error.strerror}", FAILED, reason="file_unreadable")
        return None


def _find_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files as given, and the JPEG files below folders, sorted by path."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        else:
            yield path
