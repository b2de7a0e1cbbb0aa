"""Who may enter and change what `jpeg-serve` keeps on the disk, whatever the umask."""

import os
import stat
from pathlib import Path

import pytest
from jpeg_contract.folders import make_cache_folder, make_own_folder
from jpeg_serve import state
from jpeg_serve.backends import prepare_backends
from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.locate import Installation

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture
def open_umask():
    """The umask of a careless shell: everybody may write new files."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def installation(tmp_path):
    (tmp_path / "native" / "python").mkdir(parents=True)
    (tmp_path / "native" / "python" / "libtriton_python.so").write_text("python")
    (tmp_path / "stub").write_text("stub")
    return Installation(tmp_path, tmp_path / "native", tmp_path / "stub", ())


@pytest.fixture(params=["home", "temporary"])
def cache(request, tmp_path, monkeypatch):
    """The cache folder of a user with a home, or of one without."""
    used, unusable = tmp_path / "cache", tmp_path / "file"
    used.mkdir(mode=0o700)
    unusable.write_text("")
    home, temporary = (used, unusable) if request.param == "home" else (unusable, used)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return used / "jpeg-serve" if home == used else used / f"cache-{os.getuid()}" / "jpeg-serve"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_enters_what_runs_or_holds_keys(open_umask, cache, installation):
    run = state.new_run_folder()
    backends = prepare_backends(installation, None)
    for folder in (cache, run, run.parent, backends):
        assert folder.is_relative_to(cache)
        assert not mode(folder) & OTHERS, folder


def test_a_folder_that_others_can_write_is_closed(cache, installation):
    make_own_folder(cache)
    folder = prepare_backends(installation, None)
    for each in (cache, folder):
        each.chmod(0o777)
    assert prepare_backends(installation, None) == folder
    assert mode(cache) == mode(folder) == 0o755


@pytest.mark.parametrize(
    "make", [lambda _: state.new_run_folder(), lambda installation: prepare_backends(installation, None)]
)
def test_a_folder_that_somebody_else_could_exchange_is_not_used(cache, installation, make):
    make_own_folder(cache)
    cache.parent.chmod(0o777)
    with pytest.raises(PrerequisiteError) as refusal:
        make(installation)
    assert refusal.value.reason == "cache_not_writable"
    cache.parent.chmod(0o1777)  # as /tmp
    assert make(installation).is_relative_to(cache)


@pytest.mark.parametrize(
    "make", [lambda _: state.new_run_folder(), lambda installation: prepare_backends(installation, None)]
)
def test_a_folder_of_somebody_else_is_not_used(cache, installation, make, monkeypatch):
    make_own_folder(cache)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(PrerequisiteError) as refusal:
        make(installation)
    assert refusal.value.reason == "cache_not_writable"


def test_the_cache_of_a_build_is_closed_and_not_exchanged(open_umask, cache):
    assert make_cache_folder("jpeg-serve") == cache
    assert not mode(cache) & OTHERS
    cache.parent.chmod(0o777)
    with pytest.raises(OSError):
        make_cache_folder("jpeg-serve")
