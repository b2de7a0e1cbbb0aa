"""The lock of a folder that one process works in at a time."""

import subprocess
import sys

import pytest
from jpeg_build.errors import BuildError, RepositoryError
from jpeg_contract.folder_lock import FolderLock

LOCK = FolderLock(".lock", RepositoryError, busy="wait for the other one", busy_reason="repository_busy")

HOLD = """\
import sys
from pathlib import Path
from jpeg_build.errors import BuildError
from jpeg_contract.folder_lock import FolderLock

with FolderLock(".lock", BuildError, busy="", busy_reason="busy").hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def refused(lock, folder):
    with pytest.raises(BuildError) as caught, lock.hold(folder):
        pytest.fail("it was not refused")
    return caught.value


def test_a_folder_is_made_and_held_once(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with LOCK.hold(folder):
        found = refused(LOCK, folder)
        assert isinstance(found, RepositoryError)
        assert (found.reason, str(found)) == ("repository_busy", f"{folder}: wait for the other one")
    with LOCK.hold(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_killed_process_holds_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert refused(LOCK, tmp_path).reason == "repository_busy"
        process.kill()
    with LOCK.hold(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_has_the_reason_of_its_user(tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(LOCK, tmp_path / "file").reason == RepositoryError.reason
    other = FolderLock(".lock", BuildError, busy="", busy_reason="busy", unwritable_reason="results_unwritable")
    assert refused(other, tmp_path / "file" / "below").reason == "results_unwritable"
