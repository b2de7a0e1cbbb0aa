"""A running server loads another classifier, a rebuilt one, another version, and no request fails meanwhile."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import serve
from jpeg_client import Client
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.labels import read_labels
from jpeg_contract.report import ArtefactFile, KnownClass, read_report, write_report
from jpeg_serve import state
from jpeg_serve.errors import ReloadError
from jpeg_serve.management import Management
from onnx import helper, numpy_helper
from support import copy_classifier, edit, photo, run_module

COFFEE = photo("coffee")
CONFIG = "config.pbtxt"
# The label of the photo, and that of a classifier whose classes are rotated by one: the label after it.
LABEL, ROTATED = "espresso", "cup"


def rotate_classes(artefact):
    """Turn a classifier into another one: each class gets the logit of the class before it."""
    network = onnx.load(str(artefact))
    graph = network.graph
    for node in graph.node:
        node.output[:] = ["before" if name == "output__0" else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.roll(np.arange(1000), 1), "rotated"))
    graph.node.append(helper.make_node("Gather", ["before", "rotated"], ["output__0"], axis=1))
    labels = read_labels(artefact.parents[1] / "labels.txt")
    following = [(each.index + 1) % len(labels) for each in read_report(artefact).probe]
    probe = [KnownClass(index=index, label=labels[index], score=0.9) for index in following]
    place(artefact, network.SerializeToString(), probe=probe)


def place(artefact, content, **fields):
    """Replace an artefact as a build does: at once, and with a report that describes it."""
    report = read_report(artefact)
    artefact.with_suffix(".made").write_bytes(content)
    artefact.with_suffix(".made").replace(artefact)
    file = ArtefactFile(file=artefact.name, sha256=artefact_sha256(artefact))
    write_report(msgspec.structs.replace(report, artefact=file, **fields), artefact)


def choose(repository, name):
    """The one word."""
    path = repository / "jpeg_classifier" / CONFIG
    before = "classifier_rotated" if "classifier_rotated" in path.read_text() else "classifier_onnx"
    edit(path, f'"{before}"', f'"{name}"')


def reload(repository, *options):
    return run_module("jpeg_serve", "reload", "--model-repository", repository, *options)


def reloaded(repository, *options):
    done = reload(repository, *options)
    assert done.returncode == 0, done.stderr
    return done


def label_of(server):
    with Client(f"grpc://{server.grpc_address}", retry=False) as client:
        return client.classify([COFFEE], k=1)[0].labels[0]


def count(server, model):
    """How many images a model has classified; None if it is not loaded."""
    try:
        with urllib.request.urlopen(f"http://{server.http_address}/v2/models/{model}/stats", timeout=10) as response:
            return sum(each["inference_count"] for each in json.load(response)["model_stats"])
    except urllib.error.HTTPError as error:
        error.close()
        return None


@dataclass
class Load:
    """The results of requests that are sent without a pause."""

    labels: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)


@contextmanager
def load_on(server, threads=4):
    """Run clients of both protocols that never pause, and request the readiness as a load balancer does."""
    load, over = Load(), threading.Event()

    def classify(url):
        with Client(url, retry=False) as client:
            while not over.is_set():
                try:
                    prediction = client.classify([COFFEE], k=1)[0]
                    load.labels.append(prediction.labels[0] if prediction.labels else str(prediction.error))
                except Exception as error:  # any failure counts
                    load.failures.append(repr(error))

    def probe():
        while not over.is_set():
            for path in ("v2/health/ready", "v2/models/jpeg_classifier/ready"):
                try:
                    with urllib.request.urlopen(f"http://{server.http_address}/{path}", timeout=10) as response:
                        load.probes.append(response.status)
                except urllib.error.HTTPError as error:
                    with error:
                        load.probes.append(error.code)
            time.sleep(0.01)

    urls = [f"grpc://{server.grpc_address}", f"http://{server.http_address}"]
    running = [threading.Thread(target=classify, args=(urls[number % 2],)) for number in range(threads)]
    running.append(threading.Thread(target=probe))
    for thread in running:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in running:
            thread.join()


def assert_no_failure(load):
    assert load.failures == []
    assert set(load.probes) == {200}


@pytest.fixture(scope="module")
def two_classifiers(built_repository, tmp_path_factory):
    """A repository with two classifiers that label differently. Not to be changed."""
    repository = tmp_path_factory.mktemp("two") / "model_repository"
    shutil.copytree(built_repository, repository)
    rotate_classes(copy_classifier(repository, "classifier_rotated") / "1" / "model.onnx")
    return repository


@pytest.fixture
def two(two_classifiers, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(two_classifiers, tmp_path / "model_repository")


@pytest.fixture
def served(two, tmp_path):
    for server in serve(two, tmp_path / "triton.log"):
        yield two, server


@pytest.fixture(scope="module")
def unchanging(two_classifiers, tmp_path_factory):
    """A server of the module, for tests that change the repository and leave the loaded models as they are."""
    folder = tmp_path_factory.mktemp("unchanging")
    repository = shutil.copytree(two_classifiers, folder / "model_repository")
    for server in serve(repository, folder / "triton.log"):
        yield repository, server


@pytest.fixture
def unchanged(two_classifiers, unchanging):
    """This server, whose repository is restored after each test."""
    yield unchanging
    repository, _ = unchanging
    shutil.rmtree(repository)
    shutil.copytree(two_classifiers, repository)


def test_swaps_back_and_forth_under_load_cost_no_request(served):
    repository, server = served
    assert label_of(server) == LABEL
    with load_on(server) as load:
        there = ("classifier_rotated", ROTATED, "classifier_onnx")
        back = ("classifier_onnx", LABEL, "classifier_rotated")
        for name, label, other in (there, back, there):
            choose(repository, name)
            done = reloaded(repository)
            runs = f"preprocess -> {name} (version 1: mobilenet_v2 in fp32) -> postprocess"
            assert done.stdout == f"serving now: jpeg_classifier = {runs}\n"
            assert f"unloaded {other}" in done.stderr
            begun = len(load.labels)
            time.sleep(0.5)
            # Requests that were sent after the command returned are classified by the new classifier alone.
            assert set(load.labels[begun + 8 :]) <= {label}
            assert count(server, name) > 0
            assert count(server, other) is None
            assert label_of(server) == label
    assert_no_failure(load)
    assert set(load.labels) == {LABEL, ROTATED}
    assert len(load.labels) > 100


def test_every_classifier_for_cpus_follows_the_one_before_under_load(repository, built_classifier, tmp_path):
    for backend in ("openvino", "torch_tensorrt"):
        name = f"classifier_{backend}"
        shutil.copytree(built_classifier(backend, "fp32") / name, repository / name, dirs_exist_ok=True)
    for server in serve(repository, tmp_path / "triton.log"):
        with load_on(server) as load:
            for backend in ("openvino", "torch_tensorrt", "onnx"):
                used = run_module("jpeg_build", "use", backend, "--model-repository", repository)
                assert used.returncode == 0, used.stderr
                reloaded(repository)
                before = count(server, f"classifier_{backend}")
                assert label_of(server) == LABEL
                assert count(server, f"classifier_{backend}") > before
        assert_no_failure(load)
        assert set(load.labels) == {LABEL}


def test_changes_in_place_are_loaded_under_load(served):
    repository, server = served
    classifier = repository / "classifier_onnx"
    with load_on(server) as load:
        rotate_classes(classifier / "1" / "model.onnx")
        reloaded(repository)
        assert label_of(server) == ROTATED
        edit(classifier / CONFIG, "count: 1", "count: 2")
        edit(repository / "preprocess" / CONFIG, "count: 2", "count: 3")
        reloaded(repository)
        # One worker for each instance: two of the classifier, three of preprocess, one of postprocess. The old ones end
        # once their last request is finished.
        limit = time.monotonic() + 30
        while (workers := len(psutil.Process(server.pid).children())) > 6 and time.monotonic() < limit:
            time.sleep(0.1)
        assert workers == 6
        edit(classifier / CONFIG, "count: 2", "count: 1")
        reloaded(repository)
    assert_no_failure(load)
    assert set(load.labels) == {LABEL, ROTATED}


def test_a_swap_leaves_the_other_steps_as_they_are(served):
    """A new worker counts from 0; and nothing that a worker writes may look like an edit."""
    repository, server = served
    assert label_of(server) == LABEL
    choose(repository, "classifier_rotated")
    reloaded(repository)
    log = (repository.parent / "triton.log").read_text()
    assert log.count("successfully loaded 'preprocess'") == 1
    assert log.count("successfully loaded 'postprocess'") == 1


def test_a_version_beside_the_old_one_is_served_and_going_back_is_one_reload(served):
    repository, server = served
    classifier = repository / "classifier_onnx"
    config = (classifier / CONFIG).read_text()
    of_version_2 = config.replace('value: "fp32"', 'value: "fp16"')
    with load_on(server, threads=2) as load:
        shutil.copytree(classifier / "1", classifier / "2")
        rotate_classes(classifier / "2" / "model.onnx")
        edit(classifier / "2" / "model.json", '"precision": "fp32"', '"precision": "fp16"')
        (classifier / CONFIG).write_text(of_version_2)
        assert "classifier_onnx (version 2: mobilenet_v2 in fp16)" in reloaded(repository).stdout
        assert label_of(server) == ROTATED
        (classifier / CONFIG).write_text(config + "version_policy { specific { versions: [1] } }\n")
        assert "classifier_onnx (version 1: mobilenet_v2 in fp32)" in reloaded(repository).stdout
        assert label_of(server) == LABEL
        (classifier / CONFIG).write_text(of_version_2 + "version_policy { all { } }\n")
        assert "classifier_onnx (version 2: " in reloaded(repository).stdout
        assert label_of(server) == ROTATED
        ensemble = repository / "jpeg_classifier" / CONFIG
        text = ensemble.read_text()
        at = text.index("model_version: -1", text.index("classifier_onnx"))
        ensemble.write_text(text[:at] + "model_version: 1" + text[at + len("model_version: -1") :])
        assert "classifier_onnx (version 1: " in reloaded(repository).stdout
        assert label_of(server) == LABEL
    assert_no_failure(load)


def test_the_name_of_the_classifier_may_follow_a_comment(served):
    repository, server = served
    path = repository / "jpeg_classifier" / CONFIG
    edit(
        path, 'model_name: "classifier_onnx"', 'model_name: # which one\n      "classifier_" # in two\n      "rotated"'
    )
    assert "preprocess -> classifier_rotated (" in reloaded(repository).stdout
    assert label_of(server) == ROTATED


# How long a step takes to load, without using the CPU.
LOAD_S = 9
STEP = """\
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        time.sleep({seconds})

    def execute(self, requests):
        responses = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", values * {factor})]))
        return responses
"""
STEP_CONFIG = """\
backend: "python"
max_batch_size: 8
input [{ name: "X" data_type: TYPE_INT32 dims: [2] }]
output [{ name: "Y" data_type: TYPE_INT32 dims: [2] }]
"""
PIPELINE_CONFIG = """\
platform: "ensemble"
max_batch_size: 8
input [{ name: "a" data_type: TYPE_INT32 dims: [2] }]
output [{ name: "b" data_type: TYPE_INT32 dims: [2] }]
ensemble_scheduling {
  step [{
    model_name: "quick"
    model_version: -1
    input_map { key: "X" value: "a" }
    output_map { key: "Y" value: "b" }
  }]
}
"""


@pytest.fixture
def pipeline(tmp_path):
    """A served ensemble of one step, and beside it a step that is slow to load."""
    repository = tmp_path / "models"
    for name, seconds, factor in (("quick", 0, 2), ("slow", LOAD_S, 3)):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / CONFIG).write_text(STEP_CONFIG)
        (repository / name / "1" / "model.py").write_text(STEP.format(seconds=seconds, factor=factor))
    (repository / "pipeline" / "1").mkdir(parents=True)
    (repository / "pipeline" / CONFIG).write_text(PIPELINE_CONFIG)
    for server in serve(repository, tmp_path / "triton.log"):
        yield repository, server


BODY = json.dumps({"inputs": [{"name": "a", "shape": [1, 2], "datatype": "INT32", "data": [1, 5]}]})


@contextmanager
def kept_alive(server, pairs=16):
    """Run clients that keep their connections, and record the seconds of each request by its kind."""
    took: dict[str, list[float]] = {"health": [], "infer": [], "gRPC": []}
    failures: list[str] = []
    over = threading.Event()

    def repeat(kind, request, pause_s):
        try:
            while not over.is_set():
                begun = time.monotonic()
                request()
                took[kind].append(time.monotonic() - begun)
                time.sleep(pause_s)
        except Exception as error:  # any failure counts
            failures.append(f"{kind}: {error!r}")

    def http_request(connection, *request):
        connection.request(*request)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body

    connections = [http.client.HTTPConnection(server.http_address, timeout=60) for _ in range(2 * pairs)]
    remote = grpcclient.InferenceServerClient(server.grpc_address)
    running = [threading.Thread(target=repeat, args=("gRPC", remote.is_server_ready, 0.1))]
    for number, connection in enumerate(connections):
        kind, sent = [
            ("health", ("GET", "/v2/health/ready")),
            ("infer", ("POST", "/v2/models/pipeline/infer", BODY)),
        ][number % 2]
        request = partial(http_request, connection, *sent)
        running.append(threading.Thread(target=repeat, args=(kind, request, 0.2)))
    for thread in running:
        thread.start()
    try:
        yield took
    finally:
        over.set()
        for thread in running:
            thread.join()
        for each in (*connections, remote):
            each.close()
    assert failures == []


def test_no_client_waits_while_a_model_takes_long_to_load(pipeline):
    """Above all no health check: an engine may load for half a minute, and a check that waits as long fails."""
    repository, server = pipeline
    edit(repository / "pipeline" / CONFIG, '"quick"', '"slow"')
    with kept_alive(server) as took:
        begun = time.monotonic()
        done = reloaded(repository)
        lasted = time.monotonic() - begun
    for kind, seconds in took.items():
        assert len(seconds) > LOAD_S, kind
        assert max(seconds) < LOAD_S / 3, f"{kind}: the longest took {max(seconds):.2f} s of {lasted:.2f} s"
    assert lasted > LOAD_S
    assert done.stdout == "serving now: pipeline = slow\n"


def test_a_load_that_takes_too_long_is_abandoned_and_named(pipeline):
    repository, server = pipeline
    edit(repository / "pipeline" / CONFIG, '"quick"', '"slow"')
    edit(repository / "slow" / "1" / "model.py", f"sleep({LOAD_S})", "sleep(4)")  # Triton waits for its end
    done = reload(repository, "--ready-timeout-s", "1")
    assert done.returncode == 1
    assert "slow was not loaded" in done.stderr
    assert server.grpc_address in done.stderr
    assert "--ready-timeout-s" in done.stderr
    assert done.stderr.endswith("[server_timeout]\n")


def test_a_server_that_dies_while_it_loads_is_named(pipeline):
    repository, server = pipeline
    edit(repository / "pipeline" / CONFIG, '"quick"', '"slow"')
    command = [sys.executable, "-m", "jpeg_serve", "reload", "--model-repository", str(repository)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "jpeg-serve: loading slow\n"
        time.sleep(1)
        server.kill()
        text = process.stderr.read()
    assert process.returncode == 1
    assert server.grpc_address in text
    assert text.endswith("[server_unreachable]\n")
    assert "Traceback" not in text


def test_a_key_that_is_not_the_servers_is_refused(server):
    wrong = {"model-repository": ("admin-key", "a guess")}
    with Management(server.grpc_address, wrong, load_s=5) as stranger:
        for call in (lambda: stranger.load("preprocess"), lambda: stranger.unload("preprocess"), stranger.states):
            with pytest.raises(ReloadError) as caught:
                list(call() or ())
            assert caught.value.reason == "key_refused"
        assert stranger.config("jpeg_classifier") is not None
        assert stranger.config("nothing") is None


def test_a_classifier_that_does_not_load_is_named_and_the_old_one_continues(served):
    repository, server = served
    broken = repository / "classifier_rotated" / "1" / "model.onnx"
    good = broken.read_bytes()
    place(broken, b"no ONNX file")
    choose(repository, "classifier_rotated")
    with load_on(server, threads=2) as load:
        done = reload(repository)
        assert done.returncode == 1
        assert "jpeg-serve: error: classifier_rotated was not loaded" in done.stderr
        assert done.stderr.endswith("[load_failed]\n")
        assert "Load model from" in done.stderr
        assert "Traceback" not in done.stderr
        assert "\n\nAt:" not in done.stderr
        time.sleep(0.5)
        assert set(load.labels) == {LABEL}

        place(broken, good)
        reloaded(repository)
        assert label_of(server) == ROTATED

        place(broken, b"no ONNX file")  # now in use
        done = reload(repository)
        assert done.returncode == 1
        assert "classifier_rotated was not loaded" in done.stderr
        assert label_of(server) == ROTATED
        place(broken, good)
        reloaded(repository)
        assert label_of(server) == ROTATED
    assert_no_failure(load)


def test_an_ensemble_that_triton_refuses_does_not_stop_the_old_one(served):
    """A mistake that only Triton finds: it would unload the old ensemble before it reports that."""
    repository, server = served
    choose(repository, "classifier_rotated")
    with (repository / "jpeg_classifier" / CONFIG).open("a") as config:
        config.write('model_repository_agents { agents { name: "nothing" } }\n')
    with load_on(server, threads=2) as load:
        done = reload(repository)
        assert done.returncode == 1
        assert "jpeg_classifier was not loaded" in done.stderr
        assert done.stderr.endswith("[load_failed]\n")
        time.sleep(0.5)
        assert count(server, "classifier_rotated") is None
    assert_no_failure(load)
    assert set(load.labels) == {LABEL}


def test_a_repository_with_problems_is_refused_before_anything_is_loaded(unchanged):
    repository, server = unchanged
    (repository / "classifier_rotated" / "1" / "model.onnx").write_bytes(b"other")
    choose(repository, "classifier_rotated")
    done = reload(repository)
    assert done.returncode == 1
    assert "\n  classifier_rotated/1/model.json: " in done.stderr
    assert done.stderr.endswith("[artefact_altered] [repository_problems]\n")
    assert label_of(server) == LABEL
    assert "loading: classifier_rotated" not in (repository.parent / "triton.log").read_text()


def other_recipe(repository):
    report = json.loads((repository / "classifier_onnx" / "1" / "model.json").read_text())
    for path in (*repository.glob("*/config.pbtxt"), *repository.glob("*/1/model.json")):
        path.write_text(path.read_text().replace(report["recipe_sha256"], "0" * 64))


def other_shape(repository):
    for path in repository.glob("*/config.pbtxt"):
        path.write_text(path.read_text().replace("224, 224, 3", "240, 240, 3").replace('"224,224"', '"240,240"'))
    for artefact in repository.glob("*/1/model.onnx"):
        write_report(msgspec.structs.replace(read_report(artefact), input=[240, 240, 3]), artefact)


def smaller_batch(repository):
    for path in repository.glob("*/config.pbtxt"):
        path.write_text(path.read_text().replace("max_batch_size: 64", "max_batch_size: 8"))


RESTARTS = {
    "recipe": (other_recipe, r"postprocess changed in its recipe \(from mobilenet_v2 [0-9a-f]{8} to mobilenet_v2 0{8}"),
    "shape": (other_shape, "classifier_onnx changed in its inputs"),
    "batch": (smaller_batch, r"classifier_onnx changed in its max_batch_size \(from 64 to 8\)"),
}


def test_changes_beyond_the_classifier_need_a_restart(unchanged, tmp_path):
    repository, server = unchanged
    shutil.copytree(repository, tmp_path / "as_it_was")
    for change, fact in RESTARTS.values():
        change(repository)
        done = reload(repository)
        assert done.returncode == 1
        assert re.search(fact, done.stderr), done.stderr
        assert done.stderr.endswith("[restart_needed]\n")
        assert f"jpeg-serve restart --model-repository {repository}" in done.stderr
        assert label_of(server) == LABEL
        shutil.copytree(tmp_path / "as_it_was", repository, dirs_exist_ok=True)
    reloaded(repository)


@pytest.mark.parametrize(
    "options",
    [
        [
            "--grpc-restricted-protocol",
            "model-repository,logging:x-manager=mine",
            "--grpc-restricted-protocol=model-config,health:reader=me",
        ],
        ["--grpc-restricted-protocol=logging:admin-key=mine"],  # leaves the repository open
        ["--http-restricted-api=model-repository:admin-key=mine"],  # and gRPC with the key of ours
    ],
)
def test_a_server_with_a_key_of_the_users_own_is_reloaded(two, tmp_path, options, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # unused for a server on this machine
    for server in serve(two, tmp_path / "triton.log", triton=options):
        choose(two, "classifier_rotated")
        reloaded(two)
        with Client(f"http://{server.http_address}") as client:
            assert client.classify([COFFEE], k=1)[0].labels[0] == ROTATED


def test_several_servers_are_distinguished(two, tmp_path, built_repository, server):
    elsewhere = tmp_path / "nowhere"
    elsewhere.mkdir()
    none = reload(elsewhere)
    assert none.returncode == 1
    assert f"no running jpeg-serve that serves {elsewhere}" in none.stderr
    assert f"{built_repository} at {server.http_address}" in none.stderr
    assert none.stderr.endswith("[no_server]\n")
    for first in serve(two, tmp_path / "first.log"):
        for second in serve(two, tmp_path / "second.log"):
            choose(two, "classifier_rotated")
            done = reload(two)
            assert done.returncode == 1
            ports = {first.options.http_port, second.options.http_port}
            assert done.stderr.endswith("[several_servers]\n")
            assert all(str(port) in done.stderr for port in ports)
            done = run_module("jpeg_serve", "reload", "--http-port", str(second.options.http_port), cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert (label_of(first), label_of(second), label_of(server)) == (LABEL, ROTATED, LABEL)
            reloaded(two, "--http-port", str(first.options.http_port))
            assert label_of(first) == ROTATED


def state_of(server):
    """Return the file and the content of a server's state."""
    ((file, running),) = [found for found in state.find_running() if found[1].pid == server.pid]
    return file, running


def test_the_state_is_readable_by_its_user_only_and_removed_with_the_server(built_repository, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for server in serve(built_repository, tmp_path / "triton.log"):
        file, running = state_of(server)
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert running.model_repository == str(built_repository)
        header, key = running.keys["model-repository"]
        client = httpclient.InferenceServerClient(server.http_address)
        assert client.get_model_repository_index(headers={header: key})
        with pytest.raises(httpclient.InferenceServerException, match="restricted"):
            client.get_model_repository_index()
        client.close()
        remote = grpcclient.InferenceServerClient(server.grpc_address)
        assert remote.get_model_repository_index(headers={f"triton-grpc-protocol-{header}": key})
        with pytest.raises(grpcclient.InferenceServerException, match="restricted"):
            remote.get_model_repository_index()
        remote.close()
        server.stop()
    assert list(file.parent.iterdir()) == []
    assert state.find_running() == []


def test_the_state_of_a_killed_server_is_recognised_and_removed(built_repository, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    log = (tmp_path / "stderr").open("wb")
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "jpeg_serve", "--model-repository", built_repository, *ports]
    process = subprocess.Popen([*map(str, command)], stderr=log)
    try:
        while not (running := state.find_running()):
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            time.sleep(0.05)
        ((file, found),) = running
    finally:
        process.kill()  # and its server gets SIGTERM
        process.wait()
        log.close()
    assert file.exists()
    os.kill(found.pid, signal.SIGKILL)
    while found.is_alive():
        time.sleep(0.05)
    assert reload(built_repository).returncode == 1
    assert not file.exists()


def test_one_reload_at_a_time(served):
    repository, server = served
    choose(repository, "classifier_rotated")
    first, second = (
        subprocess.Popen(
            [sys.executable, "-m", "jpeg_serve", "reload", "--model-repository", str(repository)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    )
    texts = [each.communicate(timeout=60)[1] for each in (first, second)]
    assert sorted([first.returncode, second.returncode]) == [0, 1], texts
    assert any(text.endswith("[reload_in_progress]\n") for text in texts)
    assert label_of(server) == ROTATED


def test_a_reload_runs_in_the_environment_of_the_server(unchanged, tmp_path):
    """The packages of that environment count, not those of the environment that the user is in."""
    repository, server = unchanged
    file, running = state_of(server)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexit 7\n')
    python.chmod(0o755)
    content = file.read_text()
    file.write_text(
        content.replace(f'"{running.prefix}"', '"/elsewhere"').replace(f'"{running.python}"', f'"{python}"')
    )
    try:
        done = reload(repository, "--drain-s", "3")
        assert done.returncode == 7
        arguments = (tmp_path / "arguments").read_text()
        port = server.options.http_port
        assert arguments.startswith(f"-m jpeg_serve reload --model-repository {repository} --http-port {port} ")
        assert arguments.endswith("--drain-s 3\n")
    finally:
        file.write_text(content)


def test_a_reload_keeps_the_backend_that_the_server_was_started_with(unchanged):
    """A folder of backends cannot change under a server."""
    _, server = unchanged
    file, running = state_of(server)
    assert running.served_with["onnxruntime"] == "python"
    content = file.read_text()
    file.write_text(content.replace('"onnxruntime": "python"', '"onnxruntime": "native"'))
    try:
        done = run_module("jpeg_serve", "reload", "--http-port", str(server.options.http_port))
        assert done.returncode == 1
        assert "[native_backend_missing]" in done.stderr
    finally:
        file.write_text(content)
