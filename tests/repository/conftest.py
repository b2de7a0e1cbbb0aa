from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from repository.static_repository import make_repository


@pytest.fixture(scope="session")
def static_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed repository with a constant network, made without jpeg-build. Tests do not change it."""
    return make_repository(tmp_path_factory.mktemp("static") / "model_repository")


@pytest.fixture
def repository(static_repository: Path, tmp_path: Path) -> Path:
    """A copy of the static repository that a test may change."""
    return Path(shutil.copytree(static_repository, tmp_path / "model_repository"))
