"""A short run of the fuzzer, and what it can see."""

import json
import os
import signal
import time

import pytest
from hypothesis import Phase, given, seed, settings

from fuzz import grpc_requests, http_requests, known, oracle
from fuzz.campaign import GROUP, Campaign, canary_problems, groups_of
from fuzz.drafts import Mutation
from fuzz.report import write
from fuzz.samples import colour_samples, make_repository, photo_samples
from fuzz.serving import ServerUnderTest
from fuzz.wire import HttpRequest, request_from_json

RUN_S = 30.0
GATEWAY_RUN_S = 10.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("fuzzed"))


@pytest.fixture
def server(repository, tmp_path):
    server = ServerUnderTest(repository, tmp_path / "triton.log")
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_requests_neither_end_the_server_nor_cost_others_their_answers(server, tmp_path):
    campaign = Campaign(server, seed=1, stop_when_grave=True)
    campaign.run(RUN_S)
    write(campaign, tmp_path / "results", seed=1)
    grave = [finding.to_json() for finding in campaign.grave_findings()]
    assert not grave, json.dumps(grave, indent=1)[:20_000]
    assert server.starts == 1
    assert canary_problems(server, [*colour_samples(), *photo_samples()]) == []
    # Noise would prove nothing: a good part of the requests reaches the models, and a good part is refused.
    kinds = json.loads((tmp_path / "results" / "summary.json").read_text())["outcomes"]
    assert sum(kinds.values()) > 500
    assert 0.3 < kinds["ok"] / sum(kinds.values()) < 0.8
    assert kinds["client_error"] > 100


@pytest.fixture
def shielded(repository, tmp_path):
    server = ServerUnderTest(repository, tmp_path / "triton.log", behind_gateway=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_requests_through_the_gateway_neither_end_the_server_nor_cost_others_their_answers(shielded):
    """Also those that end a server without one."""
    refused = [killer for killer in known.KNOWN if not killer.passes_gateway]
    assert len(refused) == len(known.KNOWN) - 1
    for killer in refused:
        outcomes = shielded.sender.send_all(killer.examples())
        assert {outcome.kind for outcome in outcomes} == {"client_error"}, killer.name
    campaign = Campaign(shielded, seed=1, stop_when_grave=True)
    campaign.run(GATEWAY_RUN_S)
    grave = [finding.to_json() for finding in campaign.grave_findings()]
    assert not grave, json.dumps(grave, indent=1)[:20_000]
    assert shielded.starts == 1
    assert shielded.death() is None
    assert canary_problems(shielded, [*colour_samples(), *photo_samples()]) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_ends_or_stops_is_seen(server, sent):
    assert server.death() is None
    worker = next(process for process, who in server._processes.items() if "preprocess" in who)
    os.kill(worker.pid, sent)
    death = server.death(wait=True)
    assert death is not None
    assert "preprocess" in death.who


def mixed(problem):
    return problem is not None and problem.kind == oracle.MIXED


def test_answers_of_other_images_are_seen(server):
    ensemble = server.models()[0]
    red, blue = colour_samples()[4], colour_samples()[1]
    for module in (http_requests, grpc_requests):
        draft = module.image_draft([red, blue], ensemble)
        request = draft.request()
        outcome = server.sender.send(request)
        assert oracle.judge_valid(outcome, [red.label, blue.label], request) is None
        assert mixed(oracle.judge_valid(outcome, [blue.label, red.label], request))
        assert oracle.judge_checksums(outcome, [red.data, blue.data], request) is None
        assert mixed(oracle.judge_checksums(outcome, [blue.data, red.data], request))


def test_a_request_that_ends_the_server_is_found_and_reduced(server, monkeypatch):
    """As long as a killer is not known, it is found among others, and reduced to what kills."""
    monkeypatch.setattr(known, "KNOWN", ())
    models = server.models()
    campaign = Campaign(server, seed=1)
    campaign._begun = time.monotonic()
    valid = http_requests.image_draft([colour_samples()[0]], models[0])

    def mutated(*mutations):
        return valid.with_mutations(mutations)

    shape = Mutation("shape", {}, lambda plan: http_requests.json_shape(plan, 0, [1, 2**40]))
    data = Mutation("data", {}, lambda plan: http_requests.json_data(plan, 0, [1]))
    kind = Mutation("type", {}, lambda plan: http_requests.json_datatype(plan, 0, "UINT8"))
    harmless = Mutation("id", {}, lambda plan: http_requests.json_top_field(plan, "id", "x"))
    binary = Mutation("no binary", {}, lambda plan: plan.binary.clear())
    bare = Mutation("bare", {}, lambda plan: http_requests.json_missing(plan, 0, "parameters"))
    campaign._send([mutated(harmless), mutated(harmless, shape, data, kind, binary, bare), mutated(harmless)])
    (finding,) = [each for each in campaign.findings.values() if each.problem.kind == oracle.DEATH]
    assert finding.death is not None
    assert finding.death.how == "SIGABRT"
    assert finding.reproduced == "alone"
    (draft,) = finding.drafts
    assert {"shape", "data"} <= draft.kinds
    assert "id" not in draft.kinds
    assert canary_problems(server, colour_samples()[:1]) == []


def test_known_killers_are_recognised_and_valid_requests_are_not():
    for killer in known.KNOWN:
        assert any(known.matching(example) is not None for example in killer.examples()), killer.name
    alone = [killer for killer in known.KNOWN if not killer.together_s]
    assert all(killer.matches(example) for killer in alone for example in killer.examples())


def test_few_requests_are_left_out(server):
    groups = []

    @seed(1)
    @settings(max_examples=20, database=None, derandomize=False, phases=[Phase.generate])
    @given(groups_of(server.models()))
    def draw(group):
        groups.append(group)

    draw()
    drawn = [draft for group in groups for draft in group]
    assert len(drawn) == 20 * GROUP
    assert sum(known.matching(draft.request()) is not None for draft in drawn) < len(drawn) / 10
    assert all(known.matching(draft.request()) is None for draft in drawn if draft.is_valid)


def test_a_recorded_request_is_the_same():
    drafts = [HttpRequest(b"GET / HTTP/1.1\r\n\r\n", may_starve=True), *known._cancelled_examples()[:1]]
    assert [request_from_json(json.loads(json.dumps(each.to_json()))) for each in drafts] == drafts
