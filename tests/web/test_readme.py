"""The README's ways to the server, as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from support import ROOT
from web_command import SupervisedServer

README = (ROOT / "README.md").read_text()


def console(start: str) -> list[tuple[str, str]]:
    """The commands of the README that begin so, each with the output that the README shows."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    commands = [command for block in blocks for command in block.split("$ ")[1:]]
    return [
        (line, shown) for command in commands for line, _, shown in [command.partition("\n")] if line.startswith(start)
    ]


def test_curl(web_url: str) -> None:
    commands = console("curl")
    assert len(commands) == 2
    for command, shown in commands:
        line = command.replace("localhost:8080", web_url.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
        assert comparable(json.loads(done.stdout)) == comparable(json.loads(shown.replace("\n", "")))


def comparable(answer: Any) -> Any:
    """An answer with its scores in two digits, and the names of its times."""
    if isinstance(answer, dict):
        return {name: comparable(value) if not name.endswith("_ms") else bool(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [comparable(each) for each in answer]
    return round(answer, 2) if isinstance(answer, float) else answer


def test_jpeg_classify(server: SupervisedServer, tmp_path: Any) -> None:
    (tmp_path / "photos").symlink_to(ROOT / "photos")
    for command, shown in console(".venv/bin/jpeg-classify"):
        line = f"{command.replace('.venv/bin/', f'{ROOT}/.venv/bin/')} --url grpc://{server.grpc_address}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
        found = (done.stdout + done.stderr).splitlines()
        for number, text in enumerate(shown.splitlines()):
            if text == "...":
                break
            assert without_numbers(found[number]) == without_numbers(text)


def without_numbers(text: str) -> str:
    """A line without the digits that differ between machines."""
    return re.sub(r"in [\d.]+ s \(\d+/s\)|(?<=\.\d\d)\d", "", text)


def test_python(server: SupervisedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [each for each in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Client(" in each]
    monkeypatch.chdir(ROOT)
    source = block.replace("localhost:8001", server.grpc_address).replace(
        'open("photos/china.jpg", "rb").read()', '"photos/china.jpg"'
    )
    exec(compile(source, "README.md", "exec"), {})
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "espresso"
    assert ["Egyptian cat" in others[0], "palace" in others[1]] == [True, True]
