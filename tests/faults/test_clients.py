"""Clients: those that hang up, thousands at once, and more than can be served."""

import itertools
import time

import pytest
from faults import injection
from faults.answers import Verdict
from faults.crowd import crowd
from faults.overload import measure_overload
from faults.relay import send_half_over_grpc
from faults.samples import mixed_samples, slow_samples
from faults.senders import Load
from faults.traffic import Traffic
from faults.trials import fault, problems
from faults.wire import grpc_message, http_request


def test_a_client_disconnects_in_the_middle_of_a_body(service, samples):
    """Over HTTP, with RST and FIN, at many places; over gRPC, through a relay that cuts the connection."""
    large = max(samples, key=lambda sample: len(sample.data))
    request = http_request(service.target.http, [large])
    before = {process.pid for process in service.servers()}
    with fault(service, samples) as injected:
        for share, reset in itertools.product([0.0001, 0.1, 0.5, 0.9, 0.99999, 1], [True, False]):
            injection.send_half(service.target.http, request, share, reset=reset)
        for cut_after in (100, 1_000, 100_000, 1_000_000):
            send_half_over_grpc(service.target.grpc, grpc_message([large]), cut_after)
        injected.over()
    assert {process.pid for process in service.servers()} == before
    assert injected.recovery_s < 2


def test_thousands_of_requests_of_many_sizes_get_each_its_own_answer(service):
    samples = mixed_samples(512, wrong_every=5)
    with Traffic(
        service.target, samples, Load(grpc=48, http=48, grpc_batches=8, http_batches=8, clients=2, pause_s=0)
    ) as traffic:
        limit = time.monotonic() + 60
        while traffic.record.count(Verdict.RIGHT) < 4000 and time.monotonic() < limit:
            time.sleep(0.1)
    assert problems(traffic.record) == []
    right = traffic.record.select(Verdict.RIGHT)
    assert len(right) >= 3000, traffic.record.summary()
    assert len({each.protocol for each in right}) == 4


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_two_thousand_connections_at_once(service, protocol):
    """Each is answered, or refused; none waits for ever."""
    samples = mixed_samples(256, large=False)
    record = crowd(service.target, protocol, samples, connections=2000, limit_s=60)
    assert len(record.outcomes) == 2000
    assert problems(record) == []
    assert len(record.select(Verdict.RIGHT)) >= 100, record.summary()


def test_overload(service):
    result = measure_overload(service.target, slow_samples(), seconds=4)
    assert result["problems"] == [], result
    assert result["refused"] > 100, result
    assert set(result["refusals_by_status"]) <= {"grpc UNAVAILABLE", "http 503"}, result
    # Twice what the program demands: other programs may use this machine's cores.
    assert result["accepted_p99_s"] < 2 * result["allowed_p99_s"], result
    assert result["after_p50_s"] < 3 * result["unloaded_p50_s"] + 0.05, result
