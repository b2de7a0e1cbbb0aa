"""How it ends: drained by a signal, or killed at once and started again."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
from faults.answers import Verdict
from faults.senders import Load
from faults.service import Service, alive
from faults.traffic import Traffic
from faults.trials import problems
from jpeg_contract.folders import SHARED_MEMORY
from support import started

# Between sending a request and the server reading it, on a busy machine.
_IN_TRANSIT_S = 0.3


@pytest.mark.parametrize("servers", [1, 2])
def test_a_signal_under_load_lets_every_accepted_request_be_answered(identity_repository, samples, tmp_path, servers):
    service = Service(identity_repository, tmp_path / "log", servers=servers)
    service.start()
    family = service.family()
    load = Load(grpc=24, http=24, grpc_batches=4, http_batches=4, clients=0, pause_s=0)
    try:
        with Traffic(service.target, samples, load) as traffic:
            traffic.wait_until_answering()
            signalled = time.monotonic()
            assert service.stop(signal.SIGTERM) == 0
            segments = service.segments()
    finally:
        service.kill()
    record = traffic.record
    assert record.lies == []
    assert record.lost == []
    waiting = [each for each in record.outcomes if each.sent < signalled - _IN_TRANSIT_S < each.done]
    assert waiting, "no request was open when the signal came: more load is needed"
    open_requests = [each for each in record.outcomes if each.sent < signalled < each.done]
    unanswered = [
        each
        for each in open_requests
        if each.verdict is Verdict.REFUSED and (each.status == "disconnected" or each.reason != "server_stopping")
    ]
    assert unanswered == [], record.summary()
    assert segments == []
    assert alive(family) == []


def test_everything_is_killed_at_once_and_started_again(identity_repository, samples, tmp_path):
    """The new one removes the shared memory that the dead ones left, and nobody else's."""
    first = Service(identity_repository, tmp_path / "first", servers=2)
    first.start()
    bystander = SHARED_MEMORY / "faults_of_somebody_else"
    bystander.write_bytes(b"1")
    try:
        with Traffic(first.target, samples, Load(clients=0)) as traffic:
            traffic.wait_until_answering()
            assert first.segments()
            killed = first.kill()
            assert alive(killed) == []
        with Service(identity_repository, tmp_path / "second", servers=2) as second:
            assert first.segments() == []
            with Traffic(second.target, samples) as again:
                again.wait_until_answering()
            assert second.segments()
        assert bystander.exists()
    finally:
        bystander.unlink()
    assert problems(traffic.record) == []
    assert problems(again.record) == []
    assert second.segments() == []


def test_a_terminated_soak_ends_its_server_and_keeps_what_it_measured(identity_repository, tmp_path):
    command = [sys.executable, "-m", "faults", "soak", "--model-repository", identity_repository, "--results", tmp_path]
    with (tmp_path / "stderr").open("w+") as talk:
        with started(*command, stdout=subprocess.DEVNULL, stderr=talk) as process:
            limit = time.monotonic() + 120
            while "requests/s" not in (tmp_path / "stderr").read_text():
                assert process.poll() is None and time.monotonic() < limit, (tmp_path / "stderr").read_text()
                time.sleep(0.1)
            family = psutil.Process(process.pid).children(recursive=True)
            assert any(child.name() == "tritonserver" for child in family), family
            process.terminate()
            assert process.wait(60) == 1
        assert alive(family) == []
    assert json.loads((tmp_path / "soak.json").read_text())["capacity_per_s"] > 0
