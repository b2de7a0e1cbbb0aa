"""`jpeg-classify` on folders with everything that folders hold, interrupted and continued, against a real server."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from debian_tools import tool
from jpeg_serve import TritonServer
from support import PHOTOS, photo, run, run_module

OK, FAILED, WRONG_CALL, SERVER_GONE, OUTPUT_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
NOBODY = "grpc://127.0.0.1:1"


@pytest.fixture
def url(server: TritonServer) -> str:
    return f"grpc://{server.grpc_address}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with good images, broken ones, odd names, and what is no file."""
    top = tmp_path / "photos"
    (top / "deep" / "deeper").mkdir(parents=True)
    good = photo("coffee")
    for name in ("a.jpg", "b.JPEG", "deep/c.jpe", "deep/deeper/d.jfif", "new\nline.jpg", 'quote",comma.jpg', "-k.jpg"):
        (top / name).write_bytes(good)
    Path(os.fsdecode(os.fsencode(top) + b"/not utf-8 \xff.jpg")).write_bytes(good)
    (top / "broken.jpg").write_bytes(b"no JPEG")
    (top / "empty.jpg").write_bytes(b"")
    (top / "text.txt").write_text("another file")
    (top / "nowhere.jpg").symlink_to("gone")
    (top / "folder.jpg").mkdir()
    (top / "huge.jpg").touch()
    os.truncate(top / "huge.jpg", 2**40)  # a terabyte without content
    os.mkfifo(top / "pipe.jpg")
    (top / "linked").symlink_to(top, target_is_directory=True)
    return top


GOOD, BAD = 8, {"not_jpeg": 1, "empty": 1, "file_missing": 1, "not_a_file": 1, "too_many_bytes": 1}


def classify(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return run_module("jpeg_client", *arguments, timeout=100, errors="surrogateescape", **options)


def json_rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def reasons(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    found = [str(row["reason"]) for row in rows if row["reason"]]
    return {reason: found.count(reason) for reason in found}


def test_everything_in_a_folder_is_a_row(url: str, folder: Path) -> None:
    done = classify("--url", url, folder, "-k", "2", "--json")
    assert done.returncode == FAILED, done.stderr
    rows = json_rows(done.stdout)
    assert len(rows) == GOOD + sum(BAD.values())
    assert reasons(rows) == BAD
    assert all(row["labels"][0] == "espresso" and len(row["scores"]) == 2 for row in rows if row["reason"] is None)
    named = {row["image"] for row in rows}
    assert os.fsdecode(os.fsencode(folder) + b"/not utf-8 \xff.jpg") in named
    assert f"{folder}/new\nline.jpg" in named
    assert not any("linked" in name for name in named), "a link to a folder is not followed"
    # The summary counts each kind.
    summary = done.stderr.splitlines()[-1]
    for part in ("8 answered", "1 not_a_file", "1 other files skipped"):
        assert part in summary
    (quiet,) = [classify("--url", url, folder, "--json", "-q").stderr]
    assert quiet == ""


def test_text_has_one_line_per_image_and_its_errors_on_stderr(url: str, folder: Path) -> None:
    done = classify("--url", url, folder, "--top", "1")
    assert len(done.stdout.splitlines()) == GOOD
    assert f"{folder}/new\\nline.jpg: espresso 0.992" in done.stdout.splitlines()
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert sorted(line.rpartition("[")[2].rstrip("]") for line in errors) == sorted(BAD)


def test_csv_is_read_back(url: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels.csv"
    assert classify("--url", url, folder, "-k", "2", "--to", target).returncode == FAILED
    with target.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == GOOD + sum(BAD.values())
    assert {row["label_1"] for row in rows if not row["reason"]} == {"espresso"}
    assert f'{folder}/quote",comma.jpg' in {row["image"] for row in rows}
    assert list(rows[0]) == [
        "image",
        "label_1",
        "score_1",
        "index_1",
        "label_2",
        "score_2",
        "index_2",
        "error",
        "reason",
    ]


def test_parquet_is_read_back_and_continued(url: str, folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    target = tmp_path / "labels.parquet"
    assert classify("--url", url, folder, "--to", target).returncode == FAILED
    rows = pq.read_table(target).to_pylist()
    assert len(rows) == GOOD + sum(BAD.values())
    assert {row["labels"][0] for row in rows if row["reason"] is None} == {"espresso"}
    (folder / "later.jpg").write_bytes(photo("china"))
    done = classify("--url", url, folder, "--to", target, "--resume")
    assert "13 done before" in done.stderr, done.stderr  # also the name that is not UTF-8
    assert classify("--url", url, folder, "--to", target, "--resume").stderr.count("14 done before") == 1
    names = [row["image"] for row in pq.read_table(target).to_pylist()]
    assert len(set(names)) == len(names) == 14
    assert "palace" in {row["labels"][0] for row in pq.read_table(target).to_pylist() if row["labels"]}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["labels.parquet", "photos"]


def test_packages_that_an_argument_needs_are_missing_before_anything_is_sent(tmp_path: Path) -> None:
    for package, extra, arguments in (
        ("pyarrow", "parquet", [PHOTOS, "--to", tmp_path / "labels.parquet"]),
        ("fsspec", "storage", ["s3://photos"]),
        ("s3fs", "storage", ["s3://photos"]),
    ):
        program = f"""
import runpy, sys
sys.modules[{package!r}] = None
sys.argv = ["jpeg_client", "--url", {NOBODY!r}, *{[str(each) for each in arguments]!r}]
runpy.run_module("jpeg_client", run_name="__main__")
"""
        done = run(sys.executable, "-c", program)
        assert done.returncode == WRONG_CALL, done.stderr
        assert f"triton-jpeg-classifier[{extra}]" in done.stderr
        assert done.stderr.endswith("[package_missing]\n")
    assert not list(tmp_path.iterdir())


def test_the_address_comes_from_the_environment(url: str) -> None:
    done = classify(PHOTOS / "coffee.jpg", "-k", "1", env={**os.environ, "JPEG_URL": url})
    assert (done.returncode, "espresso" in done.stdout) == (OK, True), done.stderr


def test_patterns_lists_and_standard_input(url: str, folder: Path, tmp_path: Path) -> None:
    by_pattern = classify("--url", url, f"{folder}/**/?.j*", "--json")
    assert [row["image"] for row in json_rows(by_pattern.stdout)] == [
        f"{folder}/a.jpg",
        f"{folder}/deep/c.jpe",
        f"{folder}/deep/deeper/d.jfif",
    ]
    names = [f"{folder}/a.jpg", f"{folder}/deep/c.jpe"]
    (tmp_path / "list").write_text("\n".join([*names, ""]))
    by_file = classify("--url", url, "--files-from", tmp_path / "list", "--json")
    assert [row["image"] for row in json_rows(by_file.stdout)] == names
    odd = [f"{folder}/new\nline.jpg", os.fsdecode(os.fsencode(folder) + b"/not utf-8 \xff.jpg"), f"{folder}/gone.jpg"]
    by_null = classify("--url", url, "--files-from", "-", "-0", "--json", input="\0".join(odd), encoding="utf-8")
    assert [(row["image"], row["reason"]) for row in json_rows(by_null.stdout)] == [
        (odd[0], None),
        (odd[1], None),
        (odd[2], "file_missing"),
    ]
    with (folder / "a.jpg").open("rb") as stream:
        by_input = classify("--url", url, "-", "--json", stdin=stream)
    (row,) = json_rows(by_input.stdout)
    assert (row["image"], row["labels"][0]) == ("-", "espresso")
    assert by_input.returncode == OK


def test_labels_below_the_least_score_are_left_out(url: str) -> None:
    done = classify("--url", url, PHOTOS / "chelsea.jpg", PHOTOS / "coffee.jpg", "--min-score", "0.8", "--json")
    first, second = json_rows(done.stdout)
    assert (first["labels"], first["error"]) == ([], None)
    assert second["labels"] == ["espresso"]
    assert done.returncode == OK


@pytest.mark.parametrize("by", ["link", "copy"])
def test_images_are_sorted_into_folders(url: str, folder: Path, tmp_path: Path, by: str) -> None:
    (folder / "deep" / "a.jpg").write_bytes(photo("china"))
    (folder / "deep" / "deeper" / "a.jpg").write_bytes(photo("coffee") + b"\0")
    target = tmp_path / "sorted"
    for _ in range(2):  # the second time, all is there
        done = classify("--url", url, folder, "--sort-into", target, "--sort-by", by, "-q", "--json")
        assert done.returncode == FAILED, done.stderr
        names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir())
        assert len(names) == GOOD + 2
        assert "palace/a.jpg" in names
        assert len([name for name in names if re.fullmatch("espresso/(........-)?a.jpg", name)]) == 2
    for path in (target / "palace").iterdir():
        assert path.is_symlink() == (by == "link")
        assert path.read_bytes() == photo("china")


def test_a_run_is_continued_after_every_cut(url: str, folder: Path, tmp_path: Path) -> None:
    """Wherever a crash cuts the file, --resume completes it to the same rows, and sends only what lacks a row."""
    target = tmp_path / "labels.jsonl"
    assert classify("--url", url, folder, "--to", target, "-q").returncode == FAILED
    whole = target.read_bytes()
    lines = whole.splitlines(keepends=True)
    expected = sorted(json.loads(line)["image"] for line in lines)
    middle = len(b"".join(lines[:5]))
    for cut in (b"", whole[: middle - 1], whole[:middle], whole[: middle + 20], whole[:middle] + bytes(4096), whole):
        target.write_bytes(cut)
        done = classify("--url", url, folder, "--to", target, "--resume")
        assert done.returncode in (OK, FAILED), done.stderr
        assert sorted(row["image"] for row in json_rows(target.read_text())) == expected
        kept = 0 if not cut else 13 if cut == whole else 4 if cut == whole[: middle - 1] else 5
        if kept:
            assert f"{kept} done before" in done.stderr


def test_csv_is_continued_after_a_cut_within_a_name(url: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels.csv"
    arguments = ("--url", url, folder, "-k", "1", "--to", target, "--resume", "-q")
    assert classify(*arguments).returncode == FAILED
    whole = target.read_bytes()
    target.write_bytes(whole[: whole.index(b"new\n") + 4])
    assert classify(*arguments).returncode == FAILED
    assert sorted(whole.splitlines()) == sorted(target.read_bytes().splitlines())
    other = classify("--url", url, folder, "-k", "2", "--to", target, "--resume")
    assert (other.returncode, other.stderr.rstrip().endswith("[other_columns]")) == (WRONG_CALL, True)


def test_the_memory_does_not_grow_with_the_number_of_files(url: str, tmp_path: Path) -> None:
    """Most are links to nothing: what 200,000 photos would add is their time in the server."""
    peaks = {}
    for count in (2_000, 200_000):
        folder, target = tmp_path / str(count), tmp_path / f"{count}.csv"
        folder.mkdir()
        for number in range(count - 5):
            (folder / f"{number}.jpg").symlink_to("nothing")
        for number in range(5):
            (folder / f"coffee {number}.jpg").symlink_to(PHOTOS / "coffee.jpg")
        for resumed in (False, True):
            command = ["--url", url, str(folder), "-k", "1", "--to", str(target), "--resume"]
            peak, status, error = peak_memory([sys.executable, "-m", "jpeg_client", *command])
            assert status == FAILED, error
            peaks[count, resumed] = peak
        with target.open() as stream:
            assert sum("espresso" in line for line in stream) == 5
            stream.seek(0)
            assert sum(1 for _ in stream) == count + 1
    for resumed in (False, True):
        assert peaks[200_000, resumed] - peaks[2_000, resumed] < 48 * 2**20, peaks


def peak_memory(command: list[str]) -> tuple[int, int, str]:
    """Run a program; return its largest resident memory in bytes, its exit status, and its standard error."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr as stream:
        error = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * 1024, process.returncode, error


class Running:
    """A run in the background, whose rows can be waited for."""

    def __init__(self, target: Path, *arguments: str | Path) -> None:
        self.target = target
        # A shell lets its background jobs ignore SIGINT, and so does what they start, such as these tests.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "jpeg_client"]
        command += [*map(str, arguments), "--to", str(target)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def wait_for_rows(self, count: int) -> None:
        limit = time.monotonic() + 60
        while not self.target.exists() or self.target.read_bytes().count(b"\n") < count:
            assert time.monotonic() < limit and self.process.poll() is None, "no rows"
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with 600 names of four photos."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(600):
        (folder / f"{number:03}.jpg").symlink_to(PHOTOS / ("coffee.jpg", "china.jpg")[number % 2])
    return folder


@pytest.mark.parametrize(
    ("signal_number", "status"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_an_interrupted_run_is_continued_and_nothing_is_sent_twice(
    url: str, many: Path, tmp_path: Path, signal_number: int, status: int
) -> None:
    target = tmp_path / "labels.jsonl"
    running = Running(target, "--url", url, many, "-k", "1")
    running.wait_for_rows(20)
    running.process.send_signal(signal_number)
    ended, error = running.end()
    assert ended == status, error
    if status == INTERRUPTED:
        assert "[interrupted]" in error
        assert "--resume" in error
    before = target.read_bytes().count(b"\n")
    assert 20 <= before < 600
    done = classify("--url", url, many, "-k", "1", "--to", target, "--resume")
    assert done.returncode == OK, done.stderr
    assert f"{before} done before" in done.stderr
    rows = json_rows(target.read_text())
    assert sorted(row["image"] for row in rows) == [f"{many}/{number:03}.jpg" for number in range(600)]
    assert {row["labels"][0] for row in rows} == {"espresso", "palace"}


def test_a_second_run_does_not_write_the_same_file(url: str, many: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels.jsonl"
    running = Running(target, "--url", url, many)
    running.wait_for_rows(1)
    second = classify("--url", url, many, "--to", target, "--resume")
    assert (second.returncode, second.stderr.rstrip().endswith("[output_in_use]")) == (WRONG_CALL, True)
    third = classify("--url", url, many, "--to", target)
    assert (third.returncode, third.stderr.rstrip().endswith("[output_exists]")) == (WRONG_CALL, True)
    running.process.terminate()
    running.end()


def test_exit_statuses(url: str, tmp_path: Path) -> None:
    coffee = PHOTOS / "coffee.jpg"
    gone = classify("--url", NOBODY, "--timeout-s", "1", coffee)
    assert (gone.returncode, "[server_unavailable]" in gone.stderr) == (SERVER_GONE, True)
    for options, reason in ((("--model", "nothing"), "unknown_model"), (("-k", "1001"), "invalid_k")):
        refused = classify("--url", url, coffee, *options)
        assert (refused.returncode, refused.stderr.rstrip().endswith(f"[{reason}]")) == (SERVER_GONE, True), options
    device = classify("--url", url, coffee, "--to", "/dev/full", "--output", "jsonl", "--resume")
    assert (device.returncode, "[invalid_call]" in device.stderr) == (WRONG_CALL, True)
    limited = run(
        *(tool("prlimit", "util-linux"), "--fsize=200", sys.executable, "-m", "jpeg_client", "--url", url),
        *(coffee, PHOTOS, "--to", tmp_path / "full.jsonl"),
    )
    assert (limited.returncode, "[output_failed]" in limited.stderr) == (OUTPUT_FAILED, True), limited.stderr
    unwritable = classify("--url", url, coffee, "--to", "/proc/nothing.jsonl")
    assert (unwritable.returncode, "[output_failed]" in unwritable.stderr) == (OUTPUT_FAILED, True)
    closed = subprocess.run(
        f"{sys.executable} -m jpeg_client --url {url} {coffee} {coffee} | true",
        shell=True,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in closed.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-", "-"],
        ["a.jpg", "--resume"],
        ["a.jpg", "--output", "parquet"],
        ["a.jpg", "--to", "labels.xyz"],
        ["a.jpg", "--to", "labels.txt", "--resume"],
        ["a.jpg", "--min-score", "2"],
        ["-", "--sort-into", "sorted"],
        ["a.jpg", "--concurrency", "0"],
    ],
)
def test_calls_that_make_no_sense(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(photo("coffee"))
    done = classify("--url", NOBODY, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.rstrip().endswith("[invalid_call]")) == (WRONG_CALL, True), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_terminal_shows_the_rate_and_the_time_left(url: str, many: Path, tmp_path: Path) -> None:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "jpeg_client", "--url", url, str(many), "--to", str(tmp_path / "labels.jsonl")]
    process = subprocess.Popen(command, stderr=child, env={**os.environ, "COLUMNS": "100", "TERM": "xterm"})
    os.close(child)
    shown = b"".join(_until_end(parent)).decode()
    assert process.wait(60) == OK
    for part in ("/600", "images/s", "600 answered"):
        assert part in shown


def _until_end(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # the other end is closed
            return
        if not part:
            return
        yield part


def test_doctor(url: str, server: TritonServer) -> None:
    for each in (url, f"http://{server.http_address}"):
        done = classify("doctor", "--url", each, "--json")
        assert done.returncode == OK, done.stderr
        found = json.loads(done.stdout)
        assert [finding["step"] for finding in found["findings"]] == [
            "address",
            "server",
            "model",
            "photo",
            "round trip",
        ]
        assert "espresso" in found["findings"][3]["detail"]
        assert "preprocess" in found["findings"][4]["detail"]


def test_doctor_names_what_is_wrong(url: str, server: TritonServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address, options, steps, reason in (
            (NOBODY, [], 1, "unreachable"),
            ("grpc://nowhere.invalid:1", [], 1, "unknown_host"),
            (f"http://{server.grpc_address}", [], 2, None),
            (f"grpc://{server.http_address}", [], 2, "protocol_mismatch"),
            (f"http://127.0.0.1:{silent.getsockname()[1]}", ["--timeout-s", "1"], 2, "server_timeout"),
            (url, ["--model", "nothing"], 3, "unknown_model"),
        ):
            done = classify("doctor", "--url", address, "--json", *options)
            found = json.loads(done.stdout)
            assert (done.returncode, found["ok"], len(found["findings"])) == (SERVER_GONE, False, steps), found
            if reason:
                assert found["findings"][-1]["reason"] == reason
