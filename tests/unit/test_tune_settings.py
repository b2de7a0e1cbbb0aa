"""The settings that `jpeg-bench tune` finds in a repository, and how it copies and writes them."""

from __future__ import annotations

import math

import pytest
from jpeg_bench import tune_settings
from jpeg_bench.errors import BenchError
from jpeg_bench.tune import summarize_tuned
from jpeg_bench.tune_servers import LoadPart, Objective, Trial, summary
from jpeg_bench.tune_settings import read_tunable
from jpeg_contract.folder_lock import FolderLock
from jpeg_contract.gpus import Gpu, Gpus
from jpeg_contract.model_config import parse
from jpeg_serve.machine import Machine
from support import copy_committed_repository, edit

ENSEMBLE = "jpeg_classifier"


@pytest.fixture
def repository(tmp_path):
    copy_committed_repository(tmp_path / "model_repository")
    return tmp_path / "model_repository"


def machine(gpus: int = 0) -> Machine:
    found = Gpus(tuple(Gpu("a GPU", "9.0") for _ in range(gpus)), "" if gpus else "none")
    return Machine(natives=frozenset({"tensorrt"}), packages=lambda _: None, environment={}, gpus=found)


def read(repository, cpus=2, gpus=0):
    return read_tunable(repository, ENSEMBLE, cpus, machine(gpus))


def point(tunable, **values):
    """The start with other values; __ stands for a dot."""
    named = {**tunable.space.named(tunable.start), **{name.replace("__", "."): each for name, each in values.items()}}
    return tuple(named.values())


def test_the_settings_of_a_repository_on_two_cpus(repository):
    tunable = read(repository)
    assert tunable.space.named(tunable.start) == {
        "preprocess.count": 2,
        "classifier.count": 1,
        "postprocess.count": 1,
        "servers": 1,
        "preprocess.threads": 0,
        "preprocess.delay_us": 0,
        "classifier.delay_us": 0,
        "postprocess.delay_us": 0,
    }
    values = {knob.name: knob.values for knob in tunable.space.knobs}
    # One of two decoders stays free of large requests.
    assert values["preprocess.count"] == (2, 3, 4)
    assert values["servers"] == (1, 2)
    assert values["preprocess.threads"] == (1, 0)
    assert tunable.seeds == (tunable.start,)
    assert tunable.changes(tunable.start) == {}
    assert not tunable.on_gpu
    assert tunable.fixed == ()


def test_more_cpus_have_more_steps(repository):
    values = {knob.name: knob.values for knob in read(repository, cpus=16).space.knobs}
    assert values["preprocess.count"] == (2, 3, 4, 6, 8, 12, 16)
    assert values["preprocess.threads"] == (1, 2, 3, 4, 6, 8, 12, 0)
    assert values["classifier.count"][-1] == 8
    assert {knob.name for knob in read(repository, cpus=1).space.knobs} == {*values} - {"preprocess.threads"}


@pytest.fixture
def with_tensorrt(repository, monkeypatch):
    edit(repository / ENSEMBLE / "config.pbtxt", '"classifier_onnx"', '"classifier_tensorrt"')
    monkeypatch.setattr(tune_settings, "_has_gpu_decoder", lambda: True)
    return repository


def test_a_gpu(with_tensorrt):
    tunable = read(with_tensorrt, cpus=16, gpus=1)
    assert tunable.on_gpu
    values = {knob.name: knob.values for knob in tunable.space.knobs}
    assert values["preprocess.decoder"] == ("scaled", "gpu")
    assert values["servers"] == (1, 2)
    named = [tunable.space.named(seed) for seed in tunable.seeds]
    counts = [[each[f"{role}.count"] for role in tune_settings.ROLES] for each in named]
    assert [each["preprocess.decoder"] for each in named] == ["scaled", "gpu"]
    assert counts == [[2, 3, 6], [8, 3, 6]]
    changes = tunable.changes(tunable.seeds[1])
    assert changes["preprocess"].kind == "KIND_GPU"
    assert changes["preprocess"].parameters == {"decoder": "gpu"}
    assert changes["classifier_tensorrt"].kind is None


def test_threads_do_not_matter_while_a_gpu_decodes(with_tensorrt):
    tunable = read(with_tensorrt, cpus=16, gpus=1)
    on_gpu = point(tunable, preprocess__decoder="gpu")
    assert tunable.space.moved(on_gpu, {"preprocess.threads": -1}) is None
    assert tunable.space.moved(tunable.start, {"preprocess.threads": -1}) is not None


@pytest.mark.parametrize(("present", "offered"), [("full", {"full", "gpu"}), ("gpu", {"scaled", "gpu"})])
def test_the_decoder_full_is_the_users_choice(with_tensorrt, present, offered):
    edit(with_tensorrt / "preprocess" / "config.pbtxt", '"scaled"', f'"{present}"')
    values = {knob.name: knob.values for knob in read(with_tensorrt, gpus=1).space.knobs}
    assert {*values["preprocess.decoder"]} == offered


def test_several_gpus_have_a_server_each(with_tensorrt):
    tunable = read(with_tensorrt, cpus=16, gpus=4)
    assert tunable.servers(tunable.start) == 4
    values = {knob.name: knob.values for knob in tunable.space.knobs}
    assert values["servers"] == (1, 4, 8)
    edit(with_tensorrt / "classifier_tensorrt" / "config.pbtxt", "KIND_GPU\n", "KIND_GPU\n  gpus: [0, 1]\n")
    values = {knob.name: knob.values for knob in read(with_tensorrt, cpus=16, gpus=4).space.knobs}
    assert values["servers"] == (1,)


def test_what_the_user_arranged_is_not_tuned(repository):
    edit(repository / "postprocess" / "config.pbtxt", "dynamic_batching {\n}\n", "")
    config = repository / "classifier_onnx" / "config.pbtxt"
    config.write_text(config.read_text() + "instance_group { count: 1 kind: KIND_CPU }\n")
    tunable = read(repository)
    assert len(tunable.fixed) == 2
    names = {knob.name for knob in tunable.space.knobs}
    assert not names & {"postprocess.delay_us", "classifier.count"}


def test_a_copy_has_the_values_and_leaves_the_repository_alone(repository):
    artefact = repository / "classifier_onnx" / "1" / "model.onnx"
    artefact.parent.mkdir(exist_ok=True)
    artefact.write_bytes(bytes(2 << 20))
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    tunable = read(repository)
    with tunable.copy(point(tunable, preprocess__count=4, classifier__delay_us=500)) as copy:
        assert parse((copy / "preprocess" / "config.pbtxt").read_text()).instance_group[0].count == 4
        batching = parse((copy / "classifier_onnx" / "config.pbtxt").read_text()).dynamic_batching
        assert batching.max_queue_delay_microseconds == 500
        assert (copy / "classifier_onnx" / "1" / "model.onnx").samefile(artefact)
        assert not (copy / "preprocess" / "1" / "model.py").samefile(repository / "preprocess" / "1" / "model.py")
        (copy / "preprocess" / "1" / "model.py").write_text("")
    assert not copy.exists()
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_writing_changes_these_fields_only(repository):
    config = repository / "preprocess" / "config.pbtxt"
    edit(config, "  count: 2\n", "  count: 2  # two\n")
    before = config.read_text()
    tunable = read(repository)
    written = tunable.write(point(tunable, preprocess__count=3, preprocess__threads=1, servers=2))
    assert written == [config]
    after = before.replace("count: 2  # two", "count: 3  # two")
    after = after.replace('"threads"\n  value {\n    string_value: "0"', '"threads"\n  value {\n    string_value: "1"')
    assert config.read_text() == after
    assert not list(repository.glob(".staging-*"))


def test_nothing_is_written_over_a_new_edit(repository):
    tunable = read(repository)
    edit(repository / "postprocess" / "config.pbtxt", "count: 1", "count: 7")
    before = (repository / "preprocess" / "config.pbtxt").read_text()
    with pytest.raises(BenchError) as caught:
        tunable.write(point(tunable, preprocess__count=3))
    assert caught.value.reason == "config_changed"
    assert (repository / "preprocess" / "config.pbtxt").read_text() == before


def test_nothing_is_written_beside_a_build(repository):
    tunable = read(repository)
    lock = FolderLock(".jpeg-build.lock", BenchError, busy="busy", busy_reason="repository_busy")
    with lock.hold(repository), pytest.raises(BenchError) as caught:
        tunable.write(point(tunable, preprocess__count=3))
    assert caught.value.reason == "repository_busy"


def test_a_repository_without_the_ensemble(repository):
    with pytest.raises(BenchError) as caught:
        read_tunable(repository, "other", 2, machine())
    assert caught.value.reason == "ensemble_missing"
    edit(repository / ENSEMBLE / "config.pbtxt", '"classifier_onnx"', '"classifier_none"')
    with pytest.raises(BenchError, match="classifier_none") as caught:
        read(repository)
    assert caught.value.reason == "model_missing"


def trial(images_per_s: float = 100.0, p50_ms: float = 10.0, p99_ms: float = 20.0, failures: int = 0) -> Trial:
    return Trial(images_per_s, p50_ms, p99_ms, failures, client_limited=False)


PART = LoadPart("grpc", 1, 8)


@pytest.mark.parametrize(
    ("goal", "candidate", "expected"),
    [
        ("throughput", trial(120), 1.2),
        ("throughput", trial(200, failures=1), 0.0),
        ("throughput", trial(200, p99_ms=31), 0.0),
        ("latency", trial(50, p50_ms=5), 2.0),
    ],
)
def test_what_is_better(goal, candidate, expected):
    objective = Objective(goal, (PART,), p99_limit_ms=30.0)
    assert objective.ratio([candidate], [trial()]) == pytest.approx(expected)
    if expected == 0:
        assert objective.ratio([trial()], [candidate]) == math.inf


def test_of_two_that_may_not_be_chosen_the_nearer_one_is_better():
    objective = Objective("throughput", (PART,), p99_limit_ms=10.0)
    assert objective.ratio([trial(p99_ms=20)], [trial(p99_ms=40)]) == 2.0
    assert objective.ratio([trial(p99_ms=40)], [trial(failures=3)]) > 1
    assert objective.ratio([trial(failures=2)], [trial(failures=3)]) > 1


def test_the_parts_of_a_load_count_the_same():
    objective = Objective("throughput", (PART, LoadPart("grpc", 8, 8)))
    assert objective.ratio([trial(200), trial(50)], [trial(100), trial(100)]) == pytest.approx(1.0)


def test_a_summary_has_the_medians():
    trials = [[trial(value, failures=failures)] for value, failures in ((90, 0), (100, 1), (200, 0))]
    assert summary(trials) == {
        "images_per_s": 100,
        "p50_ms": 10.0,
        "p99_ms": 20.0,
        "failures": 1,
        "client_limited": False,
    }


def test_the_text_names_what_to_do():
    settings = {"preprocess.count": 2, "servers": 1}
    result = {
        "model_repository": "model_repository",
        "loads": [{"protocol": "grpc", "batch_size": 1, "concurrency": 32}],
        "before": {"settings": settings, **summary([[trial()]])},
        "choice": {"settings": {"preprocess.count": 3, "servers": 2}, **summary([[trial(150)]])},
        "tried": [
            {
                "settings": {},
                "changed": {"preprocess.count": 3},
                "ratios": [1.5, None],
                "verdict": "better",
                "failure": "",
                **summary([[trial(150)]]),
            },
            {"settings": {}, "changed": {"servers": 2}, "ratios": [], "verdict": "failed", "failure": "out of memory"},
        ],
        "not_tuned": ["the delay of postprocess: why"],
        "elapsed_s": 12.3,
        "is_complete": True,
        "gain": 1.5,
        "within_limits": True,
        "disturbed_pairs": 2,
        "configs": {"preprocess": ["instance_group { count: 3 }"]},
        "serve": "jpeg-serve --servers 2",
    }
    text = summarize_tuned(result)
    for part in (
        "out of memory",
        "jpeg-serve --servers 2",
        "instance_group { count: 3 }",
        "--write",
        "1.50 times",
        "2 pairs",
    ):
        assert part in text
    assert "open several connections" in text
    written = summarize_tuned({**result, "written": ["model_repository/preprocess/config.pbtxt"]})
    assert "jpeg-serve reload" in written
    assert "--write" not in written
    assert "within --p99-ms" in summarize_tuned({**result, "within_limits": False})
