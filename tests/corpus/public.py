"""The images of the tests of Pillow and libjpeg-turbo, from the sources that PyPI and Debian distribute.

pip and apt-get fetch them, each from where it is configured to fetch from, once: they stay in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest
from debian_tools import REQUIRED
from jpeg_contract.folders import make_cache_folder
from support import ROOT, run

_LOCK = ROOT / "requirements" / "dev.txt"
_APPLICATION = "jpeg-tests"
_SOURCE = "libjpeg-turbo"
# By their sha256, not the source's: its version differs between distributions, and these do not.
_TURBO_IMAGES = {
    "testimgari.jpg": "4672c7f08864cd0a8c73a4fa4b66ca32b635d38464551c1ecf06564ae8c89b38",
    "testimgint.jpg": "491679b8057739b3c8e5bacd1e918efb1691d271cbbd69820ff8d480dcb90963",
    "testorig.jpg": "acc6ec555d41d15b368320edaa3b20958ee6fa97cb6e4a18d1213d5ae8bec73b",
    "testorig12.jpg": "34790770f76db8e60a7765b52ca4edf5f16bc21bcb8c6045ca2efef39a8a013e",
}
_SECONDS = 240


def pillow_images() -> dict[str, bytes]:
    """Return the installed Pillow's Tests/images by their names; skip the test if they cannot be fetched."""
    installed = version("pillow")
    digests = _locked_digests(installed)
    archive = make_cache_folder(_APPLICATION) / f"pillow-{installed}.tar.gz"
    if not archive.is_file() or _digest(archive.read_bytes()) not in digests:
        _fetch(archive, lambda folder: _download_sdist(folder, installed, digests))
    return dict(_members(archive, "/Tests/images/"))


def libjpeg_turbo_images() -> dict[str, bytes]:
    """Return the JPEGs of libjpeg-turbo's testimages by their names; skip the test if they cannot be fetched."""
    archive = make_cache_folder(_APPLICATION) / f"{_SOURCE}.tar"
    found = dict(_members(archive, "/testimages/")) if archive.is_file() else {}
    if not _are_turbo_images(found):
        _fetch(archive, _download_debian_source)
        found = dict(_members(archive, "/testimages/"))
        if not _are_turbo_images(found):
            _missing(f"the testimages of {_SOURCE} are not those that the tests know")
    return {name: found[name] for name in _TURBO_IMAGES}


def _missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where JPEG_REQUIRE_TOOLS is 1, as in CI."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED} is 1")
    pytest.skip(reason)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _locked_digests(installed: str) -> frozenset[str]:
    """Return the digests of this version's files, the source among them, as the lock of the tests has them."""
    found = re.search(rf"^pillow=={re.escape(installed)} .*\n(?:    --hash=.*\n)+", _LOCK.read_text(), re.MULTILINE)
    if found is None:
        _missing(f"Pillow {installed} is installed, which {_LOCK.name} does not have")
    return frozenset(re.findall(r"--hash=sha256:(\w{64})", found.group()))


def _members(archive: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a tar archive that are in a folder, by their path in it."""
    with tarfile.open(archive) as opened:
        for member in opened:
            _, found, name = member.name.partition(folder)
            content = opened.extractfile(member) if found and member.isfile() else None
            if content is not None:
                yield name, content.read()


def _fetch(target: Path, download: Callable[[Path], Path]) -> None:
    """Put what `download` brings to `target`, in one step: other tests may look for it meanwhile."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        download(Path(folder)).replace(target)


def _download_sdist(folder: Path, installed: str, digests: frozenset[str]) -> Path:
    """Download Pillow's source; pip refuses what has none of the digests."""
    wanted = folder / "pillow.txt"
    wanted.write_text(f"pillow=={installed} {' '.join(f'--hash=sha256:{digest}' for digest in sorted(digests))}\n")
    # pip also prepares the metadata of the source, with the tools that this needs; it builds nothing.
    options = ("--quiet", "--no-deps", "--no-binary", "pillow", "--require-hashes", "--dest", folder)
    done = run(sys.executable, "-m", "pip", "download", *options, "--requirement", wanted, timeout=_SECONDS)
    found = list(folder.glob("pillow-*.tar.gz"))
    if done.returncode or not found:
        _missing(f"needs Pillow's source, which pip does not fetch: {_last_line(done.stderr)}")
    return found[0]


def _download_debian_source(folder: Path) -> Path:
    """Download libjpeg-turbo's source from where packages come from, without a change of apt's configuration."""
    if shutil.which("apt-get") is None:
        _missing(f"needs apt-get, which fetches the source of {_SOURCE}")
    for part in ("parts", "lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    configured = Path("/etc/apt")
    for file in (configured / "sources.list", *(configured / "sources.list.d").glob("*")):
        if file.is_file() and file.suffix in (".list", ".sources"):
            # The two forms of such files: each line names its type, or a field of several lines does.
            text = re.sub(r"^deb(?=\s)", "deb-src", file.read_text(), flags=re.MULTILINE)
            text = re.sub(r"^Types:.*", "Types: deb-src", text, flags=re.MULTILINE)
            (folder / "parts" / file.name).write_text(text)
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "parts",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        # Its user may not read a folder below another user's home.
        "APT::Sandbox::User": "root",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    # Its exit status is also that of sources that have nothing to do with this one.
    run("apt-get", *options, "-qq", "update", timeout=_SECONDS)
    done = run("apt-get", *options, "-qq", "source", "--download-only", _SOURCE, cwd=folder, timeout=_SECONDS)
    found = list(folder.glob(f"{_SOURCE}_*.orig.tar.*"))
    if done.returncode or not found:
        _missing(f"needs the source of {_SOURCE}, which apt-get does not fetch: {_last_line(done.stderr)}")
    return found[0]


def _are_turbo_images(found: dict[str, bytes]) -> bool:
    return all(_digest(found.get(name, b"")) == digest for name, digest in _TURBO_IMAGES.items())


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
