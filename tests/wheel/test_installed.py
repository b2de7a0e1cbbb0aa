"""The built wheel in an environment and a folder of its own, with no checkout in sight."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PHOTOS, ROOT, SMALL_RECIPE, run, small_network

UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def install(folder: Path, wheel: Path, extras: str) -> Path:
    """Make an environment with the wheel and some extras; return its folder of commands."""
    assert run(sys.executable, "-m", "venv", "--without-pip", folder / "venv").returncode == 0
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    command: list[str | Path] = [UV, "pip", "install", "--quiet", "--python", folder / "venv" / "bin" / "python"]
    command += ["--constraints", ROOT / "requirements" / "dev.txt", f"{wheel}[{extras}]"]
    environment = {**os.environ, **bootstrap.settings_of_pip(sys.executable)}
    done = run(*command, env=environment)
    assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin"


@pytest.fixture(scope="session")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that builds ONNX recipes, serves and classifies, over the web, too."""
    return install(tmp_path_factory.mktemp("full"), wheel, "build,serve,client,web")


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a user who has never seen the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_the_wheel_carries_what_its_packages_need(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for photo in PHOTOS.rglob("*.jpg"):
        assert f"jpeg_contract/photos/{photo.relative_to(PHOTOS)}" in names
    for model in ("preprocess", "postprocess"):
        assert f"jpeg_build/models/{model}/1/model.py" in names
    for backend in (ROOT / "backends").glob("*/model.py"):
        assert f"jpeg_serve/backends/{backend.parent.name}/model.py" in names
    for recipe in (ROOT / "build" / "jpeg_build" / "recipes").iterdir():
        assert f"jpeg_build/recipes/{recipe.name}" in names
    assert "jpeg_contract/probe.jpg" in names
    assert not [name for name in names if "comparison" in name or "__pycache__" in name or name.startswith("tests")]
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    for file in (ROOT / "client" / "jpeg_web" / "static").iterdir():
        assert f"jpeg_web/static/{file.name}" in names
    rooms = ("contract", "preprocess", "postprocess", "runtime", "build", "serve", "client", "web", "bench")
    assert tops == {f"jpeg_{room}" for room in rooms}


def test_a_recipe_is_built_checked_served_and_classified_in_an_empty_folder(commands, environment, tmp_path):
    small_network(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL_RECIPE)

    def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
        done = run(commands / str(command[0]), *command[1:], cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done

    assert "classifier_onnx/1: small in fp32" in call("jpeg-build", "small.toml").stdout
    call("jpeg-build", "small.toml", "--backend", "openvino", "--precision", "int8")
    call("jpeg-build", "use", "openvino")
    call("jpeg-serve", "check")
    with served(commands, tmp_path, environment) as addresses:
        lines = call("jpeg-classify", "--url", addresses["gRPC"], "--k", "1", PHOTOS / "coffee.jpg").stdout.splitlines()
        assert len(lines) == 1
        assert lines[0].split(": ")[1].split()[0] in ("one", "two", "three")
        call("jpeg-serve", "probe", "--http-port", addresses["HTTP"].rpartition(":")[2])
        with urllib.request.urlopen(
            f"{addresses['web']}classify?k=1", (PHOTOS / "coffee.jpg").read_bytes()
        ) as response:
            (result,) = json.load(response)["results"]
        assert result["predictions"][0]["label"] in ("one", "two", "three")
        with urllib.request.urlopen(addresses["web"]) as response:
            assert b"<script" in response.read()


class served:  # noqa: N801  # reads as a phrase
    """A jpeg-serve on free ports; gives the addresses that it prints."""

    def __init__(self, commands: Path, folder: Path, environment: dict[str, str]) -> None:
        ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
        self._log = folder / "serve.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [commands / "jpeg-serve", *ports, "--web", "--web-port", "0"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> dict[str, str]:
        limit = time.monotonic() + 60
        while "  web  " not in (text := self._log.read_text()):
            assert self._process.poll() is None, text
            assert time.monotonic() < limit, text
            time.sleep(0.1)
        lines = [line.split() for line in text.splitlines()]
        found = {words[0]: words[1] for words in lines if len(words) == 2 and words[0] in ("HTTP", "gRPC", "web")}
        with urllib.request.urlopen(f"{found['HTTP']}/v2/health/ready") as response:
            assert response.status == 200
        return {**found, "gRPC": f"grpc://{found['gRPC']}"}

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(60) == 0, self._log.read_text()


def test_a_network_of_pytorch_names_the_extra_that_brings_pytorch(commands, environment, tmp_path):
    done = run(commands / "jpeg-build", "mobilenet_v2", cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "triton-jpeg-classifier[torch]" in done.stderr
    assert done.stderr.rstrip().endswith("[package_missing]")


def test_the_build_extra_is_small(commands):
    site = next(commands.parent.glob("lib/python3.*/site-packages"))
    assert not (site / "torch").exists()
    assert not list(site.glob("nvidia_cu*"))


@pytest.fixture(scope="session")
def client_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the client alone."""
    yield install(tmp_path_factory.mktemp("client"), wheel, "client")


def test_a_client_is_light_and_the_other_commands_name_their_extras(client_only, environment, tmp_path):
    site = next(client_only.parent.glob("lib/python3.*/site-packages"))
    for package in ("torch", "onnx", "onnxruntime", "openvino", "pytriton", "PIL"):
        assert not (site / package).exists()
    for command, extra in (
        ("jpeg-serve", "serve"),
        ("jpeg-build", "build"),
        ("jpeg-bench", "bench"),
        ("jpeg-web", "web"),
    ):
        done = run(client_only / command, "--help", cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        arguments = {
            "jpeg-serve": ["check"],
            "jpeg-build": ["x"],
            "jpeg-bench": ["ceiling"],
            "jpeg-web": ["--port", "0"],
        }[command]
        done = run(client_only / command, *arguments, cwd=tmp_path, env=environment)
        assert done.returncode != 0
        if "package_missing" in done.stderr:
            assert f"triton-jpeg-classifier[{extra}" in done.stderr
    done = run(client_only / "jpeg-classify", "--url", "grpc://127.0.0.1:1", PHOTOS / "coffee.jpg", env=environment)
    assert done.returncode == 3
    assert "[server_unavailable]" in done.stderr
