"""What workers and jpeg-serve tell each other, and what ends a worker that may be late."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.checksum import checksum
from jpeg_contract.run_folder import (
    VARIABLE,
    RunFolderReader,
    WorkerFile,
    begun_requests,
    draining_limit,
    read_ensembles,
    read_excess,
    read_workers,
    run_folder,
    start_draining,
    write_ensembles,
    write_excess,
)
from jpeg_runtime.deadline import has_passed
from jpeg_runtime.native_heartbeat import PERIOD_S
from jpeg_runtime.stall_guard import Moment, stalled_s
from jpeg_runtime.worker import BUSY, STOPPING, Worker
from support import started


@given(st.binary(max_size=200), st.integers(0, 7))
def test_a_checksum_is_that_of_these_bytes_and_no_others(data, bit):
    assert 0 <= checksum(data) < 2**32
    if data:
        changed = bytes([data[0] ^ 1 << bit]) + data[1:]
        assert checksum(changed) != checksum(data)


def test_a_checksum_is_the_crc_32_of_other_programs():
    assert checksum(b"123456789") == 0xCBF43926  # the check value of CRC-32/ISO-HDLC


def test_a_worker_publishes_its_state(tmp_path):
    file = WorkerFile(tmp_path, "preprocess", "preprocess")
    file.busy = True
    file.add_begun(2)
    file.add_taken(5)
    file.add_passed(4)
    (state,) = read_workers(tmp_path)
    assert (state.pid, state.role, state.model, state.busy, state.begun, state.taken, state.passed) == (
        os.getpid(),
        "preprocess",
        "preprocess",
        True,
        2,
        5,
        4,
    )
    file.busy = False
    assert not next(read_workers(tmp_path)).busy
    file.close()
    assert list(read_workers(tmp_path)) == []


def test_a_reader_of_the_run_folder_misses_no_change(tmp_path):
    choose = random.Random(5)
    reader = RunFolderReader(tmp_path)
    files: list[WorkerFile] = []

    def close_one():
        if files:
            files.pop(choose.randrange(len(files))).close()

    def pass_on():
        if files:
            choose.choice(files).add_passed(3)

    changes = [
        lambda: files.append(WorkerFile(tmp_path, "preprocess", f"model{len(files)}")),
        close_one,
        pass_on,
        lambda: write_ensembles(tmp_path, {"jpeg_classifier": [f"model{choose.randrange(9)}"]}),
        lambda: write_excess(tmp_path, "preprocess", choose.randrange(99), choose.randrange(99)),
        lambda: start_draining(tmp_path, choose.randrange(99)),
    ]
    for _ in range(300):
        choose.choice(changes)()
        assert sorted(reader.workers(), key=str) == sorted(read_workers(tmp_path), key=str)
        assert reader.ensembles() == read_ensembles(tmp_path)
        assert reader.excess("preprocess") == read_excess(tmp_path, "preprocess")
        assert reader.draining_limit() == draining_limit(tmp_path)
        # Some changes follow at once, in the same tick of the file system's clock, others when what was read is kept.
        time.sleep(choose.choice([0, 0, 0.001, 0.02, 0.08]))


def test_a_reader_opens_no_file_of_a_folder_that_stays_as_it_is(tmp_path, monkeypatch):
    file, reader = WorkerFile(tmp_path, "classifier", "classifier_onnx"), RunFolderReader(tmp_path)
    deadline = time.monotonic() + 10
    opened = 1
    while opened:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        with monkeypatch.context() as patch:
            opened = 0

            def counted(*args, open_file=Path.open, **keywords):
                nonlocal opened
                opened += 1
                return open_file(*args, **keywords)

            patch.setattr(Path, "open", counted)
            file.add_taken(1)
            (state,) = reader.workers()
    assert state.taken == next(read_workers(tmp_path)).taken


def test_without_a_run_folder_a_worker_works_alone(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert run_folder() is None
    worker = Worker("preprocess", "preprocess")
    assert worker.refusals(3)[0] == 0
    assert worker.wait_for_classifier() == 0
    with worker.batch():
        pass
    worker.close()


def test_a_draining_server_begins_what_it_has_accepted_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    worker = Worker("preprocess", "preprocess")
    assert worker.refusals(3)[0] == 0
    assert draining_limit(tmp_path) is None
    start_draining(tmp_path, 5)
    assert worker.refusals(2)[0] == 0
    assert worker.refusals(1) == (1, STOPPING)
    assert begun_requests(tmp_path) == {"preprocess": 5}


def test_of_too_many_waiting_requests_the_oldest_are_refused_once(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    worker = Worker("preprocess", "preprocess")
    write_excess(tmp_path, "preprocess", 1, 5)
    assert worker.refusals(3) == (3, BUSY)
    assert worker.refusals(4) == (2, BUSY)
    assert worker.refusals(4)[0] == 0  # until the next reading
    write_excess(tmp_path, "preprocess", 2, 1)
    assert worker.refusals(4) == (1, BUSY)
    assert begun_requests(tmp_path) == {"preprocess": 2 + 4 + 3}


def test_several_workers_share_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    worker = Worker("preprocess", "preprocess")
    (tmp_path / "1.preprocess.preprocess.worker").write_bytes(next(tmp_path.glob("*.worker")).read_bytes())
    write_excess(tmp_path, "preprocess", 1, 5)
    assert worker.refusals(4) == (3, BUSY)


@given(st.integers(0, 2**40), st.sampled_from([int, str]))
def test_a_deadline_is_over_when_its_millisecond_is(milliseconds, kind):
    text = json.dumps({"k": 3, "deadline": kind(milliseconds)})
    assert not has_passed(lambda: text, milliseconds / 1000 - 0.002)
    assert has_passed(lambda: text, milliseconds / 1000 + 0.002)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"deadline": "soon"}', '{"deadline": []}', '{"deadline": null}', "no JSON"]
)
def test_without_a_readable_deadline_there_is_none(text):
    assert not has_passed(lambda: text, 1e12)


def test_the_first_step_waits_while_a_full_batch_waits_for_the_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with started(sys.executable, "-c", _CLASSIFIER, stdout=subprocess.PIPE) as classifier:
        assert classifier.stdout is not None
        classifier.stdout.readline()
        worker = Worker("preprocess", "preprocess")
        assert worker.wait_for_classifier() == 0
        worker.pass_on(64)
        begun = time.monotonic()
        waited = worker.wait_for_classifier()
        assert 0.5 < waited <= time.monotonic() - begun < 5


# It is busy for a second, and then takes what was passed on.
_CLASSIFIER = """
import time
from jpeg_contract.run_folder import WorkerFile, run_folder
file = WorkerFile(run_folder(), "classifier", "classifier_onnx")
file.busy = True
print("ready", flush=True)
time.sleep(1)
file.add_taken(64)
time.sleep(60)
"""


# A worker that waits, or passes images on, as its lines say.
_COLLEAGUE = """
import sys
from jpeg_runtime.worker import Worker
worker = Worker("preprocess", "preprocess")
for line in sys.stdin:
    if line == "wait\\n":
        print(worker.wait_for_classifier() > 0, flush=True)
    else:
        worker.pass_on(int(line))
        print("passed", flush=True)
"""


@contextmanager
def colleague():
    """A worker of the same model in a process of its own. Yields a function that sends it lines and returns theirs."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with started(sys.executable, "-c", _COLLEAGUE, **options) as process:

        def tell(*lines, answers=True):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("".join(f"{line}\n" for line in lines))
            process.stdin.flush()
            return [process.stdout.readline().strip() for _ in lines] if answers else process.stdout

        yield tell


@pytest.fixture
def colleagues(tmp_path, monkeypatch):
    """Two workers of one server."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with colleague() as first, colleague() as second:
        yield first, second


def busy_classifier(folder, name="classifier_onnx"):
    file = WorkerFile(folder, "classifier", name)
    file.busy = True
    return file


def test_a_worker_that_comes_later_sees_what_waits_already(tmp_path, colleagues):
    """Or it would keep the backlog at a level at which its colleagues wait for ever."""
    first, second = colleagues
    classifier = busy_classifier(tmp_path)
    assert first("wait", 64) == ["False", "passed"]
    output = second("wait", answers=False)
    time.sleep(0.5)
    classifier.add_taken(64)
    assert output.readline() == "True\n"
    assert first("wait") == ["False"]


def test_a_worker_is_not_overtaken_for_ever(tmp_path, colleagues):
    """However full it is: those that others overtake would never have their answer."""
    first, second = colleagues
    busy_classifier(tmp_path)
    assert first("wait", 64) == ["False", "passed"]
    output = first("wait", answers=False)
    for _ in range(4):
        time.sleep(0.1)
        assert second(64) == ["passed"]
    assert output.readline() == "True\n"


def test_the_images_of_a_worker_that_left_do_not_count(tmp_path, colleagues):
    """A reload replaces the workers of a classifier, and with them what they have counted."""
    first, second = colleagues
    old = WorkerFile(tmp_path, "classifier", "classifier_old")
    for tell in colleagues:
        assert tell("wait", 64) == ["False", "passed"]
        old.add_taken(64)
    new = busy_classifier(tmp_path, "classifier_new")
    old.close()
    assert first("wait", 64) == ["False", "passed"]
    output = second("wait", answers=False)
    time.sleep(0.5)
    new.add_taken(64)
    assert output.readline() == "True\n"


def test_images_that_were_lost_on_the_way_do_not_count_as_waiting(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    worker = Worker("preprocess", "preprocess")
    postprocess = WorkerFile(tmp_path, "postprocess", "postprocess")
    worker.wait_for_classifier()
    worker.pass_on(1000)
    worker.wait_for_classifier()  # returns
    assert not postprocess.busy


_GUARDED = """
import sys, time
from jpeg_runtime.stall_guard import StallGuard
guard = StallGuard("model")
guard.check()
print("ready", flush=True)
end = time.monotonic() + 20
while time.monotonic() < end:
    guard.check() if sys.argv[1] == "checks" else time.sleep(0.01)
"""


@pytest.mark.parametrize("how", ["checks", "is idle"])
def test_a_worker_that_was_stopped_by_a_signal_ends_before_it_goes_on(how):
    with started(sys.executable, "-c", _GUARDED, how, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(0.1)  # however short
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.wait(5) == int(signal.SIGCONT)


@pytest.mark.parametrize("how", ["checks", "is idle"])
def test_a_worker_that_was_frozen_ends(how, tmp_path):
    freezer = Path("/sys/fs/cgroup/freezer")
    if os.geteuid() != 0 or not os.access(freezer / "tasks", os.W_OK):
        pytest.skip("needs root and the freezer of cgroup version 1")
    group = freezer / tmp_path.name
    group.mkdir()
    worker = subprocess.Popen([sys.executable, "-c", _GUARDED, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stderr is not None
    try:
        worker.stdout.readline()
        (group / "cgroup.procs").write_text(str(worker.pid))
        (group / "freezer.state").write_text("FROZEN")
        time.sleep(0.7)  # the longest that the Python backend does not notice
        (group / "freezer.state").write_text("THAWED")
        assert worker.wait(5) == 75
        assert worker.stderr.read().endswith(b"[stalled]\n")
    finally:
        (group / "freezer.state").write_text("THAWED")
        worker.kill()
        worker.wait()
        worker.stdout.close()
        worker.stderr.close()
        group.rmdir()


def test_a_jump_of_the_clock_is_a_stall_and_a_held_lock_is_none():
    before = Moment(10.0, 1000.0, 100)
    beats = round(2 / PERIOD_S)
    assert stalled_s(before, Moment(12.0, 1002.0, 100 + beats)) == pytest.approx(0.0)  # a thread held the lock
    assert stalled_s(before, Moment(12.0, 1002.0, 101)) == pytest.approx(2 - PERIOD_S)  # frozen
    assert stalled_s(before, Moment(10 + PERIOD_S, 1030.0, 101)) == pytest.approx(30 - PERIOD_S)  # the clock jumps
    assert stalled_s(before, Moment(10 + PERIOD_S, 940.0, 101)) == pytest.approx(0.0)  # backwards: nothing runs out


_BUSY = """
import ctypes, time
from jpeg_runtime.stall_guard import StallGuard
guard = StallGuard("model")
guard.check()
ctypes.PyDLL(None).usleep(900_000)  # holds the interpreter's lock, as PyDLL's functions do
ctypes.PyDLL(None).usleep(900_000)
guard.check()
print("alive")
"""


def test_a_thread_that_holds_the_interpreters_lock_ends_no_worker():
    done = subprocess.run([sys.executable, "-c", _BUSY], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "alive\n"
