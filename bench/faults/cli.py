"""The command `python -m faults`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jpeg_contract.command_line import (
    FAILED,
    OK,
    Integer,
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
from jpeg_contract.settings import Decoder

from faults.repositories import SampleSource, describe, served_repository
from faults.service import Service

COMMAND = "faults"
_RESULTS = Path("bench/results/faults")

app = make_app(
    COMMAND,
    "Inject faults into a jpeg-serve under load, and check every answer.",
    "Each command starts jpeg-serve on free ports with a network that reads a number from each image, or with "
    "--model-repository. The result goes to stdout and to a JSON file, progress to stderr.\n\n"
    "Exit status: 0 every promise was kept; 1 one was not; 2 the call is invalid.",
)


@Parameter(name="*")
@dataclass(frozen=True)
class ServiceOptions:
    """What is served.

    Attributes:
        model_repository: A repository of your own: answers are compared with those of the server at rest, by label
            and checksum. By default the network that reads numbers is built.
        backend: Form of the classifier that reads numbers, as `jpeg-build --backend` names it.
        decoder: Of the model `preprocess` with that classifier; gpu decodes on the GPU.
        servers: Number of tritonservers.
        results: Folder for the results and the log of jpeg-serve.
    """

    model_repository: Path | None = None
    backend: str = "onnx"
    decoder: Decoder = "scaled"
    servers: PositiveInteger = 1
    results: Path = _RESULTS


_SERVICE = ServiceOptions()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: None takes sys.argv.
    """
    return run_app(app, arguments, extra="bench", statuses={ReasonedError: FAILED})


@contextmanager
def _serving(options: ServiceOptions, progress: Progress) -> Iterator[tuple[Service, SampleSource]]:
    options.results.mkdir(parents=True, exist_ok=True)
    with served_repository(options.model_repository, options.backend, options.decoder) as (repository, samples_for):
        progress("start jpeg-serve")
        with Service(repository, options.results / "jpeg-serve.log", servers=options.servers) as service:
            yield service, samples_for


def _finish(options: ServiceOptions, name: str, result: dict[str, Any], *, kept: bool) -> int:
    from jpeg_bench.results import write_result

    file = options.results / f"{name}.json"
    write_result(file, result)
    note(COMMAND, f"written: {file}")
    print_json({key: value for key, value in result.items() if key not in ("readings", "rounds", "faults")})
    return OK if kept else FAILED


@app.command
def overload(
    *, service: ServiceOptions = _SERVICE, seconds: PositiveSeconds = 20.0, times: PositiveSeconds = 5.0
) -> int:
    """Send several times what the server can do; measure what the accepted and the refused requests see of it.

    Args:
        service: Service.
        seconds: Length of the storm.
        times: Rate of the storm, relative to the capacity.
    """
    from faults.overload import measure_overload
    from faults.samples import slow_samples

    with show_progress(COMMAND) as progress, _serving(service, progress) as (running, samples_for):
        samples = slow_samples() if service.model_repository is None else samples_for(running.target)
        result = measure_overload(running.target, samples, seconds=seconds, times=times, progress=progress)
    return _finish(service, "overload", result, kept=all(result["verdict"].values()))


@app.command
def fairness(
    *,
    service: ServiceOptions = _SERVICE,
    seconds: PositiveSeconds = 20.0,
    senders: PositiveInteger = 64,
    images: PositiveInteger = 1,
) -> int:
    """Send the most expensive images that are allowed; measure how long a client with a small one waits.

    Args:
        service: Service.
        seconds: Length of the storm.
        senders: Clients of the storm.
        images: In each of their requests.
    """
    from faults.fairness import measure_fairness

    with show_progress(COMMAND) as progress, _serving(service, progress) as (running, samples_for):
        small = next(sample.data for sample in samples_for(running.target) if sample.is_good)
        result = measure_fairness(
            running.target, small, seconds=seconds, senders=senders, images=images, progress=progress
        )
    return _finish(service, "fairness", result, kept=all(result["verdict"].values()))


@app.command
def freeze(*, service: ServiceOptions = _SERVICE, rounds: PositiveInteger = 100) -> int:
    """Freeze the server, its workers and everything for 0.5 to 30 s, one after the other, and count the lies.

    Args:
        service: Service.
        rounds: Number of freezes.
    """
    from faults.freezes import run_freezes

    with show_progress(COMMAND) as progress, _serving(service, progress) as (running, samples_for):
        samples = samples_for(running.target)
        progress(describe(samples))
        result = run_freezes(running, samples, rounds, progress)
    return _finish(service, "freeze", result, kept=not result["lies"] and not result["problems"])


@app.command
def mayhem(*, service: ServiceOptions = _SERVICE, minutes: PositiveSeconds = 10.0, seed: Integer = 0) -> int:
    """Kill, freeze and starve processes at random, and check every answer.

    Args:
        service: Service.
        minutes: How long.
        seed: Of the faults and their times.
    """
    from faults.mayhem import run_mayhem

    with show_progress(COMMAND) as progress, _serving(service, progress) as (running, samples_for):
        samples = samples_for(running.target)
        progress(describe(samples))
        result = run_mayhem(running, samples, 60 * minutes, progress, seed)
    return _finish(service, "mayhem", result, kept=not result["problems"])


@app.command
def soak(
    *,
    service: ServiceOptions = _SERVICE,
    minutes: PositiveSeconds = 60.0,
    kill_every_s: PositiveSeconds = 300.0,
    share: Annotated[float, Parameter(name="--share")] = 0.8,
) -> int:
    """Serve at a share of the capacity with a worker killed again and again; see whether anything grows.

    Args:
        service: Service.
        minutes: How long.
        kill_every_s: Time between two kills, in seconds.
        share: Of the capacity.
    """
    from jpeg_bench.plots import import_pyplot
    from jpeg_bench.results import write_result

    from faults.soak import SoakPlan, plot_soak, run_soak

    import_pyplot()  # fails before the measurement, not after it
    plan = SoakPlan(seconds=60 * minutes, share=share, kill_every_s=kill_every_s)
    with show_progress(COMMAND) as progress, _serving(service, progress) as (running, samples_for):
        samples = samples_for(running.target)
        progress(describe(samples))
        result = run_soak(
            running,
            samples,
            plan,
            servers=service.servers,
            progress=progress,
            checkpoint=lambda so_far: write_result(service.results / "soak.json", so_far),
        )
    plot_soak(result, service.results / "soak.png")
    return _finish(service, "soak", result, kept=all(result["verdict"].values()))
