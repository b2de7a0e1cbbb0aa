"""The entrypoint of the gpu image, on this machine: all of it is real but the GPU.

missing_gpu/ stands in for the driver (which GPUs there are), for trtexec, and for what runs an engine. What is served
then is not started here: no server could load such an engine. test_image.py runs the entrypoint of the cpu image whole.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from debian_tools import tool
from support import ROOT, edit, run

STANDIN = Path(__file__).with_name("missing_gpu")
ENTRYPOINT = ROOT / "deploy" / "image" / "entrypoint.sh"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-in for NVIDIA's driver."""
    folder = tmp_path_factory.mktemp("driver")
    gcc = tool("gcc", "gcc")
    library = folder / "libcuda.so.1"
    subprocess.run([gcc, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, STANDIN / "libcuda.c"], check=True)
    return folder


class Started:
    """The entrypoint, as it was started."""

    def __init__(self, folder: Path, driver: Path, home: Path) -> None:
        self.models = folder / "models"
        self.models.mkdir()
        self._folder, self._driver, self._home = folder, driver, home
        self.notes, self.served = folder / "trtexec", folder / "served"
        programs = folder / "programs"
        programs.mkdir()
        (programs / "trtexec").symlink_to(STANDIN / "trtexec")
        serve = programs / "jpeg-serve"
        serve.write_text(f'#!/bin/sh\necho "$@" >> {self.served}\n')
        serve.chmod(0o755)
        self._path = f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin"

    def begin(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ENTRYPOINT, *arguments],
            env={
                "PATH": self._path,
                "HOME": str(self._folder),
                "JPEG_HOME": str(self._home),
                "MODEL_REPOSITORY": str(self.models),
                "RECIPE": "mobilenet_v2",
                "ENGINE_PRECISION": "fp16",
                "STANDIN_NOTES": str(self.notes),
                "STANDIN_GPUS": "9.0",
                "LD_LIBRARY_PATH": str(self._driver),
                "PYTHONPATH": str(STANDIN),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.begin(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def lines(self, file: Path) -> list[str]:
        return file.read_text().splitlines() if file.exists() else []

    def chosen(self) -> str:
        text = (self.models / "jpeg_classifier" / "config.pbtxt").read_text()
        return next(name for name in ("classifier_tensorrt", "classifier_onnx") if f'"{name}"' in text)

    def report(self, kind: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(
            (self.models / "classifier_tensorrt" / "1" / f"model_sm{kind.replace('.', '')}.json").read_text()
        )
        return found


@pytest.fixture
def start(tmp_path: Path, driver: Path, built_repository: Path) -> Iterator[Callable[..., object]]:
    home = tmp_path / "home"
    home.mkdir()
    for folder in ("serve", "deploy"):
        (home / folder).symlink_to(ROOT / folder)
    (home / "model_repository").symlink_to(built_repository)
    yield Started(tmp_path, driver, home)


def test_the_first_start_fills_the_volume_builds_the_engine_and_serves_it(start):
    done = start("--grpc-port", "9001")
    assert done.returncode == 0, done.stderr
    assert "holds no model: copying the repository of mobilenet_v2" in done.stderr
    assert "GPU 0, compute capability 9.0: making sure of an engine in fp16" in done.stderr
    assert start.chosen() == "classifier_tensorrt"
    (line,) = start.lines(start.notes)
    assert line.startswith("0 --onnx=")
    assert "--stronglyTyped" in line
    report = start.report("9.0")
    assert report["precision"] == "fp16"
    assert report["requires"]["compute_capability"] == "9.0"
    assert report["parity"]["top1_agreement"] == 1.0
    assert start.lines(start.served) == [f"--model-repository {start.models} --address 0.0.0.0 --grpc-port 9001"]
    assert done.stdout == ""


def test_the_next_start_builds_nothing_and_keeps_the_choice(start):
    assert start().returncode == 0
    edit(start.models / "jpeg_classifier" / "config.pbtxt", '"classifier_tensorrt"', '"classifier_onnx"')
    done = start()
    assert done.returncode == 0, done.stderr
    assert "copying" not in done.stderr
    assert "up to date" in done.stderr
    assert start.chosen() == "classifier_onnx"
    assert len(start.lines(start.notes)) == 1
    assert len(start.lines(start.served)) == 2


def test_another_kind_of_gpu_gets_an_engine_of_its_own(start):
    assert start().returncode == 0
    assert start(STANDIN_GPUS="8.6").returncode == 0
    assert start(STANDIN_GPUS="9.0").returncode == 0
    assert len(start.lines(start.notes)) == 2
    config = (start.models / "classifier_tensorrt" / "config.pbtxt").read_text()
    assert "model_sm90.plan" in config
    assert "model_sm86.plan" in config


def test_a_machine_of_two_kinds_gets_both(start):
    assert start(STANDIN_GPUS="9.0 9.0 8.6").returncode == 0
    assert [line.split()[0] for line in start.lines(start.notes)] == ["0", "2"]
    assert start.report("9.0")["requires"] != start.report("8.6")["requires"]


def test_without_a_gpu_it_says_so_and_serves_what_is_chosen(start):
    done = start(STANDIN_GPUS="")
    assert done.returncode == 0
    assert "no GPU (the NVIDIA driver says: no device): no engine is built" in done.stderr
    assert start.chosen() == "classifier_onnx"
    assert len(start.lines(start.served)) == 1
    # With one, later, the first engine is chosen still.
    assert start().returncode == 0
    assert start.chosen() == "classifier_tensorrt"


def test_a_build_that_fails_ends_the_container_and_says_why(start):
    done = start(STANDIN_TRTEXEC="fails")
    assert done.returncode == 1
    assert "no memory for the stand-in" in done.stderr
    assert "the engine was not built; the lines above say why. ENGINE_PRECISION= serves without one" in done.stderr
    assert start.lines(start.served) == []
    assert start.chosen() == "classifier_onnx"
    assert start(ENGINE_PRECISION="").returncode == 0
    assert len(start.lines(start.served)) == 1
    assert start().returncode == 0
    assert start.chosen() == "classifier_tensorrt"


def test_options_of_the_build_reach_it(start):
    assert start(ENGINE_PRECISION="fp32", ENGINE_OPTIONS="--max-batch 8 --workspace-mib 512").returncode == 0
    (line,) = start.lines(start.notes)
    assert "--maxShapes=input__0:8x224x224x3" in line
    assert "--memPoolSize=workspace:512" in line
    assert start.report("9.0")["precision"] == "fp32"


def test_a_stop_during_the_build_ends_it_at_once(start):
    process = start.begin(STANDIN_TRTEXEC="sleeps", STANDIN_SLEEP="20")
    wait_for(lambda: start.lines(start.notes))
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - asked < 10
    assert "stopped" in said
    assert start.lines(start.served) == []
    assert start().returncode == 0


def test_two_containers_of_one_volume_take_turns(start):
    first = start.begin(STANDIN_TRTEXEC="sleeps", STANDIN_SLEEP="3")
    wait_for(lambda: start.lines(start.notes))
    second = start.begin()
    _, said = second.communicate(timeout=120)
    first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "up to date" in said
    assert len(start.lines(start.notes)) == 1


def test_a_stop_while_it_waits_for_another_ends_it_at_once(start):
    first = start.begin(STANDIN_TRTEXEC="sleeps", STANDIN_SLEEP="10")
    wait_for(lambda: start.lines(start.notes))
    second = start.begin()
    assert second.stderr is not None
    assert "waiting: another container works on" in second.stderr.readline()
    asked = time.monotonic()
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert second.returncode == 143
    assert time.monotonic() - asked < 5
    first.communicate(timeout=120)
    assert first.returncode == 0


@pytest.mark.parametrize("linked", ["the repository", "each model"])
def test_a_repository_of_ones_own_is_left_alone_also_behind_links(start, built_repository, tmp_path, linked):
    """As git-sync and KServe bring them."""
    own = tmp_path / "own"
    shutil.copytree(built_repository, own)
    (own / "mine").touch()
    edit(own / "classifier_onnx" / "1" / "model.json", '"recipe": "mobilenet_v2"', '"recipe": "mine"')
    start.models.rmdir()
    if linked == "the repository":
        start.models.symlink_to(own)
    else:
        start.models.mkdir()
        for model in own.iterdir():
            (start.models / model.name).symlink_to(model)
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    done = start()
    assert done.returncode == 0, done.stderr
    assert "copying" not in done.stderr
    assert "is not the repository of this image: it is served as it is, and no engine is built" in done.stderr
    after = {path: path.read_bytes() for path in own.rglob("*") if path.is_file() and path.name != ".entrypoint.lock"}
    assert after == before
    assert len(start.lines(start.served)) == 1


def test_what_lies_in_the_way_is_not_removed(start):
    (start.models / "preprocess").mkdir()
    (start.models / "preprocess" / "mine").write_text("notes")
    done = start()
    assert done.returncode == 1
    assert "preprocess is there, but holds no model: move it away" in done.stderr
    assert (start.models / "preprocess" / "mine").read_text() == "notes"


def test_a_lock_that_cannot_be_used_keeps_nobody_from_serving(start):
    assert start(ENGINE_PRECISION="").returncode == 0
    (start.models / ".entrypoint.lock").unlink()
    (start.models / ".entrypoint.lock").symlink_to("nowhere/at/all")
    done = start(ENGINE_PRECISION="")
    assert done.returncode == 0, done.stderr
    assert "cannot be used: going on without it" in done.stderr
    assert len(start.lines(start.served)) == 2


def test_a_command_of_the_project_has_a_repository_to_look_at(start):
    done = start("jpeg-build", "--help")
    assert done.returncode == 0, done.stderr
    assert (start.models / "jpeg_classifier" / "config.pbtxt").is_file()


def test_any_other_command_is_run_as_it_is(start):
    done = start("echo", "hello", "--there")
    assert (done.returncode, done.stdout) == (0, "hello --there\n")
    assert not any(start.models.iterdir())


def test_the_volume_is_filled_whole_if_a_start_was_killed(start, built_repository):
    shutil.copytree(built_repository / "preprocess", start.models / "preprocess")
    (start.models / ".filling").mkdir()
    done = start(ENGINE_PRECISION="")
    assert done.returncode == 0, done.stderr
    assert "finishing what was begun" in done.stderr
    checked = run(sys.executable, "-m", "jpeg_serve", "check", "--model-repository", start.models)
    assert checked.returncode == 0, checked.stdout


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
