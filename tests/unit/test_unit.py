"""The systemd unit, as far as it can be checked without a running systemd."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from debian_tools import tool
from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.options import ServerOptions
from jpeg_serve.unit import unit_text
from support import run, run_module

MOST_EXPOSURE = 2.0


@pytest.fixture
def installed_in_opt(monkeypatch):
    """This installation may lie in a folder that a unit has to leave visible, such as /tmp."""
    monkeypatch.setattr(sys, "prefix", "/opt/jpeg")
    monkeypatch.setattr(sys, "base_prefix", "/usr")


def settings(text):
    found = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name] = value
    return found


def command(*arguments):
    done = run_module("jpeg_serve", "unit", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_is_absolute_and_has_the_options(tmp_path):
    text = command(
        "--model-repository", tmp_path, "--servers", "2", "--drain-s", "90", "--behind-gateway", "--load-model", "a",
        "--load-model", "b", "--serve-with", "onnxruntime=python", "--", "--log-verbose=1",
    )  # fmt: skip
    found = settings(text)
    program, *arguments = shlex.split(found["ExecStart"])
    assert Path(program).is_absolute()
    assert Path(program).parent == Path(sys.executable).parent
    rest = shlex.join(arguments[arguments.index("run") :])
    assert rest == (
        f"run --model-repository {tmp_path} --load-model a --load-model b --drain-s 90 --behind-gateway --servers 2 "
        "--serve-with onnxruntime=python -- --log-verbose=1"
    )
    assert found["ExecReload"].endswith(f"reload --model-repository {tmp_path}")
    # The web application's drain, the servers' drain, and what ends them after it.
    assert int(found["TimeoutStopSec"]) > 2 * 90


def test_odd_paths_are_quoted_and_impossible_ones_refused(tmp_path):
    odd = tmp_path / 'a b%i$HOME"c'
    line = settings(unit_text(ServerOptions(model_repository=odd), {}))["ExecStart"]
    assert '/a b%%i$$HOME\\"c" ' in line + " "
    with pytest.raises(PrerequisiteError) as refused:
        unit_text(ServerOptions(model_repository=tmp_path / "a\nExecStartPre=b"), {})
    assert refused.value.reason == "invalid_path"


def test_a_gpu_stays_visible(tmp_path):
    options = ServerOptions(model_repository=tmp_path)
    assert "PrivateDevices" in settings(unit_text(options, {}, has_gpu=False))
    assert not {"PrivateDevices", "ProtectClock"} & settings(unit_text(options, {}, has_gpu=True)).keys()


def test_tmp_is_private_unless_something_is_read_there(installed_in_opt):
    assert settings(unit_text(ServerOptions(model_repository=Path("/srv/models")), {}))["PrivateTmp"] == "yes"
    assert "PrivateTmp" not in settings(unit_text(ServerOptions(model_repository=Path("/tmp/models")), {}))


def test_the_user_can_be_chosen():
    assert settings(unit_text(ServerOptions(), {}, user="triton"))["User"] == "triton"


def test_systemd_takes_the_unit_and_finds_it_little_exposed(installed_in_opt, tmp_path):
    analyze = tool("systemd-analyze", "systemd")
    unit = tmp_path / "jpeg-serve.service"
    unit.write_text(unit_text(ServerOptions(model_repository=Path("/srv/models")), {}, user="daemon"))
    verified = run(analyze, "verify", unit)
    assert (verified.returncode, verified.stdout) == (0, ""), verified.stderr
    assert str(unit) not in verified.stderr, verified.stderr
    rated = run(analyze, "security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for jpeg-serve\.service: ([\d.]+)", rated.stdout)
    assert exposure, rated.stderr
    assert float(exposure[1]) <= MOST_EXPOSURE
