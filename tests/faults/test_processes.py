"""Processes that die, hang, freeze or have no memory, under load: it answers again by itself, and rightly."""

import itertools
import time
from contextlib import ExitStack

import pytest
from faults import injection
from faults.senders import Load
from faults.trials import fault

MODELS = ("preprocess", "classifier", "postprocess")


@pytest.mark.parametrize("model", MODELS)
def test_a_killed_worker_is_replaced(service, samples, model):
    with fault(service, samples) as injected:
        injection.kill(service.workers(model))
        injected.over()


def test_a_killed_server_is_replaced(service, samples):
    with fault(service, samples) as injected:
        injection.kill(service.servers())
        injected.over()


def test_one_of_two_servers_is_killed(two_servers, samples):
    """The other one answers meanwhile, and afterwards there are two again."""
    first, second = two_servers.servers()
    with fault(two_servers, samples) as injected:
        injection.kill([first])
        injected.over()
        limit = time.monotonic() + 20
        # The killed one is listed until its parent has waited for it.
        while (first.pid in (pids := {each.pid for each in two_servers.servers()}) or len(pids) < 2) and (
            time.monotonic() < limit
        ):
            time.sleep(0.1)
    assert second.pid in pids
    assert first.pid not in pids
    assert len(pids) == 2
    # What the dead one had is refused; the other one has half of the connections, which notice nothing.
    right = [
        each for each in injected.record.outcomes if each.sent > injected.over_at and each.verdict.value == "right"
    ]
    moments = sorted(each.done for each in right)
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) < 2.5


def test_a_hanging_worker_of_one_of_two_servers_costs_that_server_only(two_servers, samples):
    """The clock starts when it hangs: jpeg-serve has to notice it by itself."""
    before = {process.pid for process in two_servers.servers()}
    with fault(two_servers, samples) as injected, injection.stopped(two_servers.workers("classifier")[:1]):
        injected.over()
        injected.wait()
    after = {process.pid for process in two_servers.servers()}
    assert len(before & after) == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_that_hangs_for_ever_is_replaced(service, samples, model):
    with fault(service, samples) as injected, injection.stopped(service.workers(model)):
        injected.over()
        injected.wait()


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_that_hangs_while_its_server_starts_is_replaced(service, samples, model):
    before = {worker.pid for worker in service.workers(model)}
    with fault(service, samples) as injected:
        injection.kill(service.servers())
        limit = time.monotonic() + 20
        while not (starting := [each for each in service.workers(model) if each.pid not in before]):
            assert time.monotonic() < limit
            time.sleep(0.01)
        with injection.stopped(starting[:1]):
            injected.over()
            injected.wait()


@pytest.mark.parametrize("seconds", [1.2])
def test_a_worker_that_hangs_for_a_while_never_answers_for_another_image(service, samples, seconds):
    with fault(service, samples) as injected:
        with injection.stopped(service.workers("preprocess")):
            time.sleep(seconds)
        injected.over()


@pytest.mark.parametrize("seconds", [0.5, 1.2, 2, 5])
def test_a_stopped_group(service, samples, seconds):
    """As a debugger, a terminal or a container runtime stops the server with all its workers."""
    (server,) = service.servers()
    with fault(service, samples) as injected:
        with injection.group_stopped(server.pid):
            time.sleep(seconds)
        injected.over()


@pytest.mark.parametrize("seconds", [2])
def test_everything_is_stopped(service, samples, seconds):
    with fault(service, samples) as injected:
        with injection.stopped(service.family()):
            time.sleep(seconds)
        injected.over()


@pytest.fixture
def freezer():
    if missing := injection.freezer_missing():
        pytest.skip(missing)


def test_a_frozen_worker(service, samples, freezer):
    """No signal tells a frozen process that it went on."""
    with fault(service, samples) as injected:
        with injection.frozen(service.workers("preprocess")):
            time.sleep(2)
        injected.over()


@pytest.mark.parametrize("seconds", [1.2])
def test_the_frozen_machine(service, samples, freezer, seconds):
    """jpeg-serve, its servers and their workers, as when a virtual machine is paused."""
    with fault(service, samples) as injected:
        with injection.frozen(service.family()):
            time.sleep(seconds)
        injected.over()


def test_a_worker_without_memory(service, samples):
    """It may refuse the images that need more, or die; once there is memory again, it answers."""
    with fault(service, samples, Load(batch_size=24)) as injected:
        with ExitStack() as limits:
            for worker in service.workers("preprocess"):
                limits.enter_context(injection.out_of_memory(worker))
            time.sleep(3)
        injected.over()
