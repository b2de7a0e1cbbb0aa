from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from jpeg_build.build import build
from jpeg_build.build.request import Request
from jpeg_build.emitters import Options
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from serve_command import Command


@pytest.fixture(scope="session")
def built_classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Build the demo network in a form and a precision, once in a session; return the repository. Not to be changed."""
    built: dict[tuple[str, str], Path] = {}

    def repository_of(backend: str, precision: str) -> Path:
        if (backend, precision) not in built:
            repository = tmp_path_factory.mktemp(backend) / "model_repository"
            recipe, options = load_recipe(RECIPES / "mobilenet_v2.toml"), Options(trt=False)
            request = Request(
                recipe=recipe, repository=repository, backend=backend, precision=precision, options=options
            )
            build(request, lambda message: None)
            built[backend, precision] = repository
        return built[backend, precision]

    return repository_of


@pytest.fixture
def command(built_repository, tmp_path):
    started: list[Command] = []

    def start(*options, repository=built_repository, environment=None):
        folder = tmp_path / f"jpeg-serve-{len(started)}"
        folder.mkdir()
        started.append(Command(repository, folder, *options, environment=environment))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        each.output.close()
