"""The Python environments of the peers: one for each, from its lock file, made by uv."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from jpeg_bench.errors import BenchError
from jpeg_bench.photos import PROJECT

SOURCES = PROJECT / "bench" / "peers"
CACHE = PROJECT / ".bench"

# Bytes to have free where the environment goes, if uv can link nothing from its cache.
_NEEDED = {"torchserve": 7 * 10**9}
_NEEDED_OTHERWISE = 10**9
_INSTALL_S = 1800


def environment_of(name: str, cache: Path | None = None) -> Path:
    """Where the environment of a peer is, or will be."""
    return (cache or CACHE) / name


def is_prepared(name: str, cache: Path | None = None) -> bool:
    """Whether it is there, complete, and as its lock file has it."""
    stamp = environment_of(name, cache) / ".installed"
    return stamp.is_file() and stamp.read_text() == _fingerprint(name)


def prepare(name: str, cache: Path | None = None) -> Path:
    """Make the environment of a peer; at once if it is there already.

    Raises BenchError if it cannot be made.
    """
    environment = environment_of(name, cache)
    if is_prepared(name, cache):
        return environment
    uv = Path(sys.executable).parent / "uv"
    if not uv.is_file():
        raise BenchError(f"{uv} is missing, which makes the environments of the peers: run `make setup`")
    environment.parent.mkdir(parents=True, exist_ok=True)
    (environment.parent / ".gitignore").write_text("*\n")
    _check_disk(name, environment.parent)
    variables = {**os.environ, **_index_settings()}
    for step in (
        ("venv", "--quiet", "--clear", "--python", sys.executable, str(environment)),
        (
            *("pip", "install", "--quiet", "--python", str(environment / "bin" / "python")),
            *("--require-hashes", "-r", str(SOURCES / name / "requirements.txt")),
        ),
    ):
        try:
            done = subprocess.run(
                (str(uv), *step), env=variables, capture_output=True, text=True, check=False, timeout=_INSTALL_S
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the environment of {name} was not made within {_INSTALL_S} s") from error
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[-600:]
            raise BenchError(f"the environment of {name} cannot be made (a package index must be reachable): {said}")
    (environment / ".installed").write_text(_fingerprint(name))
    return environment


def versions(name: str, packages: Mapping[str, str], cache: Path | None = None) -> dict[str, str]:
    """The versions that are installed: those of `packages`, a name for each."""
    found = importlib.metadata.distributions(path=[str(path) for path in _site_packages(environment_of(name, cache))])
    there = {distribution.metadata["Name"].lower(): distribution.version for distribution in found}
    return {shown: there[package] for shown, package in packages.items() if package in there}


def _site_packages(environment: Path) -> list[Path]:
    return list(environment.glob("lib/python*/site-packages"))


def _fingerprint(name: str) -> str:
    lock = (SOURCES / name / "requirements.txt").read_bytes()
    return hashlib.sha256(repr((sys.version, sys.executable)).encode() + lock).hexdigest()


def _check_disk(name: str, folder: Path) -> None:
    free, needed = shutil.disk_usage(folder).free, _NEEDED.get(name, _NEEDED_OTHERWISE)
    if free < needed:
        raise BenchError(
            f"{free / 1e9:.1f} GB are free on the disk of {folder}, and the environment of {name} may need "
            f"{needed / 1e9:.0f} GB: make room"
        )


def _index_settings() -> dict[str, str]:
    """The package index and certificates that pip is set up with, as scripts/bootstrap.py hands them to uv."""
    spec = importlib.util.spec_from_file_location("bootstrap", PROJECT / "scripts" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    vars(bootstrap)["BIN"] = Path(sys.executable).parent
    settings: dict[str, str] = bootstrap.settings_of_pip()
    return settings
