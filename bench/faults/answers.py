"""Judge answers: right, refused, lost, or a lie."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from jpeg_contract.tensors import ERROR, INDEX, LABEL
from numpy.typing import NDArray

from faults.samples import Sample

Tensors = Mapping[str, NDArray[Any]]

_CHECKSUM = "CHECKSUM"
_IMAGE_ERROR = re.compile(r"image (\d+): ([^\n]*)")
_REASON = re.compile(r"\[([a-z0-9_]+)\]\s*$")
_QUEUE_FULL = "maximum queue size"
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_DESCRIBED_CHARACTERS = 90


class Verdict(Enum):
    """What a request came to."""

    RIGHT = "right"
    REFUSED = "refused"  # an error with a status, or a closed connection: the sender knows
    LOST = "lost"  # no answer within the limit, and the connection stays open
    LIE = "lie"  # the answer of another image


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request.

    Attributes:
        protocol: "grpc" or "http" for the plain clients, "client-grpc" or "client-http" for this project's.
        images: How many it had.
        sent: Time of the monotonic clock in seconds.
        done: The same, of the answer or of giving up.
        verdict: What it came to.
        status: HTTP or gRPC status, or "disconnected"; empty for an answer.
        reason: Reason code, otherwise the begin of the message with its numbers replaced.
        detail: Of a lie: what was sent and what came.
    """

    protocol: str
    images: int
    sent: float
    done: float
    verdict: Verdict
    status: str = ""
    reason: str = ""
    detail: str = ""

    @property
    def is_queue_full(self) -> bool:
        """Whether the server lives, and has too much to do."""
        return self.verdict is Verdict.REFUSED and _QUEUE_FULL in self.reason


Judgement = tuple[Verdict, str, str, str]
"""Verdict, status, reason, detail."""


def judge_tensors(samples: Sequence[Sample], tensors: Tensors) -> Judgement:
    """Judge an answer with tensors.

    Args:
        samples: The images of the request.
        tensors: Outputs of the ensemble, (N, ...) each.
    """
    missing = [name for name in (LABEL, INDEX, ERROR) if name not in tensors]
    if missing or any(len(tensor) != len(samples) for tensor in tensors.values()):
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return Verdict.LIE, "", "wrong_shape", f"{len(samples)} images, answer {shapes}"
    for position, sample in enumerate(samples):
        label = tensors[LABEL][position][0].decode(errors="replace")
        error = tensors[ERROR][position][0].decode(errors="replace")
        checksum = int(tensors[_CHECKSUM][position].item()) if _CHECKSUM in tensors else None
        right = error.startswith(sample.error) if sample.error else not error and label == sample.label
        if not right:
            # Told apart by the checksum or not: a plain client believes the label.
            reason = "mixed_up" if checksum in (None, sample.checksum) else "mixed_up_checksum_differs"
            return Verdict.LIE, "", reason, f"{sample.name}: label {label!r}, error {error!r}, checksum {checksum}"
        if checksum not in (None, sample.checksum):
            return Verdict.LIE, "", "checksum_differs", f"{sample.name}: {checksum} instead of {sample.checksum}"
    return Verdict.RIGHT, "", "", ""


def judge_error(samples: Sequence[Sample], status: str, message: str) -> Judgement:
    """Judge an answer that is an error.

    Args:
        samples: The images of the request.
        status: HTTP or gRPC status.
        message: Of the server.
    """
    lines = {int(index): text for index, text in _IMAGE_ERROR.findall(message)}
    if not lines or status not in ("400", "INVALID_ARGUMENT"):
        return Verdict.REFUSED, status, reason_of(message), ""
    # All images of the request are wrong ones, or this is the answer of another request.
    for position, sample in enumerate(samples):
        if sample.is_good or not lines.get(position, "").startswith(sample.error):
            return Verdict.LIE, status, "mixed_up_error", f"{sample.name}: {message[:200]}"
    return Verdict.RIGHT, "", "", ""


def reason_of(message: str) -> str:
    """Return the reason code at the end of a message, otherwise its begin with the numbers replaced by N."""
    if found := _REASON.search(message):
        return found[1]
    line = message.strip().split("\n", 1)[0]
    return _NUMBER.sub("N", line)[:_DESCRIBED_CHARACTERS]


class Record:
    """The outcomes of some traffic.

    Args:
        keep_s: Keep single outcomes for so long only, except those that are wrong; counts stay. None keeps all.

    Attributes:
        outcomes: In the order in which they came.
        lies: Answers of other images.
        lost: Requests without any answer.
    """

    def __init__(self, keep_s: float | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self.lies: list[Outcome] = []
        self.lost: list[Outcome] = []
        self._keep_s = keep_s
        self._images = 0
        self._verdicts: Counter[str] = Counter()
        self._refusals: Counter[tuple[str, str, str]] = Counter()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes, in the order in which they came."""
        for each in outcomes:
            self._images += each.images
            self._verdicts[f"{each.protocol} {each.verdict.value}"] += 1
            if each.verdict is Verdict.REFUSED:
                self._refusals[each.protocol, each.status, each.reason] += 1
            elif each.verdict is Verdict.LIE:
                self.lies.append(each)
            elif each.verdict is Verdict.LOST:
                self.lost.append(each)
        kept = self.outcomes
        if self._keep_s is not None and kept and outcomes and outcomes[-1].done - kept[0].done > 2 * self._keep_s:
            kept = [each for each in kept if outcomes[-1].done - each.done <= self._keep_s]
        # A new list: readers in other threads iterate over the old one.
        self.outcomes = [*kept, *outcomes]

    def select(self, verdict: Verdict, *, sent_from: float = 0.0, sent_until: float = float("inf")) -> list[Outcome]:
        """Return the kept outcomes of one kind, of requests that were sent in a time."""
        return [each for each in self.outcomes if each.verdict is verdict and sent_from <= each.sent < sent_until]

    def recovered_at(self, since: float, until: float = float("inf")) -> float | None:
        """Return the moment from which each plain request is right, or refused because a queue is full.

        Args:
            since: Requests that were sent before do not count.
            until: Those that were sent from then on do not count either.

        Returns:
            Time of the first right answer after the last failure, the later one of gRPC and HTTP; None if there is no
            such answer.
        """
        moments = []
        sent_after = [each for each in self.outcomes if since <= each.sent < until and not each.is_queue_full]
        for protocol in ("grpc", "http"):
            mine = [each for each in sent_after if each.protocol == protocol]
            last_failure = max((each.done for each in mine if each.verdict is not Verdict.RIGHT), default=since)
            right = [each.done for each in mine if each.verdict is Verdict.RIGHT and each.done > last_failure]
            if not right:
                return None
            moments.append(min(right))
        return max(moments)

    @property
    def refusals(self) -> dict[tuple[str, str, str], int]:
        """Number of refusals by protocol, status and reason, the most frequent first."""
        return dict(self._refusals.most_common())

    def count(self, verdict: Verdict) -> int:
        """Return the number of requests of one kind."""
        return sum(count for name, count in self._verdicts.items() if name.endswith(f" {verdict.value}"))

    def summary(self) -> dict[str, Any]:
        """Count the requests: by protocol and verdict, refusals by protocol, status and reason; with the first lies."""
        return {
            "requests": sum(self._verdicts.values()),
            "images": self._images,
            "verdicts": dict(sorted(self._verdicts.items())),
            "refusals": {" ".join(key).strip(): count for key, count in self.refusals.items()},
            "lies": [f"{each.protocol} {each.reason}: {each.detail}" for each in self.lies[:20]],
        }
