"""The command `jpeg-bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jpeg_bench.arguments import count, numbers, one_of, positive, rates, seconds, size, words

DEFAULT_REPOSITORY = Path("model_repository")
PROJECT = Path(__file__).resolve().parents[2]

EPILOG = """\
commands:
  ceiling  how fast this machine can be without any server: decode alone, classifier alone, both in one process
  serve    put loads on a server, its own or any that runs: images/s, latency, batches, CPU, memory
  sweep    how cost grows with requests in flight, images of a request, image size, instances
  peers    other servers with the same network, runtime, threads and photos
  compare  all of it in turn, several rounds, and the ratios; writes JSON, a Markdown table and a plot
  plot     draw the plot of a result anew

Each has its own --help. The result goes to stdout as JSON, talk to stderr.

exit status: 0 measured; 1 it failed, or a server answered wrongly; 2 the call was wrong
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
            f"the package {error.name} is not installed: pip install -e '.[bench]' in this project's folder", 1
        )
    except BrokenPipeError:
        # Whoever read the result has seen enough; Python must not try to write the rest on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)


def _main(options: argparse.Namespace) -> int:
    from jpeg_bench import commands
    from jpeg_bench.errors import BenchError

    run: Callable[[argparse.Namespace], dict[str, Any]] = getattr(commands, options.command)
    try:
        result = run(options)
    except ValueError as error:
        return _fail(str(error), 2)
    except BenchError as error:
        return _fail(str(error), 1)
    json.dump(result, sys.stdout, indent=2)
    print()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-bench",
        description="Measure how fast JPEGs are classified on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    ceiling = commands.add_parser("ceiling", help="the limit of this machine, without any server")
    _add_work(ceiling, default_s=3)
    ceiling.add_argument(
        "--batches",
        type=numbers,
        metavar="N,...",
        help="batch sizes to try (default: 1,4,8; on a GPU 32,64,128)",
    )

    serve = commands.add_parser("serve", help="loads on a server")
    _add_work(serve, default_s=5)
    _add_clients(serve)
    _add_server(serve)

    sweep = commands.add_parser("sweep", help="how cost grows with load, batch, image size and instances")
    _add_work(sweep, default_s=4, with_size=False)
    _add_clients(sweep)
    sweep.add_argument("--results", type=Path, metavar="FILE", help="JSON to write, and a .png beside (default: none)")

    peers = commands.add_parser("peers", help="other servers")
    _add_work(peers, default_s=None)
    _add_clients(peers)
    _add_comparison(peers)

    compare = commands.add_parser("compare", help="ours, the ceiling and the peers, in turn")
    _add_work(compare, default_s=None)
    _add_clients(compare)
    _add_comparison(compare)
    compare.add_argument("--rounds", type=count, metavar="N", help="rounds (default: 3; with --quick 1)")
    compare.add_argument(
        "--own-choice",
        type=Path,
        metavar="DIR",
        help="a second model repository of ours, for the comparison with the peers' documented defaults (default: the "
        "first)",
    )
    compare.add_argument("--without-peers", action="store_true", help="ours and the ceiling only")
    compare.add_argument(
        "--results",
        type=Path,
        default=PROJECT / "bench" / "results" / "latest.json",
        metavar="FILE",
        help="JSON to write, and .md and .png beside (default: bench/results/latest.json of the project)",
    )

    plot = commands.add_parser("plot", help="draw the plot of a result anew")
    plot.add_argument("result", type=Path, metavar="FILE", help="what compare or sweep wrote; the .png goes beside it")
    return parser


def _add_work(parser: argparse.ArgumentParser, *, default_s: float | None, with_size: bool = True) -> None:
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=DEFAULT_REPOSITORY,
        metavar="DIR",
        help=f"whose files, settings and classifier are measured (default: {DEFAULT_REPOSITORY})",
    )
    parser.add_argument(
        "--photos", type=Path, default=PROJECT / "photos", metavar="DIR", help="JPEGs (default: the project's photos)"
    )
    if with_size:
        parser.add_argument(
            "--photo-size",
            type=size,
            metavar="WIDTHxHEIGHT",
            help="cut the photos to this size and encode them anew, quality 90 (default: as they are)",
        )
    parser.add_argument(
        "--seconds",
        type=positive,
        default=default_s,
        metavar="SECONDS",
        help=f"of each measurement (default: {'5; with --quick 2' if default_s is None else default_s})",
    )


def _add_clients(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--warmup-s", type=seconds, default=1.0, metavar="SECONDS", help="asked before, not counted (default: 1)"
    )
    parser.add_argument(
        "--processes",
        type=count,
        metavar="N",
        help="that ask at once; twice as many are tried if one is busy for 80 %% of the time (default: a quarter of "
        "the CPUs)",
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        metavar="URL",
        help="a server that runs, grpc://HOST:PORT or http://HOST:PORT (default: start one on free ports)",
    )
    parser.add_argument(
        "--model", default="jpeg_classifier", metavar="NAME", help="the ensemble to ask (default: jpeg_classifier)"
    )
    parser.add_argument(
        "--protocols",
        type=one_of(("grpc", "http")),
        metavar="grpc,http",
        help="which (default: those whose address is known)",
    )
    parser.add_argument(
        "--images-a-request", type=numbers, default=[1, 8], metavar="N,...", help="of each kind (default: 1,8)"
    )
    parser.add_argument(
        "--in-flight", type=numbers, default=[1, 8, 32, 64], metavar="N,...", help="closed loops (default: 1,8,32,64)"
    )
    parser.add_argument(
        "--arrivals-per-s", type=rates, metavar="X,...", help="open loops, in requests per second (default: none)"
    )
    parser.add_argument(
        "--shares",
        type=rates,
        metavar="X,...",
        help="open loops at parts of the fastest closed one, 0.9 for nine tenths (default: none)",
    )
    parser.add_argument(
        "--arrivals",
        choices=["poisson", "even"],
        default="poisson",
        help="random or evenly spaced arrivals in open loops (default: poisson)",
    )
    parser.add_argument(
        "--duration-s",
        type=positive,
        metavar="SECONDS",
        help="let the open loops run so long, and say how latency and memory drift (default: no such run)",
    )
    parser.add_argument(
        "--cross-check", action="store_true", help="let wrk put the closed loops on HTTP, too; it must be on the PATH"
    )


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a first look: 2 s each, one round")
    parser.add_argument("--peers", type=words, metavar="NAME,...", help="which peers (default: all)")
    parser.add_argument(
        "--configurations",
        type=one_of(("tuned", "default")),
        default=["tuned", "default"],
        metavar="NAME,...",
        help="tuned for this machine, and their documented default (default: tuned,default)",
    )
    parser.add_argument(
        "--in-flight", dest="many", type=count, default=32, metavar="N", help="single images in flight (default: 32)"
    )
    parser.add_argument(
        "--batch", type=count, default=8, metavar="N", help="images of a request of several (default: 8)"
    )
    parser.add_argument(
        "--batches-in-flight", type=count, default=8, metavar="N", help="such requests in flight (default: 8)"
    )


def _fail(message: str, status: int) -> int:
    print(f"jpeg-bench: {message}", file=sys.stderr)
    return status
