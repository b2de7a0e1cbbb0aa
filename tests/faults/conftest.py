"""A real jpeg-serve that serves the identity network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.identity import write_recipe
from faults.samples import Sample, mixed_samples
from faults.service import Service
from support import run_module


@pytest.fixture(scope="session")
def identity_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the identity network, built as users build. Not to be changed."""
    folder = tmp_path_factory.mktemp("identity")
    repository = folder / "model_repository"
    done = run_module("jpeg_build", write_recipe(folder), "--model-repository", repository)
    assert done.returncode == 0, done.stderr
    return repository


@pytest.fixture
def own_repository(identity_repository: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(identity_repository, tmp_path / "model_repository"))


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Good images of many sizes, and wrong ones."""
    return mixed_samples()


@pytest.fixture(scope="module")
def service(identity_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One server behind jpeg-serve. Tests injure it: it heals itself."""
    with Service(identity_repository, tmp_path_factory.mktemp("service") / "log", servers=1) as service:
        yield service


@pytest.fixture(scope="module")
def two_servers(identity_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two servers on the same ports."""
    with Service(identity_repository, tmp_path_factory.mktemp("two") / "log", servers=2) as service:
        yield service
