"""A run of the fuzzer: groups of concurrent requests, and what is done about those that find something."""

from __future__ import annotations

import collections
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz import grpc_requests, http_requests, known, oracle, replaying
from fuzz.drafts import Draft
from fuzz.oracle import Problem
from fuzz.samples import Model, Sample, colour_samples, photo_samples
from fuzz.serving import Death, ServerUnderTest
from fuzz.wire import GrpcRequest, Outcome, Request

GROUP = 16
_GROUPS_PER_SEED = 100
# Groups before a death whose requests may have caused it.
_SUSPECT_GROUPS = 3
# How often concurrent requests are repeated to see again what one cost the others.
_REPEATS = 5
# Streams wait for each other, so more of them would only take longer.
_STREAMS = 3
# After so many deaths by the same kinds of mutations, requests with them are counted and not sent.
_DEATHS_OF_A_KIND = 5
# How long it may take to reduce requests that end a server together.
_REDUCTION_S = 240.0
_SAMPLE_EVERY_S = 5.0
# The gateway refuses images as JSON, and streams.
_THROUGH_GATEWAY = {"canary", "binary", "raw", "typed"}
_PAUSES_S = (0.0, 0.02)


@dataclass
class Finding:
    """One kind of fault.

    Attributes:
        problem: Class and message.
        drafts: The requests that show it, reduced: one, or several that are sent concurrently.
        reproduced: `alone`, `together`, or `not`.
        outcome: Of the first request.
        death: What ended, if something did.
        at_s: Seconds from the start of the run.
        count: How often it was seen.
    """

    problem: Problem
    drafts: tuple[Draft, ...]
    reproduced: str
    outcome: Outcome | None
    death: Death | None
    at_s: float
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """Describe it for a file."""
        return {
            "class": self.problem.kind,
            "message": self.problem.message,
            "count": self.count,
            "at_s": round(self.at_s, 1),
            "reproduced": self.reproduced,
            "death": self.death.to_json() if self.death else None,
            "outcome": self.outcome.to_json() if self.outcome else None,
            "requests": [
                {
                    "base": draft.base,
                    "mutations": [str(mutation) for mutation in draft.mutations],
                    **draft.request().to_json(),
                }
                for draft in self.drafts
            ],
        }


@dataclass
class Statistics:
    """What was done."""

    requests: int = 0
    canaries: int = 0
    groups: int = 0
    seconds: float = 0.0
    skipped: collections.Counter[str] = field(default_factory=collections.Counter)
    outcomes: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    resources: list[dict[str, float]] = field(default_factory=list)
    starts: int = 0


class Campaign:
    """A run.

    Args:
        server: Started.
        seed: Of the first group; later ones count on.
        report: Gets a line about each new finding.
        stop_when_grave: The first grave finding that is not known ends the run.
    """

    def __init__(
        self,
        server: ServerUnderTest,
        *,
        seed: int,
        report: Callable[[str], None] = lambda _: None,
        stop_when_grave: bool = False,
    ) -> None:
        self._server, self._seed, self._report, self._stop_when_grave = server, seed, report, stop_when_grave
        self._models = server.models()
        self._samples = (*colour_samples(), *photo_samples())
        self._random = random.Random(seed)
        self._history: collections.deque[list[Draft]] = collections.deque(maxlen=_SUSPECT_GROUPS)
        self._killing_kinds: collections.Counter[tuple[str, frozenset[str]]] = collections.Counter()
        self._begun = self._sampled = 0.0
        self.findings: dict[Problem, Finding] = {}
        self.statistics = Statistics()

    def run(self, seconds: float) -> None:
        """Send groups of requests for so long."""
        self._begun = time.monotonic()
        drafts = groups_of(self._models)
        try:
            for number in itertools.count(self._seed):
                if not self._goes_on(seconds):
                    break
                self._run_seed(number, drafts, seconds)
        finally:
            self.statistics.seconds = time.monotonic() - self._begun
            self.statistics.starts = self._server.starts

    def _run_seed(self, number: int, drafts: st.SearchStrategy[list[Draft]], seconds: float) -> None:
        @seed(number)
        @settings(
            max_examples=_GROUPS_PER_SEED,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(drafts)
        def step(group: list[Draft]) -> None:
            if self._goes_on(seconds):
                self._send(group)

        step()

    def grave_findings(self) -> list[Finding]:
        """Return the findings that are faults, without those that are known and cannot be fixed here."""
        return [
            finding
            for problem, finding in self.findings.items()
            if problem.kind in oracle.GRAVE and known.known_fault(problem.kind, problem.message) is None
        ]

    def _goes_on(self, seconds: float) -> bool:
        stopped = self._stop_when_grave and self.grave_findings()
        return not stopped and time.monotonic() - self._begun < seconds

    def _send(self, drawn: list[Draft]) -> None:
        """Send a group together with valid requests for labels, and judge all."""
        group = [draft for draft in drawn if self._may_send(draft)]
        canaries = self._canaries()
        requests = [draft.request() for draft in [*group, *canaries]]
        self._history.append(group)
        outcomes = self._server.sender.send_all(requests)
        statistics = self.statistics
        statistics.groups += 1
        statistics.requests += len(group)
        statistics.canaries += len(canaries)
        for draft, outcome in zip(group, outcomes, strict=False):
            statistics.outcomes[draft.base, outcome.kind] += 1
            statistics.codes[f"{draft.base.split(' ', 1)[0]} {outcome.code or outcome.kind}"] += 1
        suspicious = any(outcome.kind in ("closed", "silent", "unavailable") for outcome in outcomes)
        died = self._server.death(wait=suspicious and not self._is_well())
        if died is None and statistics.groups % 50 == 0 and not self._server.has_its_children():
            died = Death("a worker", "replaced, or more than at the start", ())
        if died is not None:
            self._investigate_death(died)
            return
        for draft, request, outcome in zip([*group, *canaries], requests, outcomes, strict=True):
            for problem in self._problems(draft, request, outcome):
                self._add(problem, draft, outcome, group)
        for problem in oracle.judge_log(self._server.new_log()):
            self._add_from_log(problem, group)
        self._sample_resources()

    def _canaries(self) -> list[Draft]:
        some = [self._random.choice(self._samples) for _ in range(2)]
        ensemble = self._models[0]
        return [http_requests.image_draft(some[:1], ensemble), grpc_requests.image_draft(some, ensemble)]

    def _is_well(self) -> bool:
        """Whether a server about which something was odd has labels for a canary, and all its processes."""
        draft = self._canaries()[1]
        request = draft.request()
        problem = oracle.judge_valid(outcome := self._server.sender.send(request), draft.labels, request)
        return outcome.kind == "ok" and problem is None and self._server.death() is None

    def _may_send(self, draft: Draft) -> bool:
        killer = known.matching(draft.request(), behind_gateway=self._server.behind_gateway)
        if killer is not None:
            self.statistics.skipped[f"known: {killer.name}"] += 1
            return False
        for (protocol, kinds), deaths in self._killing_kinds.items():
            if deaths >= _DEATHS_OF_A_KIND and draft.base.startswith(protocol) and kinds <= draft.kinds:
                self.statistics.skipped[f"found: {protocol} {', '.join(sorted(kinds))}"] += 1
                return False
        return True

    def _must_be_answered(self, draft: Draft) -> bool:
        """Whether a draft is valid, and the gateway, if there is one, serves such requests."""
        served = draft.labels is not None and draft.base.split()[-1] in _THROUGH_GATEWAY
        return draft.is_valid and (served or not self._server.behind_gateway)

    def _problems(self, draft: Draft, request: Request, outcome: Outcome) -> list[Problem]:
        found = oracle.judge(request, outcome)
        if self._must_be_answered(draft):
            refused = oracle.judge_valid(outcome, draft.labels, request)
            found += [refused] if refused else []
        return found

    # Findings of a server that lives.

    def _add(self, problem: Problem, draft: Draft, outcome: Outcome, group: list[Draft]) -> None:
        if problem in self.findings:
            self.findings[problem].count += 1
            return
        drafts: tuple[Draft, ...] = (draft,)
        reproduced = "not"
        if problem.kind not in (oracle.LOST, oracle.SLOW) and self._shows(draft, problem):
            drafts, reproduced = (draft.reduced(lambda smaller: self._shows(smaller, problem)),), "alone"
        elif self._must_be_answered(draft):
            guilty = next((each for each in group if self._spoils(each, draft, problem)), None)
            if guilty is not None:
                guilty = guilty.reduced(lambda smaller: self._spoils(smaller, draft, problem))
                drafts, reproduced = (guilty, draft), "together"
        self._record(Finding(problem, drafts, reproduced, outcome, None, self._elapsed()))

    def _shows(self, draft: Draft, problem: Problem) -> bool:
        if not self._may_send(draft):
            return False
        request = draft.request()
        outcome = self._server.sender.send(request)
        return problem in self._problems(draft, request, outcome)

    def _spoils(self, draft: Draft, valid: Draft, problem: Problem) -> bool:
        """Whether a request costs valid ones their answers that are sent together with it."""
        if self._must_be_answered(draft) or not self._may_send(draft):
            return False
        request = valid.request()
        is_stream = isinstance(request, GrpcRequest) and request.is_stream
        others = [request] * (_STREAMS if is_stream else GROUP - 1)
        for _ in range(_REPEATS):
            _, *outcomes = self._server.sender.send_all([draft.request(), *others])
            if any(problem in self._problems(valid, request, outcome) for outcome in outcomes):
                return True
        return False

    def _add_from_log(self, problem: Problem, group: list[Draft]) -> None:
        if problem in self.findings:
            self.findings[problem].count += 1
            return
        drafts, reproduced = tuple(group), "together"
        for draft in group:
            if self._logs(draft, problem):
                drafts, reproduced = (draft.reduced(lambda smaller: self._logs(smaller, problem)),), "alone"
                break
        self._record(Finding(problem, drafts, reproduced, None, None, self._elapsed()))

    def _logs(self, draft: Draft, problem: Problem) -> bool:
        self._server.sender.send(draft.request())
        time.sleep(0.05)
        return problem in oracle.judge_log(self._server.new_log())

    # Deaths.

    def _investigate_death(self, death: Death) -> None:
        """Find the request that the server died of, and start a new server."""
        at_s = self._elapsed()
        problem = Problem(oracle.DEATH, f"{death.who.split('/')[-1][:40]} {death.how}")
        suspects = [draft for group in reversed(self._history) for draft in group]
        groups = list(self._history)
        self._history.clear()
        self._report(f"{death.who[:60]} {death.how}: looking for the request among {len(suspects)}")
        culprit = self._culprit(suspects)
        if culprit is not None:
            reduced = culprit.reduced(self._kills)
            again = self._death_by(reduced) or death
            self._killing_kinds[reduced.base.split(" ", 1)[0], reduced.kinds] += 1
            problem = Problem(oracle.DEATH, f"{again.who.split('/')[-1][:40]} {again.how}: {_title(reduced)}")
            finding = Finding(problem, (reduced,), "alone", None, again, at_s)
        else:
            guilty = self._guilty_together(groups)
            problem = Problem(oracle.DEATH, f"{problem.message}: {'together' if guilty else 'not reproduced'}")
            finding = Finding(problem, tuple(guilty or suspects), "together" if guilty else "not", None, death, at_s)
        self._ready()
        if problem in self.findings:
            self.findings[problem].count += 1
        else:
            self._record(finding)

    def _culprit(self, suspects: Sequence[Draft]) -> Draft | None:
        """Return the request that ends a new server alone."""
        self._server.restart()
        for draft in suspects:
            if self._death_by(draft, restart=False) is not None:
                # What was sent before may have had a part in it.
                if self._kills(draft):
                    return draft
                self._server.restart()
        return None

    def _kills(self, draft: Draft) -> bool:
        return self._death_by(draft) is not None

    def _death_by(self, draft: Draft, *, restart: bool = True) -> Death | None:
        if restart:
            self._ready()
        request = draft.request()
        for pause in _PAUSES_S:
            outcome = self._server.sender.send(request)
            time.sleep(pause)
            odd = outcome.kind in ("closed", "silent", "unavailable", "abandoned") and not self._is_well()
            death = self._server.death(wait=odd)
            if death is not None:
                return death
        return None

    def _guilty_together(self, groups: Sequence[list[Draft]]) -> list[Draft] | None:
        """Return the requests of the last groups that end a server together, reduced as far as time allows."""
        drafts = [draft for group in groups for draft in group]
        self._ready()
        if (
            replaying.death_by(self._server, [draft.request() for draft in drafts], seconds=replaying.TOGETHER_S)
            is None
        ):
            return None
        self._server.restart()
        return replaying.reduced(
            self._server,
            drafts,
            lambda draft: draft.request(),
            seconds=replaying.TOGETHER_S,
            limit_s=_REDUCTION_S,
        )

    def _ready(self) -> None:
        """Start a new server if this one is not as it was."""
        if self._server.death() is not None or not self._is_well():
            self._server.restart()

    # Records.

    def _record(self, finding: Finding) -> None:
        self.findings[finding.problem] = finding
        shown = ", ".join(_title(draft) for draft in finding.drafts[:2])
        self._report(f"[{finding.problem.kind}] {finding.problem.message} ({finding.reproduced}) {shown}"[:300])

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _sample_resources(self) -> None:
        now = time.monotonic()
        if now - self._sampled >= _SAMPLE_EVERY_S:
            self._sampled = now
            try:
                sample = self._server.resources()
            except psutil.NoSuchProcess:
                return  # the next group sees it
            self.statistics.resources.append(
                {"at_s": round(self._elapsed(), 1), "start": self._server.starts, **sample}
            )


def groups_of(models: Sequence[Model]) -> st.SearchStrategy[list[Draft]]:
    """Return a strategy of groups of requests."""
    one = st.one_of(http_requests.drafts(models), grpc_requests.drafts(models))
    return st.lists(one, min_size=GROUP, max_size=GROUP)


def _title(draft: Draft) -> str:
    return " ".join([draft.base, *map(str, draft.mutations)])[:200]


def canary_problems(server: ServerUnderTest, samples: Sequence[Sample]) -> list[Problem]:
    """Return what is wrong with the answers to images whose labels are known, each alone and over both protocols."""
    ensemble = server.models()[0]
    problems: list[Problem] = []
    for sample in samples:
        for module in (http_requests, grpc_requests):
            draft = module.image_draft([sample], ensemble)
            request = draft.request()
            outcome = server.sender.send(request)
            problems += oracle.judge(request, outcome)
            if outcome.kind == "ok":
                mixed = oracle.judge_checksums(outcome, [sample.data], request)
                problems += [mixed] if mixed else []
            refused = oracle.judge_valid(outcome, draft.labels, request)
            problems += [refused] if refused else []
    return problems
