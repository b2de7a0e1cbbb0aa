"""Memory, disks and files that are full, cut short or exchanged, and a clock that jumps."""

import hashlib
import os
import re
import sys
import time
from pathlib import Path

import pytest
from faults import injection
from faults.clock import ShiftedClock
from faults.errors import FaultsError, NotPossibleHere
from faults.identity import write_recipe
from faults.service import Service
from faults.traffic import Traffic
from faults.trials import fault, problems
from support import run, run_module


def own_mount(target, size):
    try:
        return injection.own_mount(target, size)
    except NotPossibleHere as missing:
        pytest.skip(str(missing))


def test_shared_memory_full(identity_repository, samples, tmp_path):
    """Once there is room again, it answers: in a /dev/shm of its own, which the test fills."""
    through = own_mount("/dev/shm", "192m")
    with Service(identity_repository, tmp_path / "log", servers=1, through=through) as service:
        shared_memory = Path(f"/proc/{service.pid}/root/dev/shm")
        assert list(shared_memory.glob(f"jpeg_serve_{service.pid}_*"))
        with fault(service, samples, clients_may_fail=True) as injected:
            with injection.full(shared_memory):
                time.sleep(4)
            injected.over()


def test_shared_memory_is_full_when_a_server_starts_again(identity_repository, samples, tmp_path):
    through = own_mount("/dev/shm", "192m")
    with Service(identity_repository, tmp_path / "log", servers=1, through=through) as service:
        shared_memory = Path(f"/proc/{service.pid}/root/dev/shm")
        with fault(service, samples, clients_may_fail=True) as injected:
            with injection.full(shared_memory):
                injection.kill(service.servers())
                time.sleep(6)
            injected.over()


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_disk_full_while_building(own_repository, tmp_path):
    """The build fails with a reason, and what was there stays as it was."""
    folder = tmp_path / "small"
    folder.mkdir()
    recipe = write_recipe(tmp_path, mistaken=True)
    script = (
        f'cp -r "{own_repository}" "{folder}/" && head -c 100M /dev/zero > "{folder}/filler" 2> /dev/null;'
        f'truncate -s -60K "{folder}/filler";'
        f'"{sys.executable}" -m jpeg_build "{recipe}" --model-repository "{folder}/model_repository"; status=$?;'
        f'rm "{folder}/filler"; cp -r "{folder}/model_repository" "{tmp_path}/after"; exit $status'
    )
    done = run(*own_mount(folder, "2m"), "sh", "-c", script)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "No space left on device" in last
    assert "Traceback" not in done.stderr
    assert digests(tmp_path / "after") == digests(own_repository)


def test_a_limit_on_file_sizes_while_building(own_repository, tmp_path):
    """As a quota does it."""
    recipe = write_recipe(tmp_path, mistaken=True)
    before = digests(own_repository)
    done = run(
        "prlimit", "--fsize=65536", sys.executable, "-m", "jpeg_build", recipe, "--model-repository", own_repository
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert digests(own_repository) == before


@pytest.fixture
def own_service(own_repository, tmp_path):
    with Service(own_repository, tmp_path / "log", servers=1) as service:
        yield service


def artefact(repository):
    return repository / "classifier_onnx" / "1" / "model.onnx"


def test_an_artefact_cut_short_while_serving(own_service, own_repository, samples):
    """The loaded one goes on. A restart refuses the broken one with its name, and takes the whole one again."""
    file = artefact(own_repository)
    whole = file.read_bytes()
    with Traffic(own_service.target, samples) as traffic:
        traffic.wait_until_answering()
        os.truncate(file, len(whole) // 2)
        cut = time.monotonic()
        assert traffic.wait_until_answering(cut) < 2  # nothing happened
        injection.kill(own_service.servers())
        limit = time.monotonic() + 30
        while not re.search(r"classifier_onnx/1/model\.json: .*\[artefact_altered\]", own_service.text()):
            assert time.monotonic() < limit, own_service.events()
            time.sleep(0.1)
        file.write_bytes(whole)
        traffic.wait_until_answering(time.monotonic())
    assert problems(traffic.record) == []


def test_an_artefact_is_replaced_while_serving(own_service, own_repository, samples, tmp_path):
    """A build replaces it: answers stay those of the one that is loaded, until a restart."""
    recipe = write_recipe(tmp_path, mistaken=True)
    with Traffic(own_service.target, samples) as traffic:
        traffic.wait_until_answering()
        begin = time.monotonic()
        done = run_module("jpeg_build", recipe, "--model-repository", own_repository)
        assert done.returncode == 0, done.stderr
        traffic.wait_until_answering(begin)
    assert problems(traffic.record) == []
    # The counterpart: once the other network serves, each of its answers is found to be wrong.
    own_service.stop()
    own_service.start()
    with Traffic(own_service.target, samples) as traffic, pytest.raises(FaultsError, match="no right answers"):
        traffic.wait_until_answering(within_s=2)
    assert len(traffic.record.lies) > 20


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_the_wall_clock_jumps(identity_repository, samples, tmp_path, seconds):
    """As an administrator or a time service sets it; only the processes of the server see it."""
    try:
        clock = ShiftedClock(tmp_path)
    except NotPossibleHere as missing:
        pytest.skip(str(missing))
    with Service(identity_repository, tmp_path / "log", servers=1, environment=clock.environment) as service:
        with fault(service, samples) as injected:
            clock.jump_to(seconds)
            injected.over()
        shown = run("date", "+%s", env={**os.environ, **clock.environment})
        assert abs(int(shown.stdout) - time.time() - seconds) < 60
