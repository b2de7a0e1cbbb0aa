"""What the commands print, in a pipe that takes stdout and stderr."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
from jpeg_contract.command_line import fail, note

print("a result")
note("command", "what it means")
print("more")
fail("command", "the rest is missing", 1, reason="missing")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_lines_of_stdout_and_stderr_stand_in_the_order_in_which_they_were_printed(unbuffered):
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout
    assert printed.splitlines() == [
        "a result",
        "command: what it means",
        "more",
        "command: error: the rest is missing [missing]",
    ]


def test_an_error_is_told_although_nobody_reads_the_results():
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert "command: error: the rest is missing [missing]" in ended.stderr.splitlines()
