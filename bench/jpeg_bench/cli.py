"""The command `jpeg-bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jpeg_client.errors import InvalidArgument
from jpeg_contract.command_line import (
    FAILED,
    WRONG_CALL,
    Parameter,
    PositiveInteger,
    PositiveSeconds,
    make_app,
    note,
    positive,
    print_json,
    run_app,
)
from jpeg_contract.command_line import progress as show_progress
from jpeg_contract.errors import ReasonedError
from jpeg_contract.tensors import ENSEMBLE

from jpeg_bench.cross_check import Tool
from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.options import (
    CLIENTS,
    OPEN_LOOP,
    OUTPUT,
    PHOTOS,
    REPOSITORY,
    TARGET,
    TIME,
    ClientOptions,
    Goal,
    OpenLoopOptions,
    OutputOptions,
    PhotoOptions,
    PositiveIntegers,
    PositiveNumbers,
    Protocols,
    RepositoryOptions,
    TargetOptions,
    TimeOptions,
)

if TYPE_CHECKING:
    from jpeg_bench.load import Protocol
    from jpeg_bench.load_point import LoadPoint
    from jpeg_bench.photos import Photos
    from jpeg_bench.target_server import TargetServer

COMMAND = "jpeg-bench"

_LEAST_BUDGET_S = 10.0


def _budget(_kind: Any, value: float) -> None:
    # Less would be over before anything is compared.
    if not _LEAST_BUDGET_S <= value < float("inf"):
        raise ValueError(f"{value:g} s is too short: give at least {_LEAST_BUDGET_S:g}")


app = make_app(
    COMMAND,
    "Measure how fast JPEGs are classified on this machine.",
    "A summary, or with --json the whole result, goes to stdout; progress goes to stderr.\n\n"
    "Exit status: 0 measured; 1 the measurement failed, or a response was wrong; 2 the call is invalid.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: None takes sys.argv.
    """
    statuses: dict[type[Exception], int] = {
        InvalidOption: WRONG_CALL,
        InvalidArgument: WRONG_CALL,
        ReasonedError: FAILED,
    }
    return run_app(app, arguments, extra="bench", statuses=statuses)


@app.command
def ceiling(
    *,
    repository: RepositoryOptions = REPOSITORY,
    photos: PhotoOptions = PHOTOS,
    time: TimeOptions = TIME,
    batch_size: PositiveIntegers = (),
    output: OutputOptions = OUTPUT,
) -> None:
    """Measure the limit of this machine without a server.

    Args:
        repository: Model repository.
        photos: Photos.
        time: Duration.
        batch_size: Images per batch, separated by commas. By default 1,4,8, or on a GPU 32,64,128.
        output: Output.
    """
    from jpeg_bench.ceiling import measure_ceiling
    from jpeg_bench.pipeline import read_pipeline
    from jpeg_bench.summary import summarize_ceiling

    pipeline, images = read_pipeline(repository.model_repository), photos.read()
    with show_progress(COMMAND) as progress:
        found = measure_ceiling(pipeline, images.data, time.seconds, batch_sizes=batch_size, progress=progress)
    about = {"classifier": pipeline.classifier, "decoder": pipeline.preprocess.decoder}
    _print({**_environment(images), **about, **found.to_json()}, output, summarize_ceiling)


@app.command
def serve(
    *,
    repository: RepositoryOptions = REPOSITORY,
    target: TargetOptions = TARGET,
    photos: PhotoOptions = PHOTOS,
    time: TimeOptions = TIME,
    clients: ClientOptions = CLIENTS,
    batch_size: PositiveIntegers = (1, 8),
    concurrency: PositiveIntegers = (1, 8, 32, 64),
    request_rate: PositiveNumbers = (),
    peak_fraction: PositiveNumbers = (),
    open_loop: OpenLoopOptions = OPEN_LOOP,
    output: OutputOptions = OUTPUT,
) -> None:
    """Measure a server under closed and open loops.

    Args:
        repository: Model repository.
        target: Server.
        photos: Photos.
        time: Duration.
        clients: Clients.
        batch_size: Images per request, separated by commas.
        concurrency: Concurrent requests of closed loops, separated by commas.
        request_rate: Requests per second of open loops, separated by commas.
        peak_fraction: Request rates of open loops as fractions of the highest measured throughput, such as 0.5,0.9.
        open_loop: Open loops.
        output: Output.
    """
    from jpeg_bench.load_point import measure_load, prepare_and_check
    from jpeg_bench.summary import summarize_points

    images = photos.read()
    points: list[dict[str, Any]] = []

    def add(point: LoadPoint) -> None:
        points.append(point.to_json())
        # Requests of several photos have several sizes.
        if point.batch_size == 1 and len(photos.photo_size) > 1:
            points[-1]["by_size"] = point.samples.by_group(images.groups)

    with show_progress(COMMAND) as progress, _open_server(repository, target) as server:
        for protocol in _protocols(target, server):
            for size in batch_size:
                requests = prepare_and_check(server, protocol, images.data, size)
                peak = 0.0
                for count in concurrency:
                    load = clients.closed_loop(count, time.seconds)
                    progress(f"{protocol}, batch size {size}, {load}")
                    point = measure_load(server, requests, load)
                    peak = max(peak, point.result.requests_per_s)
                    add(point)
                for rate in (*request_rate, *(fraction * peak for fraction in peak_fraction)):
                    load = clients.open_loop(rate, open_loop.request_distribution, time.seconds)
                    progress(f"{protocol}, batch size {size}, {load}")
                    add(measure_load(server, requests, load))
    result = {**_environment(images), "start_s": server.start_s, "idle": server.idle, "points": points}
    _print(result, output, lambda found: summarize_points(found["points"]))


@app.command
def sweep(
    *,
    repository: RepositoryOptions = REPOSITORY,
    photos: PhotoOptions = PHOTOS,
    time: TimeOptions = TIME,
    clients: ClientOptions = CLIENTS,
    results: Path | None = None,
    output: OutputOptions = OUTPUT,
) -> None:
    """Measure how throughput and latency change with concurrency, batch size, image size and instances.

    Args:
        repository: Model repository.
        photos: Photos.
        time: Duration.
        clients: Clients.
        results: JSON file to write; a plot with the suffix .png is written beside it. By default none.
        output: Output.
    """
    from jpeg_bench.plots import import_pyplot, plot_sweep
    from jpeg_bench.summary import summarize_points
    from jpeg_bench.sweep import run_sweep, sweep_points

    if results is not None:
        import_pyplot()  # fails before the measurement, not after it
    with show_progress(COMMAND) as progress:
        load = clients.closed_loop(1, time.seconds)
        found = run_sweep(repository.model_repository, photos, load, progress)
    if results is not None:
        _write(results, found, plot_sweep)
    _print(found, output, lambda result: summarize_points(sweep_points(result)))


@app.command
def shrink(
    *,
    repository: RepositoryOptions = REPOSITORY,
    target: TargetOptions = TARGET,
    photos: PhotoOptions = PHOTOS,
    uplink_mbit: PositiveNumbers = (5.0, 20.0, 100.0),
    output: OutputOptions = OUTPUT,
) -> None:
    """Measure what the client's shrink saves, and what it costs in labels: each photo whole and shrunk.

    Args:
        repository: Model repository.
        target: Server.
        photos: Photos, best your own; smaller than about 1 megapixel, they are sent as they are.
        uplink_mbit: Speeds of the network in Mbit/s, separated by commas, for which photos per second are computed.
        output: Output.
    """
    from jpeg_bench.shrink_cost import measure_shrinking
    from jpeg_bench.summary import summarize_shrinking

    images = photos.read()
    with show_progress(COMMAND) as progress, _open_server(repository, target) as server:
        protocol = _protocols(target, server)[0]
        url = f"{protocol}://{server.address(protocol)}"
        found = measure_shrinking(url, server.model, images, uplink_mbit, progress)
    environment = {name: value for name, value in _environment(images).items() if name != "photos"}
    _print({**environment, **found}, output, summarize_shrinking)


@app.command
def soak(
    *,
    repository: RepositoryOptions = REPOSITORY,
    target: TargetOptions = TARGET,
    photos: PhotoOptions = PHOTOS,
    clients: ClientOptions = CLIENTS,
    duration_s: PositiveSeconds = 600.0,
    batch_size: PositiveInteger = 1,
    request_rate: Annotated[float | None, Parameter(validator=positive)] = None,
    peak_fraction: Annotated[float, Parameter(validator=positive)] = 0.9,
    concurrency: PositiveInteger = 32,
    peak_seconds: PositiveSeconds = 20.0,
    open_loop: OpenLoopOptions = OPEN_LOOP,
    output: OutputOptions = OUTPUT,
) -> None:
    """Apply an open loop for a long time, and measure the drift of latency, CPU time per image and memory.

    Args:
        repository: Model repository.
        target: Server. Without --protocol, the first protocol whose address is known.
        photos: Photos.
        clients: Clients.
        duration_s: Duration of the open loop in seconds.
        batch_size: Images per request.
        request_rate: Requests per second. By default --peak-fraction decides.
        peak_fraction: Request rate relative to the throughput of a closed loop, which is measured first.
        concurrency: Concurrent requests of that closed loop.
        peak_seconds: Duration of that closed loop in seconds.
        open_loop: Open loop.
        output: Output.
    """
    from jpeg_bench.load_point import measure_load, prepare_and_check
    from jpeg_bench.soak import measure_soak
    from jpeg_bench.summary import summarize_soak

    images = photos.read()
    with show_progress(COMMAND) as progress, _open_server(repository, target) as server:
        protocol = _protocols(target, server)[0]
        requests = prepare_and_check(server, protocol, images.data, batch_size)
        peak: dict[str, Any] | None = None
        if request_rate is None:
            load = clients.closed_loop(concurrency, peak_seconds)
            progress(f"{protocol}, batch size {batch_size}, {load}")
            point = measure_load(server, requests, load)
            peak, request_rate = point.to_json(), peak_fraction * point.result.requests_per_s
        load = clients.open_loop(request_rate, open_loop.request_distribution, duration_s)
        progress(f"{protocol}, batch size {batch_size}, {load} for {duration_s:g} s")
        found = measure_soak(server, requests, load)
    result = {**_environment(images), "start_s": server.start_s, "idle": server.idle, "peak": peak, "soak": found}
    _print(result, output, lambda each: summarize_soak(each["soak"]))


@app.command
def tune(
    *,
    goal: Annotated[Goal, Parameter(name="--for")] = "throughput",
    repository: RepositoryOptions = REPOSITORY,
    model: str = ENSEMBLE,
    protocol: Protocols = ("grpc",),
    batch_size: PositiveIntegers = (1,),
    concurrency: PositiveIntegers = (),
    p99_ms: Annotated[float | None, Parameter(validator=positive)] = None,
    photos: PhotoOptions = PHOTOS,
    budget_s: Annotated[float, Parameter(validator=_budget)] = 300.0,
    trial_s: PositiveSeconds = 1.0,
    client_processes: PositiveInteger | None = None,
    write: bool = False,
    output: OutputOptions = OUTPUT,
) -> None:
    """Find the settings with which this machine serves a repository fastest, in copies of it.

    Tuned are the instances, queue delays and decoder threads of its models, the decoder where a GPU offers another one
    with the same labels, and the number of servers (`jpeg-serve --servers`).

    Args:
        goal: What is to become better: images per second, or the median latency of a request.
        repository: Model repository.
        model: Name of the ensemble.
        protocol: Protocols of the load, separated by commas.
        batch_size: Images per request, separated by commas: each is a part of the load, and all count the same.
        concurrency: Concurrent requests, separated by commas. By default 1 for latency, and for throughput as many as
            saturate the server.
        p99_ms: Bound of the 99th percentile of the latency, in milliseconds.
        photos: Photos.
        budget_s: Time limit for everything, in seconds.
        trial_s: Duration of each measurement in seconds.
        client_processes: Client processes, doubled if one uses 80 % of a CPU. By default a quarter of the CPUs.
        write: Write the choice into the configs of the repository; their comments stay.
        output: Output.
    """
    from jpeg_bench.tune import TuneOptions, summarize_tuned
    from jpeg_bench.tune import tune as find_settings

    options = TuneOptions(
        repository=repository.model_repository,
        ensemble=model,
        goal=goal,
        protocols=protocol,
        batch_sizes=batch_size,
        concurrencies=concurrency,
        p99_limit_ms=p99_ms,
        budget_s=budget_s,
        seconds=trial_s,
        processes=ClientOptions(client_processes=client_processes).processes,
    )
    images = photos.read()
    with show_progress(COMMAND) as progress:
        found = find_settings(options, images.data, progress)
    result = {**_environment(images), **found.to_json()}
    if write and result["within_limits"]:
        result["written"] = [str(file) for file in found.tunable.write(found.outcome.choice)]
    _print(result, output, summarize_tuned)
    if write and not result["within_limits"]:
        raise BenchError(
            "nothing was written: no setting that was tried is without failures and within --p99-ms",
            reason="limits_missed",
        )


@app.command(name="cross-check")
def cross_check(
    *,
    tool: Tool = "perf_analyzer",
    repository: RepositoryOptions = REPOSITORY,
    target: TargetOptions = TARGET,
    photos: PhotoOptions = PHOTOS,
    time: TimeOptions = TIME,
    clients: ClientOptions = CLIENTS,
    batch_size: PositiveIntegers = (1,),
    concurrency: PositiveIntegers = (1, 32),
    output: OutputOptions = OUTPUT,
) -> None:
    """Compare the load generator with an independent one under the same closed loops.

    Args:
        tool: Independent load generator, which must be on the PATH. wrk supports HTTP only.
        repository: Model repository.
        target: Server.
        photos: Photos.
        time: Duration.
        clients: Clients.
        batch_size: Images per request, separated by commas.
        concurrency: Concurrent requests, separated by commas.
        output: Output.
    """
    from jpeg_bench.cross_check import cross_check_load, require_tool, supported_protocols
    from jpeg_bench.load_point import prepare_and_check
    from jpeg_bench.summary import summarize_cross_checks

    require_tool(tool)
    images = photos.read()
    checks: list[dict[str, Any]] = []
    with show_progress(COMMAND) as progress, _open_server(repository, target) as server:
        for protocol in supported_protocols(tool, _protocols(target, server)):
            for size in batch_size:
                requests = prepare_and_check(server, protocol, images.data, size)
                for count in concurrency:
                    load = clients.closed_loop(count, time.seconds)
                    progress(f"{protocol}, batch size {size}, {load}")
                    checks.append(cross_check_load(tool, server, requests, images.data, load))
    result = {**_environment(images), "tool": tool, "checks": checks}
    _print(result, output, lambda found: summarize_cross_checks(found["checks"]))


@app.command
def growth(
    *,
    repository: RepositoryOptions = REPOSITORY,
    photos: PhotoOptions = PHOTOS,
    time: TimeOptions = TIME,
    clients: ClientOptions = CLIENTS,
    connections: PositiveIntegers = (1, 8, 64, 256, 1000, 2000),
    instances: PositiveIntegers = (1, 2, 3, 4),
    ensembles: PositiveIntegers = (1, 2, 4, 8),
    results: Path | None = None,
    output: OutputOptions = OUTPUT,
) -> None:
    """Measure how the cost of an image grows with connections, instances and ensembles.

    Args:
        repository: Model repository.
        photos: Photos.
        time: Duration.
        clients: Clients.
        connections: Connections, each with one request at a time, separated by commas; over both protocols.
        instances: Instances of preprocess and of the classifier, separated by commas.
        ensembles: Ensembles of equal models in one server, which take turns, separated by commas.
        results: JSON file to write; a plot with the suffix .png is written beside it. By default none.
        output: Output.
    """
    from jpeg_bench.growth import run_growth
    from jpeg_bench.plots import import_pyplot, plot_growth
    from jpeg_bench.summary import summarize_growth

    if results is not None:
        import_pyplot()  # fails before the measurement, not after it
    with show_progress(COMMAND) as progress:
        found = run_growth(
            repository.model_repository,
            photos,
            clients.closed_loop(1, time.seconds),
            progress,
            connections=connections,
            instances=instances,
            ensembles=ensembles,
        )
    if results is not None:
        _write(results, found, plot_growth)
    _print(found, output, summarize_growth)


@app.command
def capacity(
    *,
    repository: RepositoryOptions = REPOSITORY,
    target: TargetOptions = TARGET,
    photos: PhotoOptions = PHOTOS,
    time: TimeOptions = TIME,
    clients: ClientOptions = CLIENTS,
    batch_size: PositiveInteger = 1,
    concurrency: PositiveInteger = 64,
    peak_fraction: PositiveNumbers = (0.3, 0.5, 0.7, 0.8),
    check_fraction: PositiveNumbers = (0.6, 0.9),
    measured: Path | None = None,
    request_rate: PositiveNumbers = (),
    p99_ms: Annotated[float | None, Parameter(validator=positive)] = None,
    gateway_gigabits: Annotated[float, Parameter(validator=positive)] = 10.0,
    results: Path | None = None,
    output: OutputOptions = OUTPUT,
) -> None:
    """Fit a model of one server to measurements, check it, and say how many servers a load needs.

    Args:
        repository: Model repository.
        target: Server. Without --protocol, the first protocol whose address is known.
        photos: Photos.
        time: Duration.
        clients: Clients.
        batch_size: Images per request.
        concurrency: Concurrent requests of the closed loop that finds the peak.
        peak_fraction: Request rates that the model is fitted to, as fractions of the peak, separated by commas.
        check_fraction: Request rates that its predictions are compared with, separated by commas.
        measured: JSON file of an earlier run, instead of a measurement.
        request_rate: Requests per second to plan servers for, separated by commas.
        p99_ms: Limit of the 99th percentile of the latency in milliseconds for these plans. By default servers are
            used to nine tenths of their peak.
        gateway_gigabits: Gigabits per second that one gateway carries, for these plans.
        results: JSON file to write. By default none.
        output: Output.
    """
    from jpeg_bench.capacity import Capacity, plan
    from jpeg_bench.capacity_run import measure_capacity
    from jpeg_bench.load_point import prepare_and_check
    from jpeg_bench.results import read_result, write_result
    from jpeg_bench.summary import summarize_capacity

    if measured is not None:
        found = read_result(measured, "capacity")
    else:
        images = photos.read()
        with show_progress(COMMAND) as progress, _open_server(repository, target) as server:
            requests = prepare_and_check(server, _protocols(target, server)[0], images.data, batch_size)
            closed = clients.closed_loop(concurrency, time.seconds)
            found = measure_capacity(
                server, requests, closed, progress, fit_fractions=peak_fraction, check_fractions=check_fraction
            )
        found = {**_environment(images), **found}
    if results is not None:
        write_result(results, found)
        note(COMMAND, f"written: {results}")
    model = Capacity.from_json(found["capacity"])
    images_per_request = found["batch_size"]
    plans = [
        plan(model, rate * images_per_request, p99_ms=p99_ms, gateway_gigabits=gateway_gigabits).to_json()
        for rate in request_rate
    ]
    _print({**found, "plans": plans}, output, summarize_capacity)


@app.command
def plot(result: Path, /) -> None:
    """Plot a result of `sweep` to a file with the suffix .png beside it.

    Args:
        result: JSON file.
    """
    from jpeg_bench.plots import plot_sweep
    from jpeg_bench.results import read_result

    plot_sweep(read_result(result, "concurrency"), result.with_suffix(".png"))
    note(COMMAND, f"written: {result.with_suffix('.png')}")


def _open_server(repository: RepositoryOptions, target: TargetOptions) -> AbstractContextManager[TargetServer]:
    from jpeg_bench.target_server import find_server, start_server

    if target.url is None:
        return start_server(repository.model_repository, target.model)
    return nullcontext(find_server(target.url, target.model))


def _protocols(target: TargetOptions, server: TargetServer) -> tuple[Protocol, ...]:
    return target.protocol or tuple(server.addresses)


def _environment(photos: Photos) -> dict[str, Any]:
    from jpeg_bench.machine import describe_machine, package_versions

    return {"machine": describe_machine(), "versions": package_versions(), "photos": photos.to_json()}


def _write(file: Path, result: dict[str, Any], plot: Callable[[dict[str, Any], Path], None]) -> None:
    """Write a result, and its plot beside it."""
    from jpeg_bench.results import write_result

    write_result(file, result)
    plot(result, file.with_suffix(".png"))
    note(COMMAND, f"written: {file} and {file.with_suffix('.png').name}")


def _print(result: dict[str, Any], output: OutputOptions, summarize: Callable[[dict[str, Any]], str]) -> None:
    if output.as_json:
        print_json(result)
    else:
        print(summarize(result))
