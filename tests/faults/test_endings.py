"""How it ends: drained by a signal, or killed at once and started again."""

import signal
import time

import pytest
from faults.answers import Verdict
from faults.senders import Load
from faults.service import SHARED_MEMORY, Service, alive
from faults.traffic import Traffic
from faults.trials import problems

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
