"""Traffic around a fault, and what must be true of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from faults.answers import Record
from faults.errors import FaultsError
from faults.samples import Sample
from faults.senders import Load
from faults.service import Service
from faults.traffic import RECOVERY_S, Traffic

# The errors of a plain client while a server is away: UNAVAILABLE, or a closed connection. Triton itself
# answers INTERNAL for the requests inside a worker that dies.
_EXPECTED_STATUSES = frozenset({"UNAVAILABLE", "503", "disconnected", "INTERNAL", "500"})


class Fault:
    """One injected fault.

    Args:
        traffic: What is sent meanwhile.
        within_s: The longest recovery that is allowed.

    Attributes:
        over_at: Time of the monotonic clock at which the fault was over: a kill, the end of a freeze.
        recovery_s: Seconds from then to the first right answer after the last failure; infinite while there is none.
        record: What came of the traffic.
    """

    def __init__(self, traffic: Traffic, within_s: float) -> None:
        self.record = traffic.record
        self._traffic, self._within_s = traffic, within_s
        self.over_at = 0.0
        self.recovery_s = float("inf")

    def over(self) -> None:
        """Note that the service has to answer from now on."""
        self.over_at = time.monotonic()

    def wait(self) -> str:
        """Wait until the service answers again; return what is wrong if it does not, within the time."""
        try:
            self._traffic.wait_until_answering(self.over_at, self._within_s)
        except FaultsError as error:
            return str(error)
        return ""


@contextmanager
def fault(
    service: Service,
    samples: Sequence[Sample],
    load: Load | None = None,
    *,
    within_s: float = RECOVERY_S,
    clients_may_fail: bool = False,
) -> Iterator[Fault]:
    """Send while a fault is injected, and check what came of it.

    The block injects the fault, and calls `over` when it is.

    Args:
        service: Where.
        samples: What is sent.
        load: How much of it.
        within_s: The longest recovery that is allowed.
        clients_may_fail: This project's client may be refused something, too.

    Raises:
        FaultsError: The service does not answer again in time, or `problems` finds something.
    """
    with Traffic(service.target, samples, load) as traffic:
        traffic.wait_until_answering()
        injected = Fault(traffic, within_s)
        yield injected
        late = injected.wait()
    found = problems(traffic.record, clients_may_fail=clients_may_fail)
    recovered_at = traffic.record.recovered_at(injected.over_at)
    if not late and recovered_at is not None:
        # With the requests that failed later: they were sent after the fault, too.
        injected.recovery_s = recovered_at - injected.over_at
    if late or injected.recovery_s > within_s:
        found.append(late or f"answers again after {injected.recovery_s} s, {within_s:g} s are allowed")
    if found:
        text = "\n".join([*found, str(traffic.record.summary()), service.events()])
        raise FaultsError(text, reason="broken_promise")


def problems(record: Record, *, clients_may_fail: bool = False) -> list[str]:
    """Return what must not be: lies, silent losses, and refusals that no fault explains.

    Args:
        record: Of the traffic.
        clients_may_fail: This project's client may be refused something. By default it repeats what it can, and is
            refused nothing.
    """
    found = [f"lie: {each.protocol} {each.reason} {each.detail}" for each in record.lies]
    found += [f"lost: {each.protocol}, sent at {each.sent:.2f}, {each.images} images" for each in record.lost]
    strange = {
        (protocol, status, reason): count
        for (protocol, status, reason), count in record.refusals.items()
        if (not clients_may_fail if protocol.startswith("client-") else status not in _EXPECTED_STATUSES)
    }
    return found + [f"refused: {' '.join(key)}, {count} times" for key, count in strange.items()]
