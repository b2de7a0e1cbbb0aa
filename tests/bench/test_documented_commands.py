"""The commands of docs/performance.md: each exists, and takes the options that it is shown with."""

from __future__ import annotations

import re
import shlex

import pytest
from support import ROOT, run_module

PAGE = (ROOT / "docs" / "performance.md").read_text()
LINES = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
PROGRAMS = {".venv/bin/jpeg-bench": "jpeg_bench", ".venv/bin/python -m comparison": "comparison"}


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(".venv/")])
def test_a_documented_command_has_its_options(line: str) -> None:
    program = next(program for program in PROGRAMS if line.startswith(f"{program} "))
    command, *arguments = shlex.split(line.removeprefix(program), comments=True)
    done = run_module(PROGRAMS[program], command, "--help", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    known = set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_every_target_of_make_exists() -> None:
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    assert targets == {"bench", "setup-dev"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) for target in targets)


def test_no_line_has_another_program() -> None:
    assert all(line.startswith(("make ", *PROGRAMS)) for line in LINES), LINES
