"""The command `python -m fuzz`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from jpeg_contract.command_line import FAILED, OK, Integer, Parameter, make_app, note, positive, run_app
from jpeg_serve.errors import ServeError

from fuzz import known, replaying
from fuzz.campaign import Campaign
from fuzz.report import write
from fuzz.samples import FuzzError, make_repository
from fuzz.serving import ServerUnderTest

COMMAND = "fuzz"
app = make_app(
    COMMAND,
    "Send mutated inference requests to a tritonserver of its own, and record what they do to it.",
    "The summary goes to stdout; progress goes to stderr.\n\n"
    "Exit status: 0 no grave finding beside the known ones; 1 there are some, or a known killer does not do what is "
    "known of it; 2 the call is invalid.",
)


@contextmanager
def started(folder: Path, *, behind_gateway: bool = False) -> Iterator[ServerUnderTest]:
    """Start a server of a small network, with its files in a folder."""
    server = ServerUnderTest(make_repository(folder), folder / "triton.log", behind_gateway=behind_gateway)
    try:
        server.start()
        yield server
    finally:
        server.close()


@app.default
def fuzz(
    *,
    minutes: Annotated[float, Parameter(validator=positive)] = 60.0,
    seed: Integer = 1,
    results: Path = Path("fuzz-results"),
    known_killers: Annotated[bool, Parameter(name="--known")] = False,
    gateway: bool = False,
) -> int:
    """Send requests for some time, or the known killers.

    Args:
        minutes: Duration.
        seed: Of the requests: the same seed sends the same requests, as far as time allows.
        results: Folder of the summary, of a file for each finding, and of the server's log.
        known_killers: Send only what is known to end a server, to see whether it still does.
        gateway: Send through the gateway, also what ends a server without one; needs nginx.
    """
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary)
        note(COMMAND, "building the network and starting the server")
        with started(folder, behind_gateway=gateway) as server:
            if known_killers:
                return _send_known(server)
            campaign = Campaign(server, seed=seed, report=lambda line: note(COMMAND, line))
            try:
                campaign.run(minutes * 60)
            finally:
                text = write(campaign, results, seed=seed)
                (results / "triton.log").write_bytes((folder / "triton.log").read_bytes()[-5_000_000:])
            print(text)
            return FAILED if campaign.grave_findings() else OK


@app.command
def replay(finding: Path) -> int:
    """Send the requests of a finding to a new server, each alone and then all together.

    Args:
        finding: A file that a run has written.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary, started(Path(temporary)) as server:
        lines, died = replaying.replay(server, replaying.read_requests(finding))
        print("\n".join(lines))
        return FAILED if died else OK


def _send_known(server: ServerUnderTest) -> int:
    unexpected = False
    for killer in known.KNOWN:
        examples = killer.examples()
        attempts = [examples] if killer.together_s else [[example] for example in examples]
        for number, requests in enumerate(attempts):
            death = replaying.death_by(server, requests, seconds=killer.together_s)
            how = death.how if death else "survived"
            print(f"{killer.name}, example {number}: {how}{f' ({death.who})' if death else ''}", flush=True)
            # A race may be lost for minutes, and depends on how quickly the server responds.
            if death is not None or not killer.together_s:
                refused = server.behind_gateway and not killer.passes_gateway
                unexpected |= how != ("survived" if refused else killer.signal)
            server.restart()
    return FAILED if unexpected else OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_app(app, arguments, extra="serve", statuses={ServeError: FAILED, FuzzError: FAILED})
