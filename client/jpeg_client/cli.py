"""The command `jpeg-classify`."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jpeg_contract.command_line import (
    FAILED,
    OK,
    WRONG_CALL,
    Integer,
    Parameter,
    PositiveInteger,
    PositiveSeconds,
    fail,
    make_app,
    note,
    positive,
    print_json,
    run_app,
)
from jpeg_contract.tensors import DEFAULT_K, ENSEMBLE

from jpeg_client.api_keys import KEY_VARIABLE, NO_KEY_OPTION, names_key, read_key
from jpeg_client.command.inputs import STANDARD_INPUT, SUFFIXES, Inputs
from jpeg_client.command.rows import BY_SUFFIX, Format, Row
from jpeg_client.command.sorting import Placement
from jpeg_client.defaults import DEFAULT_BATCH_SIZE, DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT_S, DEFAULT_URL, URL_VARIABLE
from jpeg_client.errors import InvalidArgument, JpegClientError

if TYPE_CHECKING:
    from jpeg_client.client import Client
    from jpeg_client.command.outputs import Output

COMMAND = "jpeg-classify"

SERVER_GONE = 3
"""Exit status if no server responds, or it refuses the requests: the run can be continued."""

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as of shells: the run can be continued."""

app = make_app(
    COMMAND,
    "Classify images on a running server.",
    # One line per paragraph: the help wraps them to the terminal.
    "PATH is a file, a folder, a pattern such as 'photos/**/*.jpg', - for an image on standard input, or a URL such as "
    f"s3://BUCKET/FOLDER (also gs://, az://, hf://). Folders are searched for {', '.join(SUFFIXES)}, "
    "and for the suffixes of the other formats that the server decodes.\n\n"
    "A million photos: jpeg-classify FOLDER --to labels.jsonl --resume continues after any interruption, and sends no "
    "image twice that has a row.\n\n"
    f"A gateway requires an API key. It comes from a file or from the environment variable {KEY_VARIABLE}. No option "
    "takes the key itself, because other users of this machine can read options in the process list.\n\n"
    "Exit status: 0 every image has labels; 1 images failed, the others have labels; 2 the call is invalid; 3 no "
    "server responds, or it refuses the requests; 4 the output cannot be written; 130 interrupted.",
)
app.usage = f"Usage: {COMMAND} [doctor] PATH... [OPTIONS]"

OUTPUT_FAILED = 4
"""Exit status if the output cannot be written: the run can be continued."""


@dataclass(frozen=True)
class Server:
    """Where the server is.

    Attributes:
        url: Server: grpc://HOST:PORT, http://HOST:PORT, or with TLS grpcs://HOST:PORT, https://HOST:PORT. By default
            JPEG_URL, if it is set.
        model: Name of the ensemble.
        api_key_file: Text file with the API key for a gateway. By default JPEG_API_KEY holds the key, if any.
        ca: PEM file with the server's CA or self-signed certificate, for TLS. By default the public CAs are trusted.
        certificate: PEM file with this client's certificate, for mutual TLS. By default none.
        certificate_key: PEM file with its private key. By default none.
        timeout_s: Time limit per request in seconds, including retries while the server cannot take it.
    """

    url: Annotated[str, Parameter(env_var=URL_VARIABLE)] = DEFAULT_URL
    model: str = ENSEMBLE
    api_key_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    timeout_s: PositiveSeconds = DEFAULT_TIMEOUT_S

    def open(self, *, retry: bool = True, shrink: bool = False) -> Client:
        """Open a client.

        Raises:
            InvalidArgument: An option is invalid.
        """
        if self.api_key_file is not None and (not self.api_key_file.exists() or self.api_key_file.is_dir()):
            # Not repeated: the value may be the key.
            raise InvalidArgument(
                "--api-key-file does not name a file: it takes the path of a file, not the key itself",
                reason="file_missing",
            )
        for file in (self.ca, self.certificate, self.certificate_key):
            if file is not None and not file.exists():
                raise InvalidArgument(f"no such file or folder: {file}", reason="file_missing")
        from jpeg_client.client import Client

        return Client(
            self.url,
            api_key=read_key(self.api_key_file),
            ca=self.ca,
            certificate=self.certificate,
            certificate_key=self.certificate_key,
            timeout_s=self.timeout_s,
            model=self.model,
            retry=retry,
            shrink=shrink,
        )


_SERVER = Server()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: None takes sys.argv.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    if names_key(tokens):
        return fail(COMMAND, NO_KEY_OPTION, WRONG_CALL, reason="invalid_call")
    return run_app(
        app,
        # Cyclopts takes - for an option.
        [STANDARD_INPUT if each == "-" else each for each in tokens],
        extra="client",
        statuses={InvalidArgument: WRONG_CALL, JpegClientError: SERVER_GONE},
    )


def _share(_kind: Any, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{value} is not a score: give a number from 0 to 1")


@app.default
def classify(
    *paths: Annotated[str, Parameter(name="PATH")],
    files_from: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    null: Annotated[bool, Parameter(name=("--null", "-0"))] = False,
    server: Annotated[Server, Parameter(name="*")] = _SERVER,
    k: Annotated[Integer | None, Parameter(name=("--k", "-k", "--top"), validator=positive)] = None,
    threshold: Annotated[float | None, Parameter(name=("--threshold", "--min-score"), validator=_share)] = None,
    output: Format | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    to: Path | None = None,
    resume: bool = False,
    sort_into: Path | None = None,
    sort_by: Placement = "link",
    concurrency: PositiveInteger = DEFAULT_CONCURRENCY,
    batch_size: PositiveInteger = DEFAULT_BATCH_SIZE,
    shrink: bool = False,
    quiet: Annotated[bool, Parameter(name=("--quiet", "-q"))] = False,
) -> int:
    """Classify images, write a row for each, and return the exit status.

    Args:
        paths: Image files, folders to search, patterns, URLs, or -.
        files_from: File with one path per line, or - for standard input; can be repeated.
        null: The paths in --files-from end with a zero byte, as find -print0 writes them.
        server: See Server.
        k: Labels per image. By default the server decides: 5.
        threshold: Leave out labels with a lower score, 0 to 1. By default the model decides: 0 in most.
        output: Format of the rows: table (text), jsonl, csv, parquet. By default as --to ends, or table.
        as_json: Short for --output jsonl.
        to: File for the rows. By default standard output.
        resume: Continue the file of an interrupted run: images that have a row are not sent again.
        sort_into: Folder in which each image is put into a folder of its best label.
        sort_by: How: symbolic links, or copies.
        concurrency: Requests at a time.
        batch_size: Images per request, within the server's limit.
        shrink: Make large photos smaller before they are sent, for slow networks. Scores change a little.
        quiet: No progress and no summary on standard error.
    """
    if not paths and not files_from:
        raise InvalidArgument("name images: PATH... or --files-from FILE", reason="invalid_call")
    inputs = Inputs(paths, files_from, null)
    inputs.check()
    if sort_into is not None and STANDARD_INPUT in paths:
        raise InvalidArgument("- has no file that --sort-into could place", reason="invalid_call")
    form = _format("jsonl" if as_json else output, to)
    if resume and to is None:
        raise InvalidArgument("--resume continues a file: name it with --to FILE", reason="invalid_call")
    if form == "parquet" and to is None:
        raise InvalidArgument("Parquet needs a file: name it with --to FILE", reason="invalid_call")

    from jpeg_client.command.run import Run
    from jpeg_client.command.sorting import Sorter
    from jpeg_client.command.summary import Summary

    def place(row: Row) -> None:
        if sorter is not None:
            sorter.place(row)

    sorter = None if sort_into is None else Sorter(sort_into, sort_by)
    _report_retries()
    counted = Inputs(paths, files_from, null)
    summary = Summary(None if quiet or _reads_once(inputs) else counted.__iter__)
    try:
        with server.open(shrink=shrink) as client, _opened(client, to, form, k, resume=resume) as rows:
            inputs.formats = counted.formats = _formats_of(client)
            with summary:
                Run(client, inputs, rows, place, k, threshold, concurrency, batch_size, in_order=to is None).classify(
                    summary
                )
            status = FAILED if summary.failed or rows.failed_before else OK
    except InvalidArgument:
        raise
    except JpegClientError as error:
        status = fail(COMMAND, str(error), SERVER_GONE, reason=error.reason)
    except KeyboardInterrupt:
        status = fail(COMMAND, "interrupted", INTERRUPTED, reason="interrupted")
    except BrokenPipeError:
        raise
    except OSError as error:
        cause = f"{error.filename or to or 'output'}: {error.strerror or error}"
        status = fail(COMMAND, cause, OUTPUT_FAILED, reason="output_failed")
    if not quiet and (summary.images > 1 or summary.done_before or inputs.skipped):
        note(COMMAND, summary.line(inputs.skipped))
    if status not in (OK, FAILED) and to is not None and to.parent.is_dir():
        note(COMMAND, f"the rows of {to} are kept: the same command with --resume continues")
    if not summary.images and not summary.done_before and status == OK:
        return fail(
            COMMAND,
            f"no images found: folders are searched for {', '.join(SUFFIXES)}",
            FAILED,
            reason="no_images",
        )
    return status


@app.command
def doctor(
    *,
    server: Annotated[Server, Parameter(name="*")] = _SERVER,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Examine what is reachable: address, server, model, a photo, the time of each step; and what to do.

    Args:
        server: See Server.
        as_json: Print JSON instead of text.
    """
    from jpeg_client.command.doctor import Finding, examine

    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.step}: {finding.detail}", flush=True)

    with server.open(retry=False) as client:
        is_well = examine(client, report)
    if as_json:
        print_json({"url": server.url, "ok": is_well, "findings": [finding.as_json() for finding in findings]})
    if not is_well:
        return fail(COMMAND, findings[-1].detail, SERVER_GONE, reason=findings[-1].reason)
    return OK


def _format(given: Format | None, to: Path | None) -> Format:
    if given is not None:
        return given
    if to is None:
        return "table"
    if to.suffix.lower() not in BY_SUFFIX:
        raise InvalidArgument(
            f"the format of {to} is not clear: add --output table, jsonl, csv or parquet", reason="invalid_call"
        )
    return BY_SUFFIX[to.suffix.lower()]


def _formats_of(client: Client) -> Callable[[], Collection[str]]:
    """Return a function that reads the formats that the server decodes, once; none if it does not state them."""
    lock = threading.Lock()

    @functools.cache
    def described() -> Collection[str]:
        try:
            return client.describe().formats
        except JpegClientError:
            # A proxy may hide the configs of the steps. Without a server, the images themselves fail.
            return ()

    def formats() -> Collection[str]:
        with lock:  # the images and their number are read in threads of their own
            return described()

    return formats


def _reads_once(inputs: Inputs) -> bool:
    """Whether the names come from a stream, which cannot be read twice to count them."""
    return any(not Path(file).is_file() for file in inputs.lists)


@contextmanager
def _opened(client: Client, to: Path | None, form: Format, k: int | None, *, resume: bool) -> Iterator[Output]:
    from jpeg_client.command.outputs import StandardOutput, open_file

    columns = k or (min(DEFAULT_K, client.describe().classes) if form == "csv" else DEFAULT_K)
    if to is None:
        yield StandardOutput(form, columns, COMMAND)
        return
    with open_file(to, form, columns, resume=resume) as rows:
        yield rows


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
