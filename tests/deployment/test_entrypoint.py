"""The entrypoint of the gpu image, without a GPU.

missing_gpu/ holds stand-ins for the driver, for trtexec and for the execution of engines. A stand-in for jpeg-serve
records its arguments, because no server can load such an engine. test_image.py runs the entrypoint of the cpu image
with the real server.
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
    """A folder with the stand-in for the CUDA driver."""
    return compiled("libcuda.c", tmp_path_factory.mktemp("driver") / "libcuda.so.1").parent


@pytest.fixture(scope="module")
def nfs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for a process to whom every file system locks as NFS does."""
    return {"LD_PRELOAD": str(compiled("nfs_flock.c", tmp_path_factory.mktemp("nfs") / "nfs_flock.so"))}


def compiled(source: str, library: Path) -> Path:
    gcc = tool("gcc", "gcc")
    subprocess.run([gcc, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, STANDIN / source, "-ldl"], check=True)
    return library


class Entrypoint:
    """The entrypoint with its volume; call it to run it to its end."""

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

    def selected(self) -> str:
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
    for folder in ("contract", "deploy"):
        (home / folder).symlink_to(ROOT / folder)
    (home / "model_repository").symlink_to(built_repository)
    yield Entrypoint(tmp_path, driver, home)


def test_first_start_fills_the_volume_builds_the_engine_and_serves_it(start):
    done = start("--grpc-port", "9001")
    assert done.returncode == 0, done.stderr
    assert "holds no model: copying the repository of mobilenet_v2" in done.stderr
    assert "GPU 0, compute capability 9.0: building an engine in fp16" in done.stderr
    assert start.selected() == "classifier_tensorrt"
    (line,) = start.lines(start.notes)
    assert line.startswith("0 --onnx=")
    assert "--stronglyTyped" in line
    report = start.report("9.0")
    assert report["precision"] == "fp16"
    assert report["requires"]["compute_capability"] == "9.0"
    assert report["parity"]["top1_agreement"] == 1.0
    served = f"--model-repository {start.models} --address 0.0.0.0 --behind-gateway --grpc-port 9001"
    assert start.lines(start.served) == [served]
    assert done.stdout == ""


@pytest.mark.parametrize("address", [["--address", "0.0.0.0"], ["--address=::"], ["--address=127.0.0.1"]])
def test_own_address_says_itself_whether_it_is_behind_a_gateway(start, address):
    """A container that is given an address may have the host's network, where it is open to other machines."""
    assert start("--drain-s", "9", *address, "--", "--log-verbose=1", ENGINE_PRECISION="").returncode == 0
    (line,) = start.lines(start.served)
    assert "--behind-gateway" not in line
    assert line.count("--address") == 1


def test_next_start_builds_nothing_and_keeps_the_selection(start):
    assert start().returncode == 0
    edit(start.models / "jpeg_classifier" / "config.pbtxt", '"classifier_tensorrt"', '"classifier_onnx"')
    done = start()
    assert done.returncode == 0, done.stderr
    assert "copying" not in done.stderr
    assert "up to date" in done.stderr
    assert start.selected() == "classifier_onnx"
    assert len(start.lines(start.notes)) == 1
    assert len(start.lines(start.served)) == 2


def test_each_kind_of_gpu_gets_its_own_engine(start):
    assert start().returncode == 0
    assert start(STANDIN_GPUS="8.6").returncode == 0
    assert start(STANDIN_GPUS="9.0").returncode == 0
    assert len(start.lines(start.notes)) == 2
    config = (start.models / "classifier_tensorrt" / "config.pbtxt").read_text()
    assert "model_sm90.plan" in config
    assert "model_sm86.plan" in config


def test_machine_with_two_kinds_of_gpu_gets_two_engines(start):
    assert start(STANDIN_GPUS="9.0 9.0 8.6").returncode == 0
    assert [line.split()[0] for line in start.lines(start.notes)] == ["0", "2"]
    assert start.report("9.0")["requires"] != start.report("8.6")["requires"]


# CUDA_VISIBLE_DEVICES on a machine with GPUs of three kinds, and the GPUs for which an engine is built.
VISIBLE = {"0,2": ["0", "2"], "2,0": ["2", "0"], "1, 2": ["1", "2"], "2": ["2"], "1,-1,2": ["1"]}


@pytest.mark.parametrize(("visible", "expected"), VISIBLE.items(), ids=VISIBLE)
def test_each_kind_among_the_visible_gpus_gets_its_engine(start, visible, expected):
    done = start(STANDIN_GPUS="9.0 8.9 8.6", CUDA_VISIBLE_DEVICES=visible)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in start.lines(start.notes)] == expected
    kinds = {"0": "9.0", "1": "8.9", "2": "8.6"}
    built = {path.name for path in (start.models / "classifier_tensorrt" / "1").glob("*.plan")}
    assert built == {f"model_sm{kinds[each].replace('.', '')}.plan" for each in expected}


def test_without_a_gpu_the_selected_classifier_is_served(start):
    done = start(STANDIN_GPUS="")
    assert done.returncode == 0
    assert "no GPU (the NVIDIA driver says: no device): no engine is built" in done.stderr
    assert start.selected() == "classifier_onnx"
    assert len(start.lines(start.served)) == 1
    # A later start with a GPU still selects the first engine.
    assert start().returncode == 0
    assert start.selected() == "classifier_tensorrt"


def test_failed_build_ends_the_container_with_its_reason(start):
    done = start(STANDIN_TRTEXEC="fails")
    assert done.returncode == 1
    assert "no memory for the stand-in" in done.stderr
    assert "the engine was not built" in done.stderr
    assert "ENGINE_PRECISION= serves without one" in done.stderr
    assert start.lines(start.served) == []
    assert start.selected() == "classifier_onnx"
    assert start(ENGINE_PRECISION="").returncode == 0
    assert len(start.lines(start.served)) == 1
    assert start().returncode == 0
    assert start.selected() == "classifier_tensorrt"


def test_engine_options_reach_the_build(start):
    assert start(ENGINE_PRECISION="fp32", ENGINE_OPTIONS="--max-batch 8 --workspace-mib 512").returncode == 0
    (line,) = start.lines(start.notes)
    assert "--maxShapes=input__0:8x224x224x3" in line
    assert "--memPoolSize=workspace:512" in line
    assert start.report("9.0")["precision"] == "fp32"


def test_sigterm_during_the_build_stops_at_once(start):
    process = start.begin(STANDIN_TRTEXEC="sleeps", STANDIN_SLEEP="20")
    wait_for(lambda: start.lines(start.notes))
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - signalled < 10
    assert "stopped" in stderr
    assert start.lines(start.served) == []
    assert start().returncode == 0


def test_two_containers_of_one_volume_take_turns(start):
    first = start.begin(STANDIN_TRTEXEC="sleeps", STANDIN_SLEEP="3")
    wait_for(lambda: start.lines(start.notes))
    second = start.begin()
    _, stderr = second.communicate(timeout=120)
    first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "up to date" in stderr
    assert len(start.lines(start.notes)) == 1


def test_two_first_starts_on_one_nfs_volume_take_turns(start, nfs):
    """NFS refuses an exclusive lock on a file that is open for reading only, and both would fill the volume."""
    first = start.begin(STANDIN_TRTEXEC="sleeps", STANDIN_SLEEP="3", **nfs)
    wait_for((start.models / ".entrypoint.lock").exists)
    second = start.begin(**nfs)
    _, stderr = second.communicate(timeout=120)
    _, stderr_of_first = first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), stderr + stderr_of_first
    assert [text.count("copying the repository") for text in sorted((stderr, stderr_of_first))].count(1) == 1
    assert "without a lock" not in stderr + stderr_of_first
    assert len(start.lines(start.notes)) == 1


def test_container_of_another_user_locks_the_same_volume(start):
    assert start(ENGINE_PRECISION="").returncode == 0
    assert (start.models / ".entrypoint.lock").stat().st_mode & 0o777 == 0o666


def test_sigterm_while_waiting_for_the_lock_stops_at_once(start):
    first = start.begin(STANDIN_TRTEXEC="sleeps", STANDIN_SLEEP="10")
    wait_for(lambda: start.lines(start.notes))
    second = start.begin()
    assert second.stderr is not None
    assert "waiting: another container" in second.stderr.readline()
    signalled = time.monotonic()
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert second.returncode == 143
    assert time.monotonic() - signalled < 5
    first.communicate(timeout=120)
    assert first.returncode == 0


@pytest.mark.parametrize("linked", ["the repository", "each model"])
def test_foreign_repository_is_not_modified_even_behind_links(start, built_repository, tmp_path, linked):
    """git-sync and KServe mount repositories through links."""
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
    assert "is not the repository of this image: no engine is built" in done.stderr
    after = {path: path.read_bytes() for path in own.rglob("*") if path.is_file() and path.name != ".entrypoint.lock"}
    assert after == before
    assert len(start.lines(start.served)) == 1


def test_files_in_the_way_are_not_removed(start):
    (start.models / "preprocess").mkdir()
    (start.models / "preprocess" / "mine").write_text("notes")
    done = start()
    assert done.returncode == 1
    assert "preprocess exists but holds no model" in done.stderr
    assert (start.models / "preprocess" / "mine").read_text() == "notes"


def test_unusable_lock_does_not_prevent_serving(start):
    assert start(ENGINE_PRECISION="").returncode == 0
    (start.models / ".entrypoint.lock").unlink()
    (start.models / ".entrypoint.lock").symlink_to("nowhere/at/all")
    done = start(ENGINE_PRECISION="")
    assert done.returncode == 0, done.stderr
    assert "continuing without a lock" in done.stderr
    assert len(start.lines(start.served)) == 2


def test_commands_of_the_project_find_a_filled_volume(start):
    done = start("jpeg-build", "--help")
    assert done.returncode == 0, done.stderr
    assert (start.models / "jpeg_classifier" / "config.pbtxt").is_file()


def test_any_other_command_runs_as_given(start):
    done = start("echo", "hello", "--there")
    assert (done.returncode, done.stdout) == (0, "hello --there\n")
    assert not any(start.models.iterdir())


def test_interrupted_copy_is_completed(start, built_repository):
    shutil.copytree(built_repository / "preprocess", start.models / "preprocess")
    (start.models / ".filling").mkdir()
    done = start(ENGINE_PRECISION="")
    assert done.returncode == 0, done.stderr
    assert "completing an interrupted copy" in done.stderr
    checked = run(sys.executable, "-m", "jpeg_serve", "check", "--static", "--model-repository", start.models)
    assert checked.returncode == 0, checked.stdout


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
