"""The common part of the console commands: their declaration, their progress, their errors and exit statuses.

Results go to stdout, everything else to stderr. Exit statuses: 0 done, 1 the work failed, 2 the call was wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import cyclopts
from cyclopts import App, CycloptsError, Parameter

from jpeg_contract.errors import ReasonedError
from jpeg_contract.remedies import missing_package

OK, FAILED, WRONG_CALL = 0, 1, 2

Progress = Callable[[str], None]
"""Takes one step of the work as a short phrase: "building the engine"."""

WAIT_REPORT_S = 10.0
"""Without a terminal, how often a wait is reported: a log that is read later needs no line for each second."""


def make_app(name: str, summary: str, epilogue: str = "") -> App:
    """Declare a command; its functions are registered with `@app.command` and `@app.default`.

    Args:
        name: Of the command.
        summary: One sentence, the head of its help.
        epilogue: Examples and exit statuses, below the options.
    """
    from jpeg_contract.versions import project_version

    app = App(
        name=name,
        help=summary,
        help_epilogue=_reflowed(f"{epilogue}\n\n{name} --version prints the version.".strip()),
        help_format="plaintext",
        version=project_version,
        # `run_app` handles it: some commands have an option --version of their own.
        version_flags=[],
        # `run_app` reports it; cyclopts would exit with 130.
        suppress_keyboard_interrupt=False,
        # Booleans are switched on by their name alone: a --no-NAME for each would crowd the help.
        default_parameter=Parameter(negative=(), show_default=_shown_default),
    )
    app.register_install_completion_command(
        add_to_startup=False, help="Write a completion script for this shell, and print how to enable it."
    )
    return app


def _shown_default(value: object) -> str | None:
    """Show a default in a help text, but not that a flag is off. None shows nothing; a text would be shown if empty."""
    return None if value is False or value is None else str(value)


def _reflowed(text: str) -> str:
    """Join the lines of each paragraph: the help is wrapped to the terminal. Indented lines stay."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(each if each.startswith(" ") else " ".join(each.split("\n")) for each in paragraphs)


def run_app(
    app: App,
    arguments: Sequence[str] | None,
    *,
    extra: str,
    statuses: Mapping[type[Exception], int],
    extras_of_packages: Mapping[str, str] | None = None,
) -> int:
    """Run a command and return its exit status.

    Args:
        app: See `make_app`. Its functions return None, or their exit status.
        arguments: None takes sys.argv.
        extra: The extra of this project that brings the packages of this command.
        statuses: Exit status by exception class; the first that fits counts.
        extras_of_packages: The extra of a package that another one brings.
    """
    command = str(app.name[0])
    # gRPC writes notes of its own to stderr when a connection fails; what matters is in our line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    if tokens == ["--version"]:
        app.version_print()
        return OK
    before = _end_as_interrupted()
    try:
        status = app(tokens, exit_on_error=False, print_error=False, help_on_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(status or OK)
    except CycloptsError as error:
        return fail(command, f"{_plain(error)} (see {command} --help)", WRONG_CALL, reason="invalid_call")
    except BrokenPipeError:
        # The reader of the pipe is gone: Python must not try to write the rest on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ModuleNotFoundError as error:
        return fail(
            command,
            missing_package(str(error.name), (extras_of_packages or {}).get(str(error.name), extra)),
            FAILED,
            reason="package_missing",
        )
    except KeyboardInterrupt:
        return fail(command, "interrupted", FAILED, reason="interrupted")
    except Exception as error:
        for kind, status in statuses.items():
            if isinstance(error, kind):
                reason = error.reason if isinstance(error, ReasonedError) else None
                return fail(command, str(error), status, reason=reason)
        if isinstance(error, OSError):
            remedy = ": free some space and try again" if error.errno == errno.ENOSPC else ""
            return fail(command, f"{error.filename or 'output'}: {error.strerror or error}{remedy}", FAILED)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _end_as_interrupted() -> Any:
    """Let SIGTERM end a command as Ctrl-C does, so that it ends the processes that it started, and removes its files.

    Returns:
        The handler before; None if it was left, outside of the main thread.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        return None


def fail(command: str, message: str, status: int, *, reason: str | None = None) -> int:
    """Print an error to stderr and return the exit status. reason: its code, in brackets at the end."""
    _tell(f"{command}: error: {message}{f' [{reason}]' if reason else ''}")
    return status


def note(command: str, message: str) -> None:
    """Print a line for the user to stderr."""
    _tell(f"{command}: {message}")


def _tell(line: str) -> None:
    """Print a line to stderr, behind what was printed to stdout before: both may go to one file or pipe."""
    # A full disk or a closed pipe is reported when the command ends.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def print_json(result: object) -> None:
    """Print a result to stdout, indented."""
    print(json.dumps(result, indent=2))


@contextlib.contextmanager
def progress(command: str) -> Iterator[Progress]:
    """Report the steps of the work on stderr: a spinner with the time on a terminal, a line for each step in a pipe."""
    if not sys.stderr.isatty():
        yield lambda message: note(command, message)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape
    from rich.spinner import Spinner

    console = Console(stderr=True, highlight=False)
    spinner = Spinner("dots")
    begun, current = time.monotonic(), ""

    def finish_step() -> None:
        if current:
            console.print(f"{command}: {escape(current)} [dim]({time.monotonic() - begun:.1f} s)[/dim]")

    def show(message: str) -> None:
        nonlocal begun, current
        finish_step()
        current, begun = message, time.monotonic()
        spinner.update(text=f"{command}: {escape(message)}")

    # stdout holds the result, and may be a file.
    with Live(spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False):
        try:
            yield show
        finally:
            finish_step()


def waiting(report: Callable[[float], None]) -> Callable[[float], None]:
    """Return what takes the seconds of a wait as they pass: it reports all of them on a terminal, few in a pipe.

    Args:
        report: Prints a line. What is waited for is reported before.
    """
    if sys.stderr.isatty():
        return report
    due_s = WAIT_REPORT_S

    def report_seldom(seconds: float) -> None:
        nonlocal due_s
        if seconds >= due_s:
            due_s = seconds - seconds % WAIT_REPORT_S + WAIT_REPORT_S
            report(seconds)

    return report_seldom


def _integer(_kind: Any, tokens: Sequence[Any]) -> int:
    """Convert a token for cyclopts, which would round 1.5."""
    text = tokens[0].value.strip()
    if not text.removeprefix("-").isdecimal():
        raise ValueError(f"{text!r} is not an integer")
    return int(text)


def positive(_kind: Any, value: Any) -> None:
    """Validate a number for cyclopts: refuse one below 1, or the smallest above 0 where fractions are possible."""
    values = value if isinstance(value, (list, tuple)) else [value]
    for each in values:
        if each is not None and not 0 < each < float("inf"):
            raise ValueError(f"{each} is not above 0")


def port(_kind: Any, value: Any) -> None:
    """Validate a port for cyclopts: 0 to 65535."""
    if value is not None and not 0 <= value <= 65535:
        raise ValueError(f"{value} is not a port: give a number from 0 to 65535")


Integer = Annotated[int, Parameter(converter=_integer)]
PositiveInteger = Annotated[int, Parameter(converter=_integer, validator=positive)]
PositiveSeconds = Annotated[float, Parameter(validator=positive)]
Port = Annotated[int, Parameter(converter=_integer, validator=port)]


def _plain(error: CycloptsError) -> str:
    """Return cyclopts's message on one line, without its frame and colours."""
    return " ".join(str(error).split()).rstrip(".")


__all__ = [
    "FAILED",
    "OK",
    "WRONG_CALL",
    "App",
    "Integer",
    "Parameter",
    "Port",
    "PositiveInteger",
    "PositiveSeconds",
    "Progress",
    "cyclopts",
    "fail",
    "make_app",
    "note",
    "port",
    "positive",
    "print_json",
    "progress",
    "run_app",
    "waiting",
]
