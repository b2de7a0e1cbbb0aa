"""The command `jpeg-serve`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from jpeg_serve.errors import ServeError, ServerDied

if TYPE_CHECKING:
    from jpeg_serve.server import TritonServer

EPILOG = """\
commands:
  run    check the repository, serve it until Ctrl-C or SIGTERM (the default)
  check  check the repository: every config, every edge of the ensembles, every model.json; one line a problem

What follows -- goes to tritonserver as it is, for example: jpeg-serve -- --log-verbose=1

A stop is asked for with Ctrl-C or SIGTERM: open requests are finished first. A second Ctrl-C ends it at once.

exit status: 0 stopped as asked, or no problem found; 1 it failed; 2 the call was wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    try:
        return _main(arguments)
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is not installed: pip install 'triton-jpeg-classifier[serve]'", 1)
    except KeyboardInterrupt:
        # Before the server was started: later, signals are handled.
        return _fail("interrupted", 1)


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, triton = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    options = _parser().parse_args(own)
    from jpeg_serve.check import check_repository, summary
    from jpeg_serve.server import ServerOptions, TritonServer

    if options.command == "check":
        problems = check_repository(options.model_repository)
        for problem in problems:
            print(problem)
        if not problems:
            print(summary(options.model_repository))
        return 1 if problems else 0

    misplaced = [option.split("=")[0] for option in triton if option.split("=")[0] in _OWN]
    if misplaced:
        return _fail(f"give {misplaced[0]} before the --, so that jpeg-serve knows it too", 2)
    server = TritonServer(
        ServerOptions(
            model_repository=options.model_repository,
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            metrics_port=options.metrics_port,
            address=options.address,
            load=options.load_model,
            backends=options.backends,
            triton=triton,
            ready_timeout_s=options.ready_timeout_s,
            drain_s=options.drain_s,
        )
    )
    try:
        return _serve(server)
    except ServeError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.filename or 'jpeg-serve'}: {error.strerror}", 1)


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
        usage="%(prog)s [run | check] [OPTION ...] [-- TRITON_OPTION ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["run", "check"], default="run", help=argparse.SUPPRESS)
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help="what to serve (default: model_repository)",
    )
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
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
        help="how long the models may take to load (default: 300)",
    )
    parser.add_argument(
        "--drain-s",
        type=int,
        default=30,
        metavar="SECONDS",
        help="how long open requests may take once a stop was asked for (default: 30)",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _fail(message: str, status: int) -> int:
    print(f"jpeg-serve: {message}", file=sys.stderr)
    return status
