"""The command `python -m comparison`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.options import (
    CLIENTS,
    OUTPUT,
    REPOSITORY,
    ClientOptions,
    OutputOptions,
    PhotoOptions,
    RepositoryOptions,
    comma_separated,
    joined,
)
from jpeg_contract.command_line import (
    FAILED,
    WRONG_CALL,
    Parameter,
    PositiveInteger,
    PositiveSeconds,
    Progress,
    make_app,
    note,
    print_json,
    run_app,
)
from jpeg_contract.command_line import progress as show_progress
from jpeg_contract.errors import ReasonedError

from comparison.checkout import PHOTOS, RESULTS
from comparison.peer_settings import CONFIGURATIONS, PEERS, Configuration

if TYPE_CHECKING:
    from comparison.trials import Loads

COMMAND = "comparison"
_QUICK_S = 2.0
_PHOTOS = PhotoOptions(photos=PHOTOS)

app = make_app(
    COMMAND,
    "Compare this project's server with the ceiling of the machine and with other servers (peers).",
    "A summary, or with --json the whole result, goes to stdout; progress goes to stderr.\n\n"
    "Exit status: 0 measured; 1 the measurement failed, or a response was wrong; 2 the call is invalid.",
)


@Parameter(name="*")
@dataclass(frozen=True)
class LoadOptions:
    """The loads.

    Attributes:
        seconds: Duration of each measurement in seconds.
        quick: Measure each load for 2 seconds in one round; replaces --seconds and --rounds.
        concurrency: Concurrent requests of one image.
        batch_size: Images per request of several images.
        batch_concurrency: Concurrent requests of several images.
    """

    seconds: PositiveSeconds = 5.0
    quick: bool = False
    concurrency: PositiveInteger = 32
    batch_size: PositiveInteger = 8
    batch_concurrency: PositiveInteger = 8

    def with_clients(self, clients: ClientOptions) -> Loads:
        """Return the loads with these clients."""
        from comparison.trials import Loads

        return Loads(
            concurrency=self.concurrency,
            batch_size=self.batch_size,
            batch_concurrency=self.batch_concurrency,
            seconds=_QUICK_S if self.quick else self.seconds,
            warmup_s=clients.warmup_s,
            client_processes=clients.processes,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class PeerSelection:
    """The peers to measure.

    Attributes:
        peer: Peers, separated by commas.
        configuration: Configurations of the peers, separated by commas.
    """

    peer: Annotated[tuple[str, ...], Parameter(converter=comma_separated, show_default=joined)] = tuple(PEERS)
    configuration: Annotated[tuple[Configuration, ...], Parameter(converter=comma_separated, show_default=joined)] = (
        CONFIGURATIONS
    )

    def install(self, progress: Progress) -> list[tuple[str, Configuration]]:
        """Install the environments, and return names and configurations.

        A failure does not affect the other peers: it becomes part of the result.

        Raises:
            InvalidOption: There is no such peer.
        """
        from comparison.peer_environment import install, is_installed
        from comparison.running_peer import find_peer

        for name in self.peer:
            find_peer(name)
        for name in self.peer:
            try:
                if not is_installed(name):
                    progress(f"{name}: install its environment")
                    install(name)
            except BenchError as error:
                progress(f"{name}: {error}")
        return [(name, configuration) for name in self.peer for configuration in self.configuration]


_LOADS = LoadOptions()
_PEERS = PeerSelection()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: None takes sys.argv.
    """
    statuses: dict[type[Exception], int] = {InvalidOption: WRONG_CALL, ReasonedError: FAILED}
    return run_app(app, arguments, extra="bench", statuses=statuses)


@app.command
def run(
    *,
    repository: RepositoryOptions = REPOSITORY,
    own_choice: Path | None = None,
    photos: PhotoOptions = _PHOTOS,
    loads: LoadOptions = _LOADS,
    clients: ClientOptions = CLIENTS,
    rounds: PositiveInteger = 3,
    selection: PeerSelection = _PEERS,
    without_peers: bool = False,
    results: Annotated[Path, Parameter(show_default="bench/results/latest.json")] = RESULTS / "latest.json",
    output: OutputOptions = OUTPUT,
) -> None:
    """Measure the ceiling, this project's server and the peers in several rounds.

    Args:
        repository: Model repository.
        own_choice: Model repository to compare with the default configurations. By default --model-repository.
        photos: Photos.
        loads: Loads.
        clients: Clients.
        rounds: Number of rounds.
        selection: Peers.
        without_peers: Measure only the ceiling and this project's server.
        results: JSON file to write; tables (.md) and a plot (.png) are written beside it.
        output: Output.
    """
    from jpeg_bench.plots import import_pyplot
    from jpeg_bench.results import write_result, write_text

    from comparison.plots import plot_comparison
    from comparison.report import markdown_report
    from comparison.rounds import Comparison, run_comparison

    import_pyplot()  # fails before the measurement, not after it
    with show_progress(COMMAND) as progress:
        comparison = Comparison(
            repository=repository.model_repository,
            own_choice=own_choice,
            photos=photos.read(),
            loads=loads.with_clients(clients),
            rounds=1 if loads.quick else rounds,
            explore_s=1.0 if loads.quick else 2.0,
            peers=[] if without_peers else selection.install(progress),
        )
        result = run_comparison(comparison, progress, lambda so_far: write_result(results, so_far))
    report = markdown_report(result)
    write_text(results.with_suffix(".md"), report)
    plot_comparison(result, results.with_suffix(".png"))
    note(COMMAND, f"written: {results}, {results.with_suffix('.md').name}, {results.with_suffix('.png').name}")
    if output.as_json:
        print_json(result)
    else:
        print(report, end="")


@app.command
def peers(
    *,
    repository: RepositoryOptions = REPOSITORY,
    photos: PhotoOptions = _PHOTOS,
    loads: LoadOptions = _LOADS,
    clients: ClientOptions = CLIENTS,
    selection: PeerSelection = _PEERS,
    output: OutputOptions = OUTPUT,
) -> None:
    """Measure the peers only, and how each treats a truncated JPEG.

    Args:
        repository: Model repository.
        photos: Photos.
        loads: Loads.
        clients: Clients.
        selection: Peers.
        output: Output.
    """
    from jpeg_bench.machine import describe_machine, package_versions
    from jpeg_contract.cpus import usable_cpus

    from comparison.running_peer import measure_broken_image
    from comparison.trials import measure_peer_trial

    images = photos.read()
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": package_versions(),
        "photos": images.to_json(),
        "peers": {},
        "broken_image": {},
    }
    with show_progress(COMMAND) as progress:
        selected = selection.install(progress)
        for name, configuration in selected:
            result["peers"][f"{name} {configuration}"] = measure_peer_trial(
                name,
                configuration,
                repository=repository.model_repository,
                photos=images.data,
                loads=loads.with_clients(clients),
                progress=progress,
            )
        for name in dict.fromkeys(name for name, _ in selected):
            progress(f"{name}: truncated JPEG among valid ones")
            try:
                found = measure_broken_image(name, usable_cpus(), repository=repository.model_repository)
            except BenchError as error:
                found = {"failure": str(error)}
            result["broken_image"][name] = found
    if output.as_json:
        print_json(result)
    else:
        print(_summarize_peers(result))


@app.command
def plot(result: Path, /) -> None:
    """Plot a result of `run` to a file with the suffix .png beside it.

    Args:
        result: JSON file.
    """
    from jpeg_bench.results import read_result

    from comparison.plots import plot_comparison

    plot_comparison(read_result(result, "rounds"), result.with_suffix(".png"))
    note(COMMAND, f"written: {result.with_suffix('.png')}")


def _summarize_peers(result: dict[str, Any]) -> str:
    from jpeg_bench.summary import number, text_table

    rows = []
    for name, trial in result["peers"].items():
        for point in trial["points"].values():
            values = (number(point[key]) for key in ("images_per_s", "p50_ms", "p99_ms"))
            rows.append([name, str(point["concurrency"]), *values, str(point["failures"])])
    lines = [text_table(("peer", "concurrency", "images/s", "p50 ms", "p99 ms", "failures"), rows)]
    failures = {name: trial["failure"] for name, trial in result["peers"].items() if "failure" in trial}
    lines += [f"{name} failed: {failure.splitlines()[0]}" for name, failure in failures.items()]
    for name, found in result["broken_image"].items():
        lost = "failed" if "failure" in found else f"{found['valid_lost']} valid images lost"
        lines.append(f"{name}, truncated JPEG: {lost}")
    return "\n".join(lines)
