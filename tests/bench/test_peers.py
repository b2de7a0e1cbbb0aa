"""The peers: their lock files, their processes, and each of them end to end where its environment is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from comparison.checkout import PEER_SOURCES
from comparison.peer_environment import install, installed_versions, is_installed
from comparison.peer_launch import PeerOptions
from comparison.peer_process import PeerProcess, free_ports, is_running
from comparison.peer_settings import CONFIGURATIONS, PEERS
from comparison.running_peer import peer_setup, start_peer
from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.load import Load
from jpeg_bench.load_generator import run_load
from jpeg_bench.photos import read_photos
from jpeg_bench.pipeline import read_pipeline
from support import PHOTOS, ROOT, edit, photo, run

SHARED = ("onnxruntime", "numpy", "pillow", "msgspec")
PINNED = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)(?: ; ([^\\]*?))? \\$")


def locked(path: Path) -> list[tuple[str, str, str]]:
    """Return name, version and marker of each package of a lock file."""
    return [
        (found[1], found[2], found[3] or "")
        for line in path.read_text().splitlines()
        if (found := PINNED.match(line)) is not None
    ]


def test_each_peer_has_its_folder() -> None:
    folders = {path.name for path in PEER_SOURCES.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders - {"common"} == set(PEERS)
    for name in PEERS:
        assert (PEER_SOURCES / name / "server.py").is_file()


@pytest.mark.parametrize("name", PEERS)
def test_lock_file_pins_and_hashes_everything(name: str) -> None:
    text = (PEER_SOURCES / name / "requirements.txt").read_text()
    packages = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert len(packages) == len(locked(PEER_SOURCES / name / "requirements.txt")) > 10
    for block in text.split("\n    --hash=sha256:")[1:]:
        assert re.match(r"[0-9a-f]{64}(?![0-9a-f])", block)
    for line, following in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        assert not line.endswith("\\") or following.startswith("    --hash=sha256:")
    assert not re.search(r"--(extra-)?index-url|--find-links|://|file:", text)


@pytest.mark.parametrize("name", PEERS)
def test_lock_file_has_the_versions_of_the_server(name: str) -> None:
    wanted = [entry for entry in locked(ROOT / "requirements" / "image.txt") if entry[0] in SHARED]
    assert {entry[0] for entry in wanted} == set(SHARED)
    assert [entry for entry in locked(PEER_SOURCES / name / "requirements.txt") if entry[0] in SHARED] == wanted


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("threads", [1, 2, 16])
def test_no_configuration_exceeds_its_threads(name: str, threads: int) -> None:
    options = PEERS[name].options("tuned", threads)
    assert options.workers * options.runtime_threads == threads
    assert options.workers * options.decode_threads <= threads
    for configuration in CONFIGURATIONS:
        assert PEERS[name].options(configuration, threads).rationale


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(InvalidOption, match="flask") as raised, start_peer("flask", "tuned", 2):
        pass
    assert raised.value.reason == "unknown_peer"


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_peers_compute_the_scores_of_the_server(small_repository: Path, tmp_path: Path, head: str) -> None:
    """In this environment, which has the packages of the peers' common part."""
    repository = tmp_path / "model_repository"
    shutil.copytree(small_repository, repository)
    config = repository / "postprocess" / "config.pbtxt"
    edit(config, '"softmax"', f'"{head}"')
    edit(config, 'string_value: "5"', 'string_value: "2"')
    pipeline = read_pipeline(repository)
    images = [photo("coffee"), photo("chelsea")]
    logits = pipeline.open_classifier(cpus=1)(pipeline.open_decoder(1)(images))
    exponentials = np.exp(logits)
    scores = exponentials / (1 + exponentials if head == "sigmoid" else exponentials.sum(axis=1, keepdims=True))
    scores = np.sort(scores)[:, :-3:-1]
    np.testing.assert_allclose(pipeline.open_postprocessor()(logits).scores, scores, atol=1e-6)

    setup = peer_setup(PEERS["fastapi"].options("tuned", 1), "tuned", repository, tmp_path, 1)
    files = [next(PHOTOS.rglob(f"{name}.jpg")) for name in ("coffee", "chelsea")]
    program = PEER_SOURCES / "common" / "peer_pipeline.py"
    done = run(sys.executable, program, *files, env={**os.environ, "PEER": json.dumps(setup)})
    assert done.returncode == 0, done.stderr
    responses = json.loads(done.stdout)
    np.testing.assert_allclose([each["scores"] for each in responses], scores, atol=1e-6)


def test_a_missing_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="fastapi") as raised, start_peer("fastapi", "tuned", 2, cache=tmp_path):
        pass
    assert raised.value.reason == "peer_not_installed"


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def runs(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return is_running(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


# Starts a grandchild in a session of its own that ignores SIGTERM, like a careless server.
DAEMON = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"],
                 start_new_session=True)
print("started", flush=True)
time.sleep(600)
"""


START_DAEMON = f"""
import os, sys, time
from pathlib import Path
from comparison.peer_process import PeerProcess
folder = Path(sys.argv[1])
process = PeerProcess([sys.executable, "-c", {DAEMON!r}], dict(os.environ), folder, folder / "log")
while len(process.pids()) < 2 or "started" not in process.log_tail():
    assert process.exit_status is None
    time.sleep(0.05)
print(*process.pids(), flush=True)
time.sleep(600)
"""


def wait_until_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    folder.mkdir()
    process = PeerProcess([sys.executable, "-c", DAEMON], dict(os.environ), folder, folder / "log")
    deadline = time.monotonic() + 30
    while len(process.pids()) < 2 or "started" not in process.log_tail():
        assert time.monotonic() < deadline, process.log_tail()
        time.sleep(0.05)
    pids = process.pids()
    assert process.pid in pids
    assert process.memory_mib() > 1
    process.stop()
    assert process.pids() == []
    assert not any(map(runs, pids))
    assert not folder.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_peer_ends_with_the_bench(end: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    folder.mkdir()
    bench = subprocess.Popen([sys.executable, "-c", START_DAEMON, str(folder)], stdout=subprocess.PIPE, text=True)
    assert bench.stdout is not None
    with bench, bench.stdout:
        pids = list(map(int, bench.stdout.readline().split()))
        assert len(pids) == 2
        assert all(map(runs, pids))
        bench.send_signal(end)
    wait_until_ended(pids)
    deadline = time.monotonic() + 30
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_serves(name: str, built_repository: Path) -> None:
    if not is_installed(name):
        pytest.skip(f"the environment of {name} is not installed: .venv/bin/python -m comparison peers --peer {name}")
    install(name)
    photos = read_photos().data
    with start_peer(name, "tuned", 2, repository=built_repository) as peer:
        status, response = peer.classify(photo("coffee"))
        assert status == 200
        assert isinstance(response, dict)
        assert response["labels"][0] == "espresso"
        assert len(response["labels"]) == len(response["scores"]) == 5
        result = run_load(peer.prepare_requests(photos), Load(concurrency=4, warmup_s=0.1, seconds=1))
        assert result.failures == 0
        assert result.requests > 0
        broken = peer.measure_broken_image(photos, rounds=2, concurrency=8)
        # A peer refuses a broken image; its effect on others is a result of the bench.
        assert broken["status_of_broken"] == {"400": 2}
        assert sum(broken["status_of_valid"].values()) == 14
        assert peer.memory_mib() > 50
        about = peer.to_json()
        pids = peer.process.pids()
    assert about["versions"][name]
    assert about["versions"]["onnxruntime"] in {entry[1] for entry in locked(ROOT / "requirements" / "image.txt")}
    assert not any(map(runs, pids))


def test_a_peer_that_does_not_start_shows_its_log(built_repository: Path) -> None:
    if not is_installed("fastapi"):
        pytest.skip("the environment of fastapi is not installed: .venv/bin/python -m comparison peers --peer fastapi")
    options = PeerOptions("", extra={"nonsense": True})
    with (
        pytest.raises(BenchError, match="unexpected keyword argument 'nonsense'") as raised,
        start_peer("fastapi", "tuned", 2, repository=built_repository, options=options),
    ):
        pass
    assert raised.value.reason == "peer_exited"


def test_versions_are_those_of_the_environment(tmp_path: Path) -> None:
    folder = tmp_path / "one" / "lib" / "python3.11" / "site-packages" / "thing-1.2.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: Thing\nVersion: 1.2\n")
    assert installed_versions("one", {"thing": "thing", "other": "other"}, tmp_path) == {"thing": "1.2"}
