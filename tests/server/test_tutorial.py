"""docs/tutorial.md, followed word by word: each file is written, each command runs, and prints what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from debian_tools import tool
from jpeg_serve.ports import free_port
from support import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
# A file to write, or commands. A comment in front says who else runs it, or why nobody does.
_BLOCK = re.compile(
    r"^(?:<!-- not run here: (?P<why_not>.+) -->\n)?```(?P<language>python|console)\n(?P<text>.*?)^```\n",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
# The ports of the page, by the option that chooses another one.
_OPTIONS = {"http-port": "8000", "grpc-port": "8001", "metrics-port": "8002", "web-port": "8080"}


@dataclass(frozen=True)
class Step:
    """A section of the page.

    Attributes:
        title: Its heading.
        parts: In order: a file's name and text, or a command and what it prints.
    """

    title: str
    parts: tuple[tuple[str, str, str], ...]


def step_of(section: str) -> Step:
    parts: list[tuple[str, str, str]] = []
    for found in _BLOCK.finditer(section):
        if found["why_not"] is not None:
            continue
        if found["language"] == "python":
            name = re.match(r"# (\w+\.py)\n", found["text"])
            assert name is not None, f"a program without its name in the first line:\n{found['text']}"
            parts.append(("file", name[1], found["text"]))
            continue
        # A command goes on in the next line after a backslash.
        for command in re.split(r"^\$ ", found["text"], flags=re.MULTILINE)[1:]:
            line = re.match(r"(?:.*\\\n)*.*\n", command)
            assert line is not None
            parts.append(("command", line[0].rstrip("\n"), command[line.end() :]))
    return Step(section.partition("\n")[0], tuple(parts))


STEPS = [step for section in PAGE.split("\n## ")[1:] if (step := step_of(section)).parts]


def expected(shown: str) -> str:
    """The pattern of what the page shows: any numbers, and any lines, or any end of a line, for "..."."""
    lines = []
    for line in shown.splitlines():
        words = re.split(f"({_NUMBER})", line.removesuffix("..."))
        texts = [_NUMBER if number % 2 else re.escape(text) for number, text in enumerate(words)]
        end = r".*\n" if line.endswith("...") else r" *\n"
        lines.append(r"(?:.*\n)*?" if line == "..." else re.sub(r"(?:\\ )+", " +", "".join(texts)) + end)
    return "".join(lines)


class Shell:
    """One bash for all steps, as the reader has one. Jobs, variables and the working folder stay."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8", "COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._mark = "-- end of a command:"

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; return its exit status, and what it printed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        # In a group, whose input is not the commands behind it.
        stdin.write(f"{{\n{command}\n}} < /dev/null\necho; echo '{self._mark}' $?\n")
        stdin.flush()
        printed = ""
        for line in stdout:
            if line.startswith(self._mark):
                return int(line.removeprefix(self._mark)), printed.removesuffix("\n")
            printed += line
        raise AssertionError(f"the shell ended:\n{printed}")

    def close(self) -> None:
        """End what the steps have left."""
        os.killpg(self._process.pid, signal.SIGTERM)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    """A free port for each one of the page."""
    return {shown: str(free_port("127.0.0.1")) for shown in _OPTIONS.values()}


@pytest.fixture(scope="module")
def here(ports: dict[str, str]) -> Callable[[str], str]:
    """Put this test's ports into a text of the page."""

    def put(text: str) -> str:
        text = re.sub(r"(?<=\blocalhost:)8\d\d\d\b", lambda found: ports[found[0]], text)
        options = [f"--{name} {ports[shown]}" for name, shown in _OPTIONS.items()]
        return re.sub(r"^jpeg-serve --web\b", " ".join(["jpeg-serve --web", *options]), text)

    return put


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with its environment, as `make demo` leaves it."""
    checkout = tmp_path_factory.mktemp("tutorial")
    for name in ("photos", "model_repository"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".venv").symlink_to(sys.prefix)
    return checkout


@pytest.fixture(scope="module")
def shell(folder: Path, ports: dict[str, str], built_repository: Path) -> Iterator[Shell]:
    """The reader's terminal. As after `make demo`, the weights are in torchvision's cache: the session's build."""
    tool("curl", "curl")
    started = Shell(folder)
    started.run(f"export JPEG_URL=grpc://localhost:{ports['8001']}")
    yield started
    started.close()


@pytest.fixture(scope="module")
def done() -> list[str]:
    """The steps that have run."""
    return []


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_a_step_does_what_the_page_shows(
    step: Step, shell: Shell, folder: Path, here: Callable[[str], str], done: list[str]
) -> None:
    number = STEPS.index(step)
    if done != [each.title for each in STEPS[:number]]:
        pytest.skip("needs the steps before it")
    for kind, name, text in step.parts:
        if kind == "file":
            (folder / "shapes" / name).write_text(here(text))
            continue
        status, printed = shell.run(here(name))
        assert status == 0, f"$ {name}\n{printed}"
        assert re.fullmatch(expected(here(text)), printed), f"$ {name}\n{printed}\nand the page shows:\n{text}"
    done.append(step.title)


def test_other_words_and_missing_lines_are_noticed() -> None:
    pattern = expected("circle 0.98\n...\n12 right, 3 wrong\n")
    assert re.fullmatch(pattern, "circle 0.7\nanything\n1 right, 14 wrong\n")
    assert not re.fullmatch(pattern, "square 0.98\n12 right, 3 wrong\n")
    assert not re.fullmatch(pattern, "circle 0.98\nanything\n")
    assert not re.fullmatch(pattern, "circle 0.98\n12 right, 3 wrong\nan error\n")


def test_no_step_lacks_its_commands() -> None:
    """A block that the pattern above does not find would be left out silently."""
    assert PAGE.count("```console\n") + PAGE.count("```python\n") == sum(1 for _ in _BLOCK.finditer(PAGE))
    assert PAGE.count("```") == 2 * sum(1 for _ in _BLOCK.finditer(PAGE))
    left_out = [found["text"] for found in _BLOCK.finditer(PAGE) if found["why_not"] is not None]
    assert left_out == ["$ make demo\n"]
