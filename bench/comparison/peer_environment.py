"""The Python environments of the peers: one per peer, installed by uv from its lock file."""

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

from comparison.checkout import CHECKOUT, PEER_ENVIRONMENTS, PEER_SOURCES

# Free disk space that an environment needs if uv cannot link from its cache, in bytes.
_DISK_BYTES = {"torchserve": 7 * 10**9}
_DEFAULT_DISK_BYTES = 10**9
_INSTALL_TIMEOUT_S = 1800


def environment_of(name: str, cache: Path | None = None) -> Path:
    """Return the folder of a peer's environment.

    Args:
        name: Name of the peer.
        cache: Folder of all environments; None takes .bench of the checkout.
    """
    return (cache or PEER_ENVIRONMENTS) / name


def is_installed(name: str, cache: Path | None = None) -> bool:
    """Return whether a peer's environment is complete and matches its lock file."""
    stamp = environment_of(name, cache) / ".installed"
    return stamp.is_file() and stamp.read_text() == _fingerprint(name)


def install(name: str, cache: Path | None = None) -> Path:
    """Install a peer's environment unless it is installed, and return its folder.

    Args:
        name: Name of the peer.
        cache: Folder of all environments; None takes .bench of the checkout.

    Raises:
        BenchError: The installation fails.
    """
    environment = environment_of(name, cache)
    if is_installed(name, cache):
        return environment
    uv = Path(sys.executable).parent / "uv"
    if not uv.is_file():
        raise BenchError(f"{uv} is missing: run make setup", reason="uv_missing")
    environment.parent.mkdir(parents=True, exist_ok=True)
    (environment.parent / ".gitignore").write_text("*\n")
    _check_disk(name, environment.parent)
    variables = {**os.environ, **_index_settings()}
    python = environment / "bin" / "python"
    lock_file = PEER_SOURCES / name / "requirements.txt"
    for arguments in (
        ("venv", "--quiet", "--clear", "--python", sys.executable, str(environment)),
        ("pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(lock_file)),
    ):
        try:
            done = subprocess.run(
                (str(uv), *arguments),
                env=variables,
                capture_output=True,
                text=True,
                check=False,
                timeout=_INSTALL_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(
                f"the environment of {name} was not installed within {_INSTALL_TIMEOUT_S} s", reason="install_failed"
            ) from error
        if done.returncode != 0:
            detail = " ".join(done.stderr.split())[-600:]
            raise BenchError(
                f"the environment of {name} cannot be installed; it needs a package index: {detail}",
                reason="install_failed",
            )
    (environment / ".installed").write_text(_fingerprint(name))
    return environment


def installed_versions(name: str, packages: Mapping[str, str], cache: Path | None = None) -> dict[str, str]:
    """Return the versions of installed packages of a peer.

    Args:
        name: Name of the peer.
        packages: Distribution names by the names to return.
        cache: Folder of all environments; None takes .bench of the checkout.
    """
    folders = environment_of(name, cache).glob("lib/python*/site-packages")
    distributions = importlib.metadata.distributions(path=list(map(str, folders)))
    versions = {distribution.metadata["Name"].lower(): distribution.version for distribution in distributions}
    return {title: versions[package] for title, package in packages.items() if package in versions}


def _fingerprint(name: str) -> str:
    lock = (PEER_SOURCES / name / "requirements.txt").read_bytes()
    return hashlib.sha256(repr((sys.version, sys.executable)).encode() + lock).hexdigest()


def _check_disk(name: str, folder: Path) -> None:
    free, needed = shutil.disk_usage(folder).free, _DISK_BYTES.get(name, _DEFAULT_DISK_BYTES)
    if free < needed:
        raise BenchError(
            f"{folder} has {free / 1e9:.1f} GB free, but the environment of {name} may need {needed / 1e9:.0f} GB",
            reason="disk_full",
        )


def _index_settings() -> dict[str, str]:
    """Return pip's package index and certificates as environment variables for uv, from scripts/bootstrap.py."""
    spec = importlib.util.spec_from_file_location("bootstrap", CHECKOUT / "scripts" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    settings: dict[str, str] = bootstrap.settings_of_pip(sys.executable)
    return settings
