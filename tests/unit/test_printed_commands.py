"""The commands that messages name can be run as they are printed."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import shutil
from collections.abc import Callable

import cyclopts
import pytest
from jpeg_build.cli import app as build_app
from jpeg_build.cli import main
from jpeg_contract import remedies
from jpeg_serve.cli import app as serve_app
from jpeg_serve.cli import main as serve
from repository.edits import add_classifier
from repository.mistakes import MISTAKES
from repository.static_repository import make_repository
from support import ROOT, SMALL_RECIPE, edit, small_network

APPS = {"jpeg-build": build_app, "jpeg-serve": serve_app}
# Where a message goes on with a value.
COMMAND = re.compile(r"jpeg-build ([a-z]+ )?$|jpeg-serve [a-z]+ $")
PACKAGES = ("contract", "preprocess", "postprocess", "runtime", "build", "serve", "client", "bench")


def accept(command: str) -> None:
    """Parse a command with the parser of its program. Raises CycloptsError."""
    program, *words = shlex.split(command)
    APPS[program].parse_args(words, exit_on_error=False, print_error=False)


@pytest.fixture
def printed(monkeypatch):
    """The commands that are made for messages."""
    found: list[str] = []
    make: Callable[..., str] = remedies._joined

    def record(*arguments: object) -> str:
        command = make(*arguments)
        found.append(command)
        return command

    monkeypatch.setattr(remedies, "_joined", record)
    return found


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """A repository, at a path that a shell would split."""
    return make_repository(tmp_path_factory.mktemp("static") / "a repository")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with small.toml, its network, and a Python file that makes a network."""
    small_network(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL_RECIPE)
    (tmp_path / "own net.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Sequential(\n"
        "        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),\n"
        "        torch.nn.Linear(8, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_parser_refuses_what_it_does_not_know():
    accept("jpeg-build use onnx --version 2")
    for command in ("jpeg-build use onnx --versoin 2", "jpeg-build init --force", "jpeg-serve reload more"):
        with pytest.raises(cyclopts.CycloptsError):
            accept(command)


def test_messages_take_their_commands_from_one_module():
    """A command that is put together anywhere else is not checked here, and may lack a quote or an option."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "remedies.py" or "comparison" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.JoinedStr):
                    continue
                for text, value in itertools.pairwise(node.values):
                    is_command = isinstance(text, ast.Constant) and COMMAND.search(str(text.value))
                    if is_command and isinstance(value, ast.FormattedValue):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_remedies_of_the_check_can_be_run(mistake, static, tmp_path, printed):
    repository = tmp_path / "my 'model' repository"
    shutil.copytree(static, repository)
    add_classifier(repository, "openvino", chosen=False)
    mistake.change(repository)
    serve(["check", "--static", "--model-repository", str(repository)])
    for command in printed:
        accept(command)


def test_commands_of_builds_and_choices_can_be_run(folder, printed, capsys):
    root = str(folder / "my models")
    where = ["--model-repository", root]
    wide = folder / "wide.toml"
    wide.write_text(SMALL_RECIPE)
    edit(wide, "resize_size = 32", "resize_size = 40")
    made = [
        (["small.toml", *where], 0),
        (["small.toml", "--version", "2", *where], 0),
        (["small.toml", "--backend", "openvino", *where], 0),
        (["use", "onnx", "--version", "7", *where], 1),
        (["use", "onnx", "--version", "1", *where], 0),
        (["use", "onnx", "--version", "1", "--split", "10", *where], 2),
        (["use", "tensorrt", *where], 1),
        (["use", "openvino", "--split", "10", *where], 0),
        (["small.toml", *where], 0),
        (["use", "onnx", *where], 0),
        (["small.toml", "--name", "cats", *where], 0),
        (["combine", "both", "jpeg_classifier", "cats", *where], 0),
        (["combine", "both", "jpeg_classifier", "cats", *where], 1),
        (["remove", "both", *where], 0),
        (["verify", "onnx", "--recipe", "wide.toml", *where], 1),
        (["wide.toml", "--name", "cats", *where], 0),
        (["wide.toml", *where], 0),
        (["use", "openvino", *where], 1),
        (["small.toml", "--backend", "openvino", "--from-onnx", "--name", "dogs", *where], 1),
        (["remove", "cats", *where], 0),
    ]
    for arguments, status in made:
        before = len(printed)
        assert main(arguments) == status, (arguments, capsys.readouterr().err)
        text = "".join(capsys.readouterr())
        if status == 0 and arguments[0] in ("use", "combine", "remove"):
            assert "jpeg-serve reload" in text
        for command in printed[before:]:
            accept(command)
    assert any(command.startswith("jpeg-build remove both --model-repository") for command in printed)


def test_the_command_that_init_prints_builds(folder, printed, capsys):
    """A network that code makes is built only with --trust-code."""
    facts = ["--labels", "a,b", "--crop-size", "32", "--resize-size", "32", "--scale", "-1..1"]
    assert main(["init", "module:own net.py:make", *facts]) == 0
    text = capsys.readouterr().err
    (command,) = printed
    assert command in text
    assert main(shlex.split(command)[1:]) == 0
    # So are the commands that the repository leads to.
    (folder / "model_repository" / "classifier_onnx" / "1" / "model.onnx").unlink()
    printed.clear()
    assert serve(["check", "--static"]) == 1
    assert any(command.startswith("jpeg-build own_net.toml") for command in printed)
    assert all("--trust-code" in command for command in printed)
    printed.clear()
    assert main(["use", "openvino"]) == 1
    assert printed
    assert all("--trust-code" in command for command in printed)
    # A recipe that is there names the command, too.
    printed.clear()
    assert main(["init", "module:own net.py:make", *facts]) == 2
    assert main(["verify", "onnx", "--recipe", "small.toml"]) == 1
    assert any("--trust-code" in command for command in printed)
    for command in printed:
        accept(command)
