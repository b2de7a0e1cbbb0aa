"""The command `jpeg-serve`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from jpeg_serve.errors import ServeError, ServerDied
from jpeg_serve.locate import install_command

if TYPE_CHECKING:
    from jpeg_serve.server import TritonServer

DEFAULT_REPOSITORY = Path("model_repository")
DEFAULT_HTTP_PORT = 8000

EPILOG = """\
commands:
  run     check the repository, serve it until Ctrl-C or SIGTERM (the default)
  check   check the repository: every config, every edge of the ensembles, every version that is served and its
          report, and whether this machine can run it; one line a problem
  reload  let the jpeg-serve that runs here take what the repository holds now: another classifier, a rebuilt one,
          another version, edited instances; no request fails meanwhile. It checks first, and finds the server by
          --model-repository, or by --http-port
  probe   send a small JPEG to the server at --address and --http-port, and print its best label: a health check that
          really infers

What follows -- goes to tritonserver as it is, for example: jpeg-serve -- --log-verbose=1

A stop is asked for with Ctrl-C or SIGTERM: open requests are finished first. A second Ctrl-C ends it at once.

exit status: 0 stopped as asked, no problem found, reloaded, or answered; 1 it failed; 2 the call was wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    try:
        return _main(arguments)
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is not installed: {install_command('serve')}", 1)
    except KeyboardInterrupt:
        # Before the server was started: later, signals are handled.
        return _fail("interrupted", 1)


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, triton = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    options = _parser().parse_args(own)
    repository = options.model_repository or DEFAULT_REPOSITORY
    if options.command == "check":
        return _check(repository)
    if options.command == "probe":
        return _probe(options)
    if options.command == "reload":
        if triton:
            return _fail("options of tritonserver, after --, are for a start; a reload takes none", 2)
        return _reload(options)

    from jpeg_serve.server import ServerOptions, TritonServer

    misplaced = [option.split("=")[0] for option in triton if option.split("=")[0] in _OWN]
    if misplaced:
        return _fail(f"give {misplaced[0]} before the --, so that jpeg-serve knows it too", 2)
    server = TritonServer(
        ServerOptions(
            model_repository=repository,
            http_port=DEFAULT_HTTP_PORT if options.http_port is None else options.http_port,
            grpc_port=options.grpc_port,
            metrics_port=options.metrics_port,
            address=options.address,
            load=options.load_model,
            backends=options.backends,
            triton=triton,
            ready_timeout_s=options.ready_timeout_s,
            drain_s=options.drain_s,
            trace_to=options.trace_to or "",
            trace_rate=options.trace_rate,
        )
    )
    try:
        return _serve(server)
    except ServeError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.filename or 'jpeg-serve'}: {error.strerror}", 1)


# Set for the process that a reload hands over to.
_HANDED_OVER = "JPEG_SERVE_HANDED_OVER"


def _check(repository: Path) -> int:
    from jpeg_serve.check import check_repository, summary

    problems = check_repository(repository)
    for problem in problems:
        print(problem)
    if not problems:
        print(summary(repository))
    return 1 if problems else 0


def _probe(options: argparse.Namespace) -> int:
    from jpeg_serve.ports import reachable
    from jpeg_serve.probe import probe

    port = DEFAULT_HTTP_PORT if options.http_port is None else options.http_port
    try:
        print(probe(f"{reachable(options.address)}:{port}", options.model, options.timeout_s))
    except ServeError as error:
        return _fail(str(error), 1)
    return 0


def _reload(options: argparse.Namespace) -> int:
    """Find the server and let it take what is there, in the Python environment that the server runs in."""
    from jpeg_serve.machine import this_machine
    from jpeg_serve.reload import choose_server, reload_server

    repository = options.model_repository
    if repository is None and options.http_port is None:
        repository = DEFAULT_REPOSITORY
    try:
        file, running = choose_server(repository, options.http_port)
        if running.prefix != sys.prefix and os.environ.get(_HANDED_OVER):
            # A launcher that changes the environment would hand over for ever.
            return _fail(
                f"the server runs in the Python environment {running.prefix}, and {running.python} starts in another: "
                "run jpeg-serve reload as the server was started",
                1,
            )
        if running.prefix != sys.prefix:
            # Which packages there are is a question to that environment.
            command = [running.python, "-m", "jpeg_serve", "reload", "--model-repository", running.model_repository]
            command += ["--http-port", running.http_address.rpartition(":")[2]]
            command += ["--ready-timeout-s", str(options.ready_timeout_s), "--drain-s", str(options.drain_s)]
            return subprocess.run(command, check=False, env={**os.environ, _HANDED_OVER: "1"}).returncode
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        if running.visible_devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = running.visible_devices
        served = reload_server(
            file,
            running,
            this_machine(Path(running.natives), environment),
            lambda message: print(f"jpeg-serve: {message}", file=sys.stderr, flush=True),
            load_s=options.ready_timeout_s,
            unload_s=options.drain_s,
        )
        print(f"serving now: {'; '.join(served)}")
    except ServeError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.filename or 'jpeg-serve'}: {error.strerror}", 1)
    return 0


_OWN = (
    "--model-repository",
    "--http-port",
    "--grpc-port",
    "--metrics-port",
    "--exit-timeout-secs",
    "--load-model",
)


class _StopAsked(Exception):  # no error
    """A signal came while the server was starting."""


def _serve(server: TritonServer) -> int:
    asked = 0
    ready = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            print(
                "jpeg-serve: stopping; open requests are finished first, Ctrl-C again ends them",
                file=sys.stderr,
            )
            server.terminate()
            if not ready:
                raise _StopAsked
        else:
            server.kill()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        server.start()
        print("jpeg-serve: loading the models ...", file=sys.stderr, flush=True)
        server.wait_until_ready(lambda s: print(f"jpeg-serve: loading, {s:.0f} s", file=sys.stderr, flush=True))
        ready = True
        print(
            f"jpeg-serve: ready\n  HTTP     http://{server.http_address}\n  gRPC     {server.grpc_address}\n"
            f"  metrics  http://{server.metrics_address}/metrics",
            file=sys.stderr,
            flush=True,
        )
        status = server.wait()
        if not asked:
            raise ServerDied(f"tritonserver ended by itself (status {status}); its log above says why")
    except _StopAsked:
        pass
    finally:
        server.stop()
    print("jpeg-serve: stopped", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-serve",
        description="Serve a model repository with the tritonserver on the PATH, else with the one in the wheel "
        "nvidia-pytriton.",
        epilog=EPILOG,
        usage="%(prog)s [run | check | reload | probe] [OPTION ...] [-- TRITON_OPTION ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", nargs="?", choices=["run", "check", "reload", "probe"], default="run", help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--model-repository",
        type=Path,
        metavar="DIR",
        help=f"what to serve, check or reload (default: {DEFAULT_REPOSITORY})",
    )
    parser.add_argument(
        "--http-port",
        type=_port,
        metavar="PORT",
        help=f"0 takes a free one; for reload and probe: which server (default: {DEFAULT_HTTP_PORT}; for reload: any)",
    )
    for name, port in (("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port",
            type=_port,
            default=port,
            metavar="PORT",
            help=f"0 takes a free one (default: {port})",
        )
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        metavar="IP",
        help="what all three ports listen on; beyond 127.0.0.1 a gateway belongs in front (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--load-model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model to load, can be repeated (default: the ensembles and, through them, their steps)",
    )
    parser.add_argument(
        "--backends",
        type=Path,
        metavar="DIR",
        help="folder of Python-based backends (default: backends beside the model repository, else the project's)",
    )
    parser.add_argument(
        "--ready-timeout-s",
        type=float,
        default=300,
        metavar="SECONDS",
        help="how long the models may take to load; for reload: each of them (default: 300)",
    )
    parser.add_argument(
        "--drain-s",
        type=int,
        default=30,
        metavar="SECONDS",
        help="how long open requests may take once a stop, or an unload of their model, was asked for (default: 30)",
    )
    parser.add_argument(
        "--trace-to",
        type=_collector,
        metavar="URL",
        help="an OpenTelemetry collector that gets traces, as http://HOST:4318 (OTLP over HTTP; default: no traces)",
    )
    parser.add_argument(
        "--trace-rate",
        type=_count,
        default=1,
        metavar="N",
        help="trace every N-th request; one with the header traceparent always is, and with 0 only those (default: 1)",
    )
    parser.add_argument(
        "--model",
        default="jpeg_classifier",
        metavar="NAME",
        help="for probe: the model to ask (default: jpeg_classifier)",
    )
    parser.add_argument(
        "--timeout-s",
        type=_seconds,
        default=10,
        metavar="SECONDS",
        help="for probe: how long it may take to connect, and to answer (default: 10)",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number: give 0 or more")
    return int(text)


def _collector(text: str) -> str:
    from jpeg_serve.tracing import collector_url

    try:
        return collector_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _fail(message: str, status: int) -> int:
    print(f"jpeg-serve: {message}", file=sys.stderr)
    return status
