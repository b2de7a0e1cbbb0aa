"""The command jpeg-serve check, with its trial in a real tritonserver, and which backend a server gets."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import serve
from jpeg_client import Client
from jpeg_serve import shared_memory, state
from jpeg_serve.locate import find_installation
from repository.mistakes import CLASSIFIER, MISTAKES, PREPROCESS
from repository.static_repository import BEST, make_network, make_report, make_repository
from support import edit, photo, run_module, started


@pytest.fixture(scope="module")
def static_repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("static") / "model_repository")


@pytest.fixture
def changed(static_repository, tmp_path):
    return shutil.copytree(static_repository, tmp_path / "model_repository")


def check(repository, *options, **more):
    return run_module("jpeg_serve", "check", "--model-repository", repository, *options, **more)


def test_a_repository_that_loads_passes_its_trial(static_repository):
    done = check(static_repository)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "jpeg_classifier = preprocess -> classifier_onnx -> postprocess" in lines[0]
    assert lines[1:] == [
        "classifier_onnx is served by the Python-based backend onnxruntime",
        "trial in a real tritonserver: passed",
    ]
    assert "tritonserver.cc" not in done.stderr  # its log is hidden


def test_the_trial_can_be_left_out(static_repository):
    done = check(static_repository, "--static")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "trial in a real tritonserver: not run: --static"


def broken_network(repository):
    """A network that only ONNX Runtime can refuse: its report describes it."""
    artefact = repository / CLASSIFIER / "1" / "model.onnx"
    artefact.write_bytes(b"no ONNX file")
    make_report(artefact)


def test_a_trial_that_fails_gives_tritons_reason(changed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    broken_network(changed)
    done = check(changed)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{CLASSIFIER}: ")
    assert line.endswith("[trial_load_failed]")
    assert "cannot be loaded by ONNX Runtime" in line
    assert "At:" not in line
    assert done.stderr.endswith("trial in a real tritonserver: failed\n")
    assert check(changed, "--static").returncode == 0
    assert state.find_running() == []


def test_files_with_problems_get_no_trial(changed):
    MISTAKES["decoder"].change(changed)
    done = check(changed)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{PREPROCESS}/config.pbtxt: parameter decoder is 'quick'")
    assert line.endswith("[invalid_setting]")
    assert "trial in a real tritonserver: not run" in done.stderr


def test_the_result_as_json(changed):
    found = json.loads(check(changed, "--json", "--static").stdout)
    assert found == {
        "model_repository": str(changed),
        "problems": [],
        "classifiers": [{"model": CLASSIFIER, "backend": "onnxruntime", "served_with": "python"}],
        "trial": "not run: --static",
    }
    broken_network(changed)
    found = json.loads(check(changed, "--json").stdout)
    assert [(problem["where"], problem["reason"]) for problem in found["problems"]] == [
        (CLASSIFIER, "trial_load_failed")
    ]
    assert found["trial"] == "failed"
    MISTAKES["decoder"].change(changed)
    found = json.loads(check(changed, "--json").stdout)
    assert [problem["reason"] for problem in found["problems"]] == ["invalid_setting"]
    assert found["trial"].startswith("not run")


def test_a_trial_that_is_interrupted_leaves_nothing(static_repository, tmp_path):
    command = [sys.executable, "-m", "jpeg_serve", "check", "--model-repository", static_repository]
    with (
        (tmp_path / "stderr").open("wb") as log,
        started(*command, stdout=subprocess.DEVNULL, stderr=log) as process,
    ):
        me = psutil.Process(process.pid)
        limit = time.monotonic() + 30
        while len(family := me.children(recursive=True)) < 2 and time.monotonic() < limit:  # the server and a worker
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
    assert (tmp_path / "stderr").read_text().endswith("interrupted [interrupted]\n")
    assert shared_memory.segments(f"jpeg_serve_{process.pid}_") == []


def test_backends_that_are_not_there_are_refused(static_repository, tmp_path):
    done = check(static_repository, "--backends", tmp_path / "nowhere", "--static")
    assert done.returncode == 1
    assert "[backend_missing]" in done.stdout
    done = check(static_repository, "--serve-with", "onnxruntime=native", "--static")
    assert done.returncode == 1
    assert "[native_backend_missing]" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--http-port", "0"],
        ["check", "--", "--log-verbose=1"],
        ["check", "--serve-with", "onnxruntime"],
        ["check", "--serve-with", "onnxruntime=both"],
        ["check", "--serve-with", "nothing=python"],
        ["reload", "--", "--log-verbose=1"],
        ["reload", "--static"],
        ["probe", "--", "--log-verbose=1"],
        ["probe", "--timeout-s", "0"],
        ["--http-port", "eighty"],
        ["--http-port", "65536"],
        ["--trace-rate", "-1"],
        ["--", "--http-port=80"],
        ["run", "--", "--load-model=x"],
        ["serve"],
        ["run", "serve"],
    ],
    ids=" ".join,
)
def test_invalid_calls_exit_with_2(arguments):
    done = run_module("jpeg_serve", *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith("[invalid_call]\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["reload"], ["probe"]], ids=str)
def test_help_is_quick_and_needs_no_package_of_the_server(command):
    started = time.monotonic()
    done = run_module("jpeg_serve", *command, "--help")
    assert done.returncode == 0
    assert "Usage: jpeg-serve" in done.stdout
    assert time.monotonic() - started < 3  # 0.2 s on a machine with nothing else to do
    program = "import sys; import jpeg_serve.cli; sys.exit('google.protobuf' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# A native backend as Triton sees it: this one is the Python backend's library under another name, so that it loads
# nothing, and shows that Triton was given the native backend.
def test_a_server_gets_the_backend_that_the_user_chooses(static_repository, tmp_path, monkeypatch):
    wheel = find_installation()
    assert wheel.stub is not None
    installed = tmp_path / "tritonserver"
    shutil.copytree(wheel.backends, installed / "backends")
    shutil.copy2(wheel.stub, installed / "backends" / "python" / "triton_python_backend_stub")
    (installed / "backends" / "onnxruntime").mkdir()
    (installed / "backends" / "onnxruntime" / "libtriton_onnxruntime.so").write_text("not a library")
    script = installed / "bin" / "tritonserver"
    script.parent.mkdir()
    libraries = os.pathsep.join(map(str, wheel.library_folders))
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {wheel.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    for server in serve(static_repository, tmp_path / "triton.log"):
        assert [each.served_with for each in server.classifiers] == ["python"]
        with Client(f"grpc://{server.grpc_address}") as client:
            assert client.classify([photo("coffee")], k=1)[0].indices == (BEST,)
    done = check(static_repository, "--serve-with", "onnxruntime=native")
    assert done.returncode == 1
    assert "[trial_load_failed]" in done.stdout
    assert "libtriton_onnxruntime.so" in done.stdout


def test_a_network_of_another_class_is_no_problem_of_the_check(changed):
    """The trial loads the repository; the label of a photo is the probe's matter."""
    artefact = changed / CLASSIFIER / "1" / "model.onnx"
    make_network(artefact, best=BEST + 1)
    make_report(artefact)
    assert check(changed).returncode == 0
    for file in (changed / CLASSIFIER / "1" / "model.json", changed / CLASSIFIER / "config.pbtxt"):
        edit(file, '"fp32"', '"fp16"')
    assert check(changed, "--static").returncode == 0
