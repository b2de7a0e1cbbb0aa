"""`jpeg-classify` on thousands of files, broken ones among them, whose server is killed and which is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from faults.identity import draw, encode, write_recipe
from jpeg_client import Client
from jpeg_client.streams import taken_images
from jpeg_contract.command_line import FAILED
from jpeg_serve import state
from prometheus_client.parser import text_string_to_metric_families
from serve_command import Command
from support import run_module

FOLDERS, FILES = 30, 105
CONTENTS = 12
BROKEN_EVERY = 20
INTERRUPTED = 130
CONCURRENCY, BATCH_SIZE = 8, 16

# The reasons of broken files; None has no content.
BROKEN: dict[str, bytes | None] = {
    "truncated": encode(draw(1))[:700],
    "not_jpeg": b"a text under the name of an image\n",
    "empty": b"",
    "file_missing": None,
}
SENT = [reason for reason, data in BROKEN.items() if data is not None]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """`jpeg-serve` with a network that reads the number in an image: each content has a label of its own."""
    folder = tmp_path_factory.mktemp("identity")
    built = run_module("jpeg_build", write_recipe(folder), "--model-repository", folder / "model_repository")
    assert built.returncode == 0, built.stderr
    command = Command(folder / "model_repository", folder)
    try:
        command.wait_for("jpeg-serve: ready")
        yield command
    finally:
        command.process.terminate()
        command.process.wait(60)
        command.output.close()


class Files:
    """Thousands of files in nested folders.

    Attributes:
        top: Their folder.
        contents: The distinct good images.
        expected: By path: the place in `contents` of a good image, or the reason of a broken one.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.expected: dict[str, int | str] = {}
        self.contents = [encode(draw(83 * number)) for number in range(CONTENTS)]
        reasons = [*BROKEN]
        for number in range(FOLDERS * FILES):
            folder = self.folder(number // FILES)
            path = folder / f"{number % FILES:03}.jpg"
            if number % FILES == 0:
                folder.mkdir(parents=True)
            # Each kind of broken file is in each part of the tree.
            if number % BROKEN_EVERY == BROKEN_EVERY - 1:
                reason = reasons[number // BROKEN_EVERY % len(reasons)]
                self._break(path, BROKEN[reason])
                self.expected[str(path)] = reason
            else:
                self._link(path, number % CONTENTS)
                self.expected[str(path)] = number % CONTENTS
        (top / "notes.txt").write_text("another file")

    def folder(self, number: int) -> Path:
        """The path of a folder, below another one."""
        return self.top / f"{number // 5}" / f"{number % 5}"

    def names(self, *folders: int) -> list[str]:
        """The paths of the files in some folders."""
        inside = {str(self.folder(number)) for number in folders}
        return [name for name in self.expected if name.rpartition("/")[0] in inside]

    def _link(self, path: Path, content: int) -> None:
        first = self.top.parent / f"content-{content}"
        if not first.exists():
            first.write_bytes(self.contents[content])
        os.link(first, path)

    @staticmethod
    def _break(path: Path, data: bytes | None) -> None:
        if data is None:
            path.symlink_to("nothing")
        else:
            path.write_bytes(data)


def test_every_file_has_one_right_row_after_a_killed_server_and_an_interruption(
    serving: Command, tmp_path: Path
) -> None:
    found = serving.wait_for(r"gRPC     (\S+)\n  metrics  (\S+)")
    url, metrics = f"grpc://{found[1]}", found[2]
    files = Files(tmp_path / "photos")
    with Client(url) as client:
        undisturbed = client.classify(files.contents, k=2)
    assert len({each.labels for each in undisturbed}) == CONTENTS
    target = tmp_path / "labels.jsonl"
    options = ["--url", url, "-k", "2", "--output", "jsonl", "--to", str(target), "--timeout-s", "100"]
    options += ["--concurrency", str(CONCURRENCY), "--batch-size", str(BATCH_SIZE)]

    # Folders, then a list on standard input, which stays open: the run cannot end before its interruption.
    begun = [str(files.folder(number)) for number in range(10)]
    # A shell lets its background jobs ignore SIGINT, and so does what they start, such as these tests.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "jpeg_client", *options, *begun]
    with subprocess.Popen(
        [*command, "--files-from", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        wait_for_rows(process, target, 300)
        rejected_before = rejected_in(target)
        killed = server_of(serving)
        killed.kill()
        process.stdin.write("\n".join([*files.names(*range(10, 25)), ""]))
        process.stdin.flush()
        # More than those folders have: a server that replaced the killed one has answered.
        wait_for_rows(process, target, 10 * FILES + 100)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        error = process.stderr.read()
        assert process.wait(100) == INTERRUPTED, error
    assert "[interrupted]" in error
    assert server_of(serving).pid != killed.pid
    before = rows_of(target)
    assert before < 25 * FILES
    # The client takes images in their order, and no more of them ahead of the rows than this.
    taken = files.names(*range(25))[: before + taken_images(CONCURRENCY, BATCH_SIZE)]
    written = {json.loads(line)["image"] for line in target.read_text().splitlines()[:before]}
    sent_twice = sum(files.expected[name] in SENT for name in taken if name not in written)

    # What has no row is sent, and nothing else; the second time, that is nothing.
    for count in (before, len(files.expected)):
        resumed = run_module("jpeg_client", *options, files.top, "--resume", timeout=100)
        assert resumed.returncode == FAILED, resumed.stderr
        (counted,) = re.findall(r"([\d,]+) images in .* ([\d,]+) done before", resumed.stderr)
        assert [int(each.replace(",", "")) for each in counted] == [len(files.expected) - count, count]

    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert Counter(row["image"] for row in rows) == Counter(files.expected.keys())
    for row in rows:
        expected = files.expected[row["image"]]
        if isinstance(expected, str):
            assert (row["reason"], row["labels"]) == (expected, []), row
        else:
            assert (row["reason"], tuple(row["labels"])) == (None, undisturbed[expected].labels), row
            assert row["scores"] == pytest.approx(undisturbed[expected].scores, abs=1e-4)
    # The server that replaced the killed one counts broken images. It got all those of the list. Only what had no row
    # at the interruption did it get twice.
    least = sum(files.expected[name] in SENT for name in files.names(*range(10, FOLDERS)))
    most = sum(each in SENT for each in files.expected.values()) - rejected_before + sent_twice
    limit = time.monotonic() + 60
    while (counted_by_server := rejected_by(metrics)) < least:  # it counts a moment after it answers
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert counted_by_server <= most


def wait_for_rows(process: subprocess.Popen[str], target: Path, count: int) -> None:
    """Wait until a file has so many rows; the process that writes them must run."""
    limit = time.monotonic() + 100
    while not target.exists() or rows_of(target) < count:
        assert time.monotonic() < limit and process.poll() is None, "no rows"
        time.sleep(0.01)


def rows_of(target: Path) -> int:
    return target.read_bytes().count(b"\n")


def rejected_in(target: Path) -> int:
    """How many rows are those of broken images that a server got; the last row may be incomplete."""
    return sum(json.loads(line)["reason"] in SENT for line in target.read_bytes().splitlines(keepends=True)[:-1])


def rejected_by(metrics: str) -> int:
    """How many broken images a server got."""
    with urllib.request.urlopen(metrics, timeout=10) as response:
        text = response.read().decode()
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "jpeg_images_rejected_total" and sample.labels["reason"] in SENT
    )


def server_of(serving: Command) -> psutil.Process:
    """The tritonserver of a jpeg-serve."""
    (running,) = [each for _, each in state.find_running() if each.owner == serving.process.pid]
    return psutil.Process(running.pid)
