"""`make setup` names a missing prerequisite on one line. Each case runs it as on a machine that lacks it."""

import os
import sys
from pathlib import Path

import pytest
from support import ROOT, run

SCRIPT = ROOT / "scripts" / "bootstrap.py"

FAKE = """\
import runpy, sys
{change}
sys.argv = [{script!r}, {name!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def setup_with(change: str, tmp_path: Path, name: str = "demo"):
    program = FAKE.format(change=change, script=str(SCRIPT), name=name)
    return run(sys.executable, "-c", program, env={**os.environ, "VENV": str(tmp_path / "venv")})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("sys.version_info = (3, 9, 1)", "this is Python 3.9, and Python 3.10, 3.11 or 3.12 is needed"),
        ("sys.platform = 'darwin'", "use the container there"),
        ("import platform; platform.libc_ver = lambda: ('glibc', '2.31')", "needs glibc 2.35 or later"),
        ("sys.modules['ensurepip'] = None", "-venv)"),
        ("import sysconfig; sysconfig.get_config_var = lambda n: None; sys.base_prefix = '/nowhere';"
         "import ctypes.util; ctypes.util.find_library = lambda n: None", "apt-get install libpython3"),
        ("import collections, shutil; shutil.disk_usage = lambda p: collections.namedtuple('U', 'free')(10**9)",
         "1.0 GB are free"),
    ],
)  # fmt: skip
def test_a_missing_prerequisite_is_named_on_one_line(tmp_path, change, expected):
    done = setup_with(change, tmp_path)
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("name", "needed"), [("demo", 7), ("dev", 7), ("tensorflow", 4)])
def test_each_set_needs_its_own_amount_of_space(tmp_path, name, needed):
    full = (
        "import collections, shutil; shutil.disk_usage = lambda p: collections.namedtuple('U', 'free')"
        f"({needed} * 10**9 - 1)"
    )
    done = setup_with(full, tmp_path, name)
    assert done.returncode == 1
    assert f"and about {needed} GB are needed" in done.stderr


def test_tensorflow_and_batch_engines_have_environments_of_their_own():
    environment = {name: value for name, value in os.environ.items() if name != "VENV"}
    for name, folder in (("dev", ".venv"), ("tensorflow", ".venv-tensorflow"), ("batch", ".venv-batch")):
        program = (
            f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); sys.argv = ['bootstrap.py', {name!r}]; "
            "import bootstrap; print(bootstrap.VENV)"
        )
        assert run(sys.executable, "-c", program, env=environment).stdout.strip() == str(ROOT / folder)


def test_a_second_run_does_nothing():
    environment = {**os.environ, "VENV": sys.prefix}
    assert run(sys.executable, SCRIPT, "dev", cwd=ROOT, env=environment).returncode == 0
    again = run(sys.executable, SCRIPT, "dev", cwd=ROOT, env=environment)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_hashed_and_no_index_is_named(lock):
    text = lock.read_text()
    assert "://" not in text
    blocks = [block for block in text.replace("\\\n", " ").splitlines() if block and not block.startswith("#")]
    assert blocks
    for block in blocks:
        assert "==" in block
        assert "--hash=sha256:" in block


def test_uv_gets_the_index_and_the_certificates_of_pip():
    program = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import bootstrap; print(bootstrap.settings_of_pip())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "SSL_", "PIP_"))}
    environment.update(VENV=sys.prefix, PIP_INDEX_URL="https://mirror.test/simple", PIP_CERT="/etc/ca.pem")
    wanted = {"UV_DEFAULT_INDEX": "https://mirror.test/simple", "SSL_CERT_FILE": "/etc/ca.pem"}
    assert run(sys.executable, "-c", program, env=environment).stdout.strip() == str(wanted)
    environment.update(UV_INDEX="https://mine.test", SSL_CERT_FILE="/mine.pem")
    assert run(sys.executable, "-c", program, env=environment).stdout.strip() == "{}"
