"""The peers of jpeg_bench: their lock files, their processes, and each of them end to end where it is prepared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jpeg_bench.asks import Load
from jpeg_bench.errors import BenchError
from jpeg_bench.load import drive
from jpeg_bench.peer_environment import SOURCES, is_prepared, versions
from jpeg_bench.peer_process import PeerProcess, free_ports
from jpeg_bench.peer_settings import CONFIGURATIONS, PEERS
from jpeg_bench.peer_starts import Choice
from jpeg_bench.peers import prepare, running
from jpeg_bench.photos import read_photos
from support import ROOT, photo

SHARED = ("onnxruntime", "numpy", "pillow")
PINNED = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)(?: ; ([^\\]*?))? \\$")


def locked(path: Path) -> list[tuple[str, str, str]]:
    """Name, version and marker of each package of a lock file."""
    return [
        (found[1], found[2], found[3] or "")
        for line in path.read_text().splitlines()
        if (found := PINNED.match(line)) is not None
    ]


def test_each_peer_has_a_folder_with_all_it_needs() -> None:
    folders = {folder.name for folder in SOURCES.iterdir() if folder.is_dir() and not folder.name.startswith("__")}
    assert folders - {"common"} == set(PEERS)
    for name in PEERS:
        assert (SOURCES / name / "server.py").is_file()


@pytest.mark.parametrize("name", PEERS)
def test_lock_file_pins_and_hashes_everything(name: str) -> None:
    text = (SOURCES / name / "requirements.txt").read_text()
    packages = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert len(packages) == len(locked(SOURCES / name / "requirements.txt")) > 10
    for block in text.split("\n    --hash=sha256:")[1:]:
        assert re.match(r"[0-9a-f]{64}(?![0-9a-f])", block)
    for line, after in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        assert not line.endswith("\\") or after.startswith("    --hash=sha256:")
    assert not re.search(r"--(extra-)?index-url|--find-links|://|file:", text)


@pytest.mark.parametrize("name", PEERS)
def test_lock_file_has_what_we_serve_with(name: str) -> None:
    wanted = [entry for entry in locked(ROOT / "requirements" / "image.txt") if entry[0] in SHARED]
    assert {entry[0] for entry in wanted} == set(SHARED)
    assert [entry for entry in locked(SOURCES / name / "requirements.txt") if entry[0] in SHARED] == wanted


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("threads", [1, 2, 16])
def test_no_choice_computes_with_more_threads_than_it_is_given(name: str, threads: int) -> None:
    choice = PEERS[name].tuned(threads)
    assert choice.workers * choice.runtime_threads == threads
    assert choice.workers * choice.decode_threads <= threads
    for configuration in CONFIGURATIONS:
        assert getattr(PEERS[name], configuration)(threads).why


def test_unknown_peer_is_named() -> None:
    with pytest.raises(BenchError, match="there is no peer flask: known are litserve, "), running("flask", "tuned", 2):
        pass


def test_unprepared_peer_says_how_to_prepare_it(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match=r"is not there: make it with .*prepare\('fastapi'\)"),
        running("fastapi", "tuned", 2, cache=tmp_path),
    ):
        pass


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended; one whose end nobody has asked for yet has."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# Starts a grandchild in a session of its own that ignores SIGTERM, as a careless server would.
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
from jpeg_bench.peer_process import PeerProcess
folder = Path(sys.argv[1])
process = PeerProcess([sys.executable, "-c", {DAEMON!r}], dict(os.environ), folder, folder / "log")
while len(process.pids()) < 2 or "started" not in process.last_words():
    assert process.ended is None
    time.sleep(0.05)
print(*process.pids(), flush=True)
time.sleep(600)
"""


def wait_for_end(pids: list[int]) -> None:
    limit = time.monotonic() + 30
    while any(map(runs, pids)):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    folder.mkdir()
    process = PeerProcess([sys.executable, "-c", DAEMON], dict(os.environ), folder, folder / "log")
    limit = time.monotonic() + 30
    while len(process.pids()) < 2 or "started" not in process.last_words():
        assert time.monotonic() < limit, process.last_words()
        time.sleep(0.05)
    pids = process.pids()
    assert process.pid in pids
    assert process.memory_mib() > 1
    process.stop()
    assert process.pids() == []
    assert not any(map(runs, pids))
    assert not folder.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_peer_ends_with_the_bench(end: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    folder.mkdir()
    bench = subprocess.Popen([sys.executable, "-c", START_DAEMON, str(folder)], stdout=subprocess.PIPE, text=True)
    assert bench.stdout is not None
    with bench, bench.stdout:
        pids = list(map(int, bench.stdout.readline().split()))
        assert len(pids) == 2
        assert all(map(runs, pids))
        bench.send_signal(end)
    wait_for_end(pids)
    limit = time.monotonic() + 30
    while folder.exists():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize("name", PEERS)
def test_peer_serves(name: str, built_repository: Path) -> None:
    if not is_prepared(name):
        pytest.skip(f"the environment of {name} is not prepared: .venv/bin/jpeg-bench peers prepares it")
    prepare(name)
    photos = read_photos().data
    with running(name, "tuned", 2, repository=built_repository) as peer:
        status, answer = peer.labels(photo("coffee"))
        assert status == 200
        assert isinstance(answer, dict)
        assert answer["labels"][0] == "espresso"
        assert len(answer["labels"]) == len(answer["scores"]) == 5
        measured = drive(peer.asks(photos), Load(in_flight=4, warmup_s=0.1, seconds=1))
        assert measured.failures == 0
        assert measured.requests > 0
        broken = peer.broken_image(photos, rounds=2, together=8)
        # A broken image is refused; whether it takes others along is what the bench reports.
        assert broken["status_of_broken"] == {"400": 2}
        assert sum(broken["status_of_good"].values()) == 14
        assert peer.memory_mib() > 50
        said = peer.to_json()
        pids = peer.process.pids()
    assert said["versions"][name]
    assert said["versions"]["onnxruntime"] in {entry[1] for entry in locked(ROOT / "requirements" / "image.txt")}
    assert not any(map(runs, pids))


def test_peer_that_does_not_start_shows_its_log(built_repository: Path) -> None:
    if not is_prepared("fastapi"):
        pytest.skip("the environment of fastapi is not prepared: .venv/bin/jpeg-bench peers prepares it")
    with (
        pytest.raises(
            BenchError,
            match=r"fastapi ended with status 1; its log ends:\n[\s\S]*unexpected keyword argument 'nonsense'",
        ),
        running("fastapi", "tuned", 2, repository=built_repository, choice=Choice("", extra={"nonsense": True})),
    ):
        pass


def test_versions_are_those_of_the_environment(tmp_path: Path) -> None:
    folder = tmp_path / "one" / "lib" / "python3.11" / "site-packages" / "thing-1.2.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: Thing\nVersion: 1.2\n")
    assert versions("one", {"thing": "thing", "other": "other"}, tmp_path) == {"thing": "1.2"}
