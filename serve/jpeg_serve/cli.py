"""The command `jpeg-serve`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from jpeg_contract.allocator import use_one_arena
from jpeg_contract.command_line import (
    FAILED,
    OK,
    WRONG_CALL,
    Parameter,
    fail,
    make_app,
    note,
    port,
    positive,
    print_json,
    run_app,
    waiting,
)
from jpeg_contract.gpus import VISIBLE_DEVICES
from jpeg_contract.remedies import DEFAULT_REPOSITORY
from jpeg_contract.tensors import ENSEMBLE

from jpeg_serve import COMMAND
from jpeg_serve.errors import PrerequisiteError, ReloadError, ServeError
from jpeg_serve.logs import LogStream, chosen_format
from jpeg_serve.machine import ServedWith
from jpeg_serve.options import LoadOptions, ServerOptions, natural
from jpeg_serve.probe import DEFAULT_TIMEOUT_S
from jpeg_serve.web import DEFAULT_WEB_PORT

if TYPE_CHECKING:
    from jpeg_serve.check import CheckResult
    from jpeg_serve.models import Problem
    from jpeg_serve.probe import ProbeResult, ProbeSkipped
    from jpeg_serve.supervisor import Supervisor
    from jpeg_serve.web import WebApplication

END_OF_OPTIONS = "--"

RESTART_SIGNAL = signal.SIGUSR1
"""Lets a running jpeg-serve replace its servers one after the other."""

# Options of tritonserver that jpeg-serve must know, too.
_OWN = (
    "--model-repository",
    "--http-port",
    "--grpc-port",
    "--metrics-port",
    "--exit-timeout-secs",
    "--load-model",
)

# Set for the process that a reload runs in another Python environment.
_HANDED_OVER = "JPEG_SERVE_HANDED_OVER"

FEW_HTTP_RESPONSES = 2048
"""Fewer responses that can finish at once without a loss are worth a warning."""

app = make_app(
    COMMAND,
    "Serve a model repository with the tritonserver on the PATH, else with the one in the wheel nvidia-pytriton.",
    # One line per paragraph: the help wraps them to the terminal.
    "Options after -- go to tritonserver as they are, for example: jpeg-serve -- --log-verbose=1\n\n"
    "Ctrl-C or SIGTERM stops the server: it finishes open requests first. A second Ctrl-C ends it at once.\n\n"
    "Exit status: 0 stopped by a signal, no problem found, reloaded, or classified; 1 it failed; 2 the call is "
    "invalid.",
)
# The last one counts: containers append the user's options to their own.
app.default_parameter = Parameter.combine(app.default_parameter, Parameter(allow_repeating=True))
app.usage = f"Usage: {COMMAND} [run | check | reload | restart | probe | unit] [OPTIONS] [-- TRITON_OPTION...]"

_LOAD, _SERVER = LoadOptions(), ServerOptions()

_triton_options: ContextVar[tuple[str, ...]] = ContextVar("triton_options", default=())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: None takes sys.argv.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    end = tokens.index(END_OF_OPTIONS) if END_OF_OPTIONS in tokens else len(tokens)
    own, triton = tokens[:end], tuple(tokens[end + 1 :])
    if triton and own and own[0] in ("check", "reload", "restart", "probe"):
        return fail(
            COMMAND,
            f"options of tritonserver, after --, are for run and unit; {own[0]} takes none",
            WRONG_CALL,
            reason="invalid_call",
        )
    misplaced = [option.split("=")[0] for option in triton if option.split("=")[0] in _OWN]
    if misplaced:
        return fail(
            COMMAND,
            f"give {misplaced[0]} before the --: {COMMAND} needs its value, too",
            WRONG_CALL,
            reason="invalid_call",
        )
    reset = _triton_options.set(triton)
    # A server writes a log; the other commands talk to a person.
    is_run = not own or own[0] == "run" or own[0].startswith("-")
    log = LogStream(sys.stderr, chosen_format(own)) if is_run and not {"--help", "-h", "--version"} & {*own} else None
    try:
        with contextlib.redirect_stderr(log) if log is not None else contextlib.nullcontext():
            return run_app(app, own, extra="serve", statuses={ServeError: FAILED})
    finally:
        _triton_options.reset(reset)


def _validate_serve_with(_kind: Any, texts: tuple[str, ...]) -> None:
    parse_serve_with(texts)


def parse_serve_with(texts: Sequence[str]) -> dict[str, ServedWith]:
    """Read `BACKEND=native` or `BACKEND=python`.

    Raises:
        ValueError: A text is neither, or no classifier form has this backend.
    """
    from jpeg_contract.forms import FORMS

    known = sorted({form.backend for form in FORMS.values()})
    choices: Mapping[str, ServedWith] = {"native": "native", "python": "python"}
    chosen: dict[str, ServedWith] = {}
    for text in texts:
        backend, _, choice = text.partition("=")
        if choice not in choices or backend not in known:
            raise ValueError(f"write BACKEND=native or BACKEND=python, with a BACKEND of {', '.join(known)}")
        chosen[backend] = choices[choice]
    return chosen


ServeWith = Annotated[
    tuple[str, ...], Parameter(name="--serve-with", validator=_validate_serve_with, show_default=False)
]


@app.default
def run(
    *,
    options: Annotated[ServerOptions, Parameter(name="*")] = _SERVER,
    servers: Annotated[int, Parameter(validator=natural)] = 0,
    serve_with: ServeWith = (),
    web: bool = False,
    web_port: Annotated[int, Parameter(validator=port)] = DEFAULT_WEB_PORT,
) -> int:
    """Check the repository and serve it until Ctrl-C or SIGTERM.

    Args:
        options: See ServerOptions.
        servers: Number of tritonservers on the same ports, each watched and replaced when it dies, hangs or fails; 0
            takes one for each GPU that the models use, otherwise one.
        serve_with: BACKEND=native or BACKEND=python: which backend serves, can be repeated; by default each classifier
            form decides.
        web: Start jpeg-web, too, once the servers are ready: JSON over HTTP, and a page for the browser.
        web_port: Its port; 0 takes a free one.
    """
    from jpeg_serve.tracing import collector_url

    return _serve(
        replace(
            options,
            serve_with=parse_serve_with(serve_with),
            trace_to=collector_url(options.trace_to) if options.trace_to else "",
            triton=_triton_options.get(),
        ),
        servers,
        web_port=web_port if web else None,
    )


app.command(run)


@app.command
def check(
    *,
    options: Annotated[LoadOptions, Parameter(name="*")] = _LOAD,
    serve_with: ServeWith = (),
    static: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Check the repository: its files, then a trial in a real tritonserver on free ports; one line per problem.

    Args:
        options: See LoadOptions.
        serve_with: BACKEND=native or BACKEND=python: which backend serves, can be repeated; by default each classifier
            form decides.
        static: Check the files only, without the trial.
        as_json: Print JSON instead of text.
    """
    from jpeg_serve.check import examine_repository
    from jpeg_serve.machine import backends_folder, this_machine

    chosen = parse_serve_with(serve_with)
    repository = options.model_repository
    machine = this_machine(backends=backends_folder(repository, options.backends), serve_with=chosen)
    result = examine_repository(repository, machine, load=options.load)
    if result.problems:
        trial, problems = "not run: the files have problems", result.problems
    elif static:
        trial, problems = "not run: --static", []
    else:
        trial, problems = _try(replace(options, serve_with=chosen))
    if as_json:
        print_json(
            {
                "model_repository": str(repository),
                "problems": [asdict(problem) for problem in problems],
                "classifiers": [asdict(classifier) for classifier in result.classifiers],
                "trial": trial,
            }
        )
    else:
        _print_check(repository, result, problems, trial)
    return FAILED if problems else OK


def _try(options: LoadOptions) -> tuple[str, list[Problem]]:
    """Run the trial; return its outcome and its problems."""
    from jpeg_serve.locate import find_installation
    from jpeg_serve.trial import run_trial

    try:
        find_installation()
    except PrerequisiteError as error:
        return f"not run: {error}", []

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # As Ctrl-C does: the server of the trial is stopped first.
    signal.signal(signal.SIGTERM, interrupt)
    note(COMMAND, "loading the models for the trial ...")
    report = waiting(lambda seconds: note(COMMAND, f"loading for the trial, {seconds:.0f} s"))
    problems = run_trial(options, report)
    return ("failed" if problems else "passed"), problems


def _print_check(repository: Path, result: CheckResult, problems: list[Problem], trial: str) -> None:
    from jpeg_serve.check import summary

    for problem in problems:
        print(problem)
    if problems:
        print(f"trial in a real tritonserver: {trial}", file=sys.stderr)
        return
    print(summary(repository))
    for classifier in result.classifiers:
        print(classifier)
    print(f"trial in a real tritonserver: {trial}")


@app.command
def reload(
    *,
    model_repository: Path | None = None,
    http_port: Annotated[int | None, Parameter(validator=port)] = None,
    ready_timeout_s: Annotated[float, Parameter(validator=positive)] = ServerOptions.ready_timeout_s,
    drain_s: Annotated[int, Parameter(validator=natural)] = ServerOptions.drain_s,
) -> int:
    """Load the repository's current content into a running server; no request fails meanwhile.

    That may be another classifier, a rebuilt one, another version, edited instances. The files are checked first.

    Args:
        model_repository: Repository of the server. By default model_repository, or any with --http-port.
        http_port: Port of the server. By default the one that serves the repository.
        ready_timeout_s: Time limit for each model to load, in seconds.
        drain_s: Time limit for the last requests of models that are no longer used, in seconds.
    """
    from jpeg_contract.run_folder import read_ensembles

    from jpeg_serve.machine import this_machine
    from jpeg_serve.probe import probe as probe_server
    from jpeg_serve.reload import choose_servers, reload_server

    repository = DEFAULT_REPOSITORY if model_repository is None and http_port is None else model_repository
    servers = choose_servers(repository, http_port)
    running = servers[0][1]
    if running.prefix != sys.prefix and os.environ.get(_HANDED_OVER):
        # A launcher that changes the environment would repeat this for ever.
        raise ReloadError(
            f"the server runs in the Python environment {running.prefix}, and {running.python} starts in another: "
            f"run {COMMAND} reload as the server was started",
            reason="other_environment",
        )
    if running.prefix != sys.prefix:
        # The packages of the server's environment count.
        command = [running.python, "-m", "jpeg_serve", "reload", "--model-repository", running.model_repository]
        command += ["--http-port", running.http_address.rpartition(":")[2]]
        command += ["--ready-timeout-s", str(ready_timeout_s), "--drain-s", str(drain_s)]
        return subprocess.run(command, check=False, env={**os.environ, _HANDED_OVER: "1"}).returncode
    for number, (file, running) in enumerate(servers, start=1):
        environment = {name: value for name, value in os.environ.items() if name != VISIBLE_DEVICES}
        if running.visible_devices is not None:
            environment[VISIBLE_DEVICES] = running.visible_devices
        machine = this_machine(
            backends=Path(running.backends),
            natives=Path(running.natives),
            environment=environment,
            serve_with=running.served_with,
        )
        if len(servers) > 1:
            note(COMMAND, f"server {number} of {len(servers)}")
        served = reload_server(
            file, running, machine, lambda step: note(COMMAND, step), load_s=ready_timeout_s, unload_s=drain_s
        )
        if number == 1:
            print(f"serving now: {'; '.join(served)}", flush=True)
        # A wrong label on the first server keeps the others as they are.
        results = {
            name: _probe_or_skip(
                partial(
                    probe_server,
                    running.http_address,
                    name,
                    timeout_s=ready_timeout_s,
                    repository=Path(running.model_repository),
                    server_id=running.server_id,
                )
            )
            for name in read_ensembles(Path(running.run_folder))
        }
    _report_probes(results)
    return OK


@app.command
def restart(
    *,
    model_repository: Path | None = None,
    http_port: Annotated[int | None, Parameter(validator=port)] = None,
) -> int:
    """Replace the running servers one after the other by new ones: each is drained first. Returns at once.

    With one server, requests are refused until the new one is ready; with several, the others serve.

    Args:
        model_repository: Repository of the servers. By default model_repository, or any with --http-port.
        http_port: Port of the servers. By default the one that serves the repository.
    """
    from jpeg_serve.reload import choose_servers

    repository = DEFAULT_REPOSITORY if model_repository is None and http_port is None else model_repository
    _, running = choose_servers(repository, http_port)[0]
    os.kill(running.owner, RESTART_SIGNAL)
    note(COMMAND, f"the jpeg-serve with process id {running.owner} replaces its servers")
    return OK


@app.command
def probe(
    *,
    address: str = ServerOptions.address,
    http_port: Annotated[int | None, Parameter(validator=port)] = None,
    model: str = ENSEMBLE,
    model_repository: Path | None = None,
    timeout_s: Annotated[float, Parameter(validator=positive)] = DEFAULT_TIMEOUT_S,
) -> int:
    """Let a server classify a photo, compare the label with the classifier's report, and print it: a health check.

    Args:
        address: IP address of the server.
        http_port: Its HTTP port. By default that of the running jpeg-serve that serves --model-repository, else 8000.
        model: The ensemble.
        model_repository: Its model repository. By default that of the running jpeg-serve of this user; without one,
            the label is not compared.
        timeout_s: Time limit for each connection and each response, in seconds.
    """
    from jpeg_serve.ports import reachable
    from jpeg_serve.probe import probe as probe_server
    from jpeg_serve.reload import http_port_of
    from jpeg_serve.state import find_at

    if http_port is None:
        http_port = http_port_of(model_repository or DEFAULT_REPOSITORY) or ServerOptions.http_port
    server = f"{reachable(address)}:{http_port}"
    if model_repository is None and (running := find_at(server)) is not None:
        model_repository = Path(running.model_repository)
    result = probe_server(server, model, timeout_s, model_repository)
    print(result.label)
    if result.note:
        note(COMMAND, f"probe: {result.note}")
    return OK


@app.command
def unit(
    *,
    options: Annotated[ServerOptions, Parameter(name="*")] = _SERVER,
    servers: Annotated[int, Parameter(validator=natural)] = 0,
    serve_with: ServeWith = (),
    web: bool = False,
    web_port: Annotated[int, Parameter(validator=port)] = DEFAULT_WEB_PORT,
    user: str | None = None,
) -> int:
    """Print a systemd unit that runs this installation with the given options.

    Args:
        options: See ServerOptions.
        servers: See run.
        serve_with: See run.
        web: See run.
        web_port: See run.
        user: Who runs it. By default the user of this command; for root, one that systemd makes for it.
    """
    from jpeg_serve.machine import this_machine
    from jpeg_serve.unit import unit_text

    more = {"servers": servers, "serve_with": serve_with, "web": web, "web_port": web_port if web else 0}
    options = replace(options, triton=_triton_options.get())
    chosen = {name: value for name, value in more.items() if value}
    print(unit_text(options, chosen, user=user, has_gpu=bool(this_machine().gpus.found)), end="")
    return OK


def _probe_or_skip(probe_server: Callable[[], ProbeResult]) -> ProbeResult | ProbeSkipped:
    """Probe a server; return why not where there is no classifier. Raises ProbeError."""
    from jpeg_serve.probe import ProbeSkipped

    try:
        return probe_server()
    except ProbeSkipped as skipped:
        return skipped


def _report_probes(results: Mapping[str, ProbeResult | ProbeSkipped]) -> None:
    from jpeg_serve.probe import ProbeSkipped

    if not results:
        note(COMMAND, "probe skipped: the server serves no image classifier of this project")
    for name, result in results.items():
        by = f" by {name}" if len(results) > 1 else ""
        if isinstance(result, ProbeSkipped):
            note(COMMAND, f"probe skipped: {result}")
            continue
        compared = f"; {result.note}" if result.note else ", as its report states"
        note(COMMAND, f'probe: the photo is labelled "{result.label}"{by}{compared}')


def _serve(options: ServerOptions, servers: int, *, web_port: int | None) -> int:
    """Serve until a signal. web_port: of the web application, None for none."""
    from jpeg_serve.machine import backends_folder, this_machine
    from jpeg_serve.metrics_page import MetricsPage
    from jpeg_serve.models import read_models, served_models
    from jpeg_serve.placement import check_placement, place_servers
    from jpeg_serve.supervisor import Supervisor
    from jpeg_serve.web import WebApplication, require_web

    if web_port is not None:
        require_web(options, web_port)
    backends = backends_folder(options.model_repository, options.backends)
    machine = this_machine(backends=backends, serve_with=options.serve_with)
    models, _ = read_models(options.model_repository)
    devices = place_servers(servers, served_models(models, options.load), machine)
    if len(devices) > 1 and "--id" in options.names_of_triton:
        return fail(
            COMMAND,
            "--id names one server, and several run: omit it, or add --servers 1",
            WRONG_CALL,
            reason="invalid_call",
        )
    check_placement(devices, options)
    use_one_arena()
    supervisor = Supervisor(options, devices, progress=lambda step: note(COMMAND, step))
    stop = _Stop(supervisor)
    stop.on_signals()
    page = None
    try:
        supervisor.start()
        options = supervisor.options
        if not stop.signals:
            page = MetricsPage(options.address, options.metrics_port, supervisor.keepers)
            page.start()
            if web_port is not None:
                served = served_models(models, options.load)
                stop.web = WebApplication(options, web_port, served, lambda step: note(COMMAND, step))
                stop.web.start(lambda: bool(stop.signals))
            _report_start(supervisor, stop.web)
            supervisor.wait()
    finally:
        stop.end()
        supervisor.stop()
        if page is not None:
            page.stop()
    note(COMMAND, "stopped")
    return OK


class _Stop:
    """Stops the web application and the servers at the first signal, and ends them at once at the second one.

    Args:
        supervisor: Of the servers.

    Attributes:
        web: The web application, None for none.
        signals: Number of signals so far.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.web: WebApplication | None = None
        self.signals = 0

    def on_signals(self) -> None:
        """Handle the signals of this process."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(RESTART_SIGNAL, self._on_restart)

    def end(self) -> None:
        """Stop the web application first, because its open requests need the servers; then let those stop."""
        if self.web is not None:
            self.web.stop()
        self._supervisor.end()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals == 1:
            note(COMMAND, "stopping; open requests are finished first, Ctrl-C again ends them")
            threading.Thread(target=self.end, name="end", daemon=True).start()
            return
        if self.web is not None:
            self.web.kill()
        self._supervisor.kill()

    def _on_restart(self, _number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=self._supervisor.replace_all, name="restart", daemon=True).start()


def _report_start(supervisor: Supervisor, web: WebApplication | None) -> None:
    from jpeg_serve.ports import reachable

    first = supervisor.keepers[0]
    if first.first_probes is not None:
        _report_probes(first.first_probes)
    most = min(keeper.most_http_responses for keeper in supervisor.keepers)
    if most < FEW_HTTP_RESPONSES:
        note(
            COMMAND,
            "with more than some 250 HTTP connections at once, Triton may lose responses: the system does not allow "
            "larger socket buffers (see docs/serving.md). Use gRPC, the gateway, or more --servers",
        )
    options = supervisor.options
    count = len(supervisor.keepers)
    note(
        COMMAND,
        f"ready\n  HTTP     http://{supervisor.http_address}\n  gRPC     {supervisor.grpc_address}\n"
        f"  metrics  http://{reachable(options.address)}:{options.metrics_port}/metrics"
        + (f"\n  web      {web.url}" if web is not None else "")
        + (f"\n  servers  {count} on the same ports" if count > 1 else ""),
    )
