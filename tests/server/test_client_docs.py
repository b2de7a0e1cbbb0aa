"""The programs and commands of docs/client.md: they run, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jpeg_client
import pytest
from debian_tools import tool
from jpeg_serve import TritonServer
from jpeg_serve.ports import free_port
from object_store import s3_server
from support import PHOTOS, ROOT, photo, run_module

PAGE = (ROOT / "docs" / "client.md").read_text()
CONTRACT = (ROOT / "docs" / "contract.md").read_text()

# A program, and behind it what it prints. A comment in front says why it cannot run here.
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why_not>[^\n]+) -->\n)?```(?P<language>python|console)\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
# Its first line names a module that the commands behind it use.
_FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A block of the page.

    Attributes:
        language: "python" or "console".
        text: Of the block.
        output: What a Python program prints.
        runs: Whether it can run here.
    """

    language: str
    text: str
    output: str
    runs: bool

    @property
    def commands(self) -> str:
        """The commands of a console block."""
        return "".join(re.findall(r"^\$ (.*\n)", self.text, re.MULTILINE))

    @property
    def shown(self) -> str:
        """What the program or the commands print."""
        return self.output if self.language == "python" else re.sub(r"^\$ .*\n", "", self.text, flags=re.MULTILINE)


def blocks_of(text: str) -> list[Block]:
    return [
        Block(found["language"], found["text"], found["output"] or "", found["why_not"] is None)
        for found in _BLOCK.finditer(text)
    ]


SECTIONS = {section.partition("\n")[0]: blocks_of(section) for section in PAGE.split("\n## ")}
RUN = {name: blocks for name, blocks in SECTIONS.items() if any(block.runs for block in blocks)}
NOT_RUN = [block for blocks in SECTIONS.values() for block in blocks if not block.runs]


def without_numbers(text: str) -> tuple[str, list[float]]:
    """Split a text into its words and its numbers with a point; times are neither."""
    text = re.sub(r"\d+\.\d+ m?s\b|\(\d+/s\)", "TIME", text)
    text = re.sub(r"\b(preprocess|classify|postprocess|rest) \d+\.\d", r"\1 TIME", text)
    return re.sub(r"\d+\.\d+", "NUMBER", text), [float(number) for number in re.findall(r"\d+\.\d+", text)]


def check_output(printed: str, shown: str) -> None:
    """Compare what was printed with what the page shows: scores to two digits."""
    (words, numbers), (shown_words, shown_numbers) = without_numbers(printed), without_numbers(shown)
    assert words == shown_words
    assert numbers == pytest.approx(shown_numbers, abs=0.01)


def printed_by_program(text: str, names: dict[str, object]) -> str:
    """Run a program in this process, where warnings are errors; return its standard output.

    names: of the programs before it in its section; its own are added.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "docs/client.md", "exec"), names)
    return printed.getvalue()


def printed_by_commands(commands: str, folder: Path, server: TritonServer, variables: Mapping[str, str]) -> str:
    """Run commands in a shell; return their output and errors. jpeg-classify gets the address of the server.

    variables: of the environment, beside the usual ones.
    """
    python = shlex.quote(sys.executable)
    functions = (
        'jpeg-classify() { case " $* " in *" --url "*) ;; *) set -- "$@" --url "grpc://$SERVER";; esac; '
        f'{python} -m jpeg_client "$@"; }}\n'
        f'uvicorn() {{ exec {python} -m uvicorn "$@"; }}\n'
    )
    with subprocess.Popen(
        ["bash", "-c", f"{functions}{commands}[ -z $(jobs -p) ] || kill $(jobs -p)\nwait"],
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "SERVER": server.grpc_address,
            **variables,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=100)
        finally:
            # Also what the shell has left, if it failed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return printed


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """The bucket of the page's nightly job; yields the environment of its clients."""
    names = ("chelsea", "china", "coffee")
    with s3_server("photos", {f"2026/11/{name}.jpg": photo(name) for name in names}) as variables:
        yield variables


@pytest.mark.parametrize("section", RUN)
def test_the_blocks_of_a_section_print_what_the_page_shows(
    section: str, server: TritonServer, bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in a folder with the photos of a checkout."""
    shutil.copytree(PHOTOS, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    port = str(free_port("127.0.0.1"))
    names: dict[str, object] = {"__name__": "__main__"}
    for block in RUN[section]:
        if not block.runs:
            continue
        text, commands, shown = (
            part.replace("localhost:8001", server.grpc_address).replace("8088", port)
            for part in (block.text, block.commands, block.shown)
        )
        if file := _FILE.match(text):
            (tmp_path / file[1]).write_text(text)
        elif block.language == "python":
            check_output(printed_by_program(text, names), shown)
        else:
            if "curl " in commands:
                tool("curl", "curl")
            check_output(printed_by_commands(commands, tmp_path, server, bucket), shown)


def test_a_comment_is_that_of_the_block_behind_it() -> None:
    block = "<!-- not run: {} -->\n```python\n{}\n```\n"
    page = block.format("a", "first") + "\n```python\nsecond\n```\n\n" + block.format("b", "third")
    assert [(each.text, each.runs) for each in blocks_of(page)] == [
        ("first\n", False),
        ("second\n", True),
        ("third\n", False),
    ]


def test_what_cannot_run_here_is_valid() -> None:
    assert {block.language for block in NOT_RUN} == {"python"}
    options = run_module("jpeg_client", "--help").stdout
    for block in NOT_RUN:
        compile(block.text, "docs/client.md", "exec")
    # Also the options that the text names.
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(re.findall("jpeg-classify.*|`--.*?`", PAGE))))
    assert {"--resume", "--sort-into"} <= named
    assert [option for option in named if not re.search(rf"{option}\b", options)] == []


def test_every_exception_and_every_reason_is_on_the_page() -> None:
    """Those of arguments are an open list."""
    for name in jpeg_client.__all__:
        assert f"`{name}" in PAGE or name in ("Classified", "Image", "ModelDescription", "StepTimes"), name
    sources = "".join(path.read_text() for path in (ROOT / "client" / "jpeg_client").glob("*.py"))
    reasons = set(re.findall(r'reason ?= ?"(\w+)"', sources))
    assert {"request_lost", "file_missing", "not_an_ensemble"} <= reasons
    refused_call = re.compile(r"invalid_(?!array|image|response)|_without_tls$|^unencrypted_|^interrupted$|^no_images$")
    refused_call_or_output = re.compile(rf"{refused_call.pattern}|^output_")
    unknown = {reason for reason in reasons if not refused_call_or_output.search(reason)}
    assert {reason for reason in unknown if f"`{reason}`" not in PAGE + CONTRACT} == set()
