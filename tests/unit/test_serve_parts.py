"""The parts of jpeg-serve that need no server."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest
from jpeg_serve import locate, ports, state
from jpeg_serve.backends import GENERIC_MODEL, prepare_backends
from jpeg_serve.errors import PortError, PrerequisiteError, ReloadError, ServeError
from jpeg_serve.locate import Installation, find_installation
from jpeg_serve.machine import backends_folder, native_backends, project_backends, this_machine
from jpeg_serve.management import Management, reason, restricted_protocols
from jpeg_serve.options import ServerOptions
from jpeg_serve.server import TritonServer
from support import ROOT, run


def test_a_taken_port_is_named_with_the_option_that_changes_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=rf"port {port} on 127\.0\.0\.1 .*Address already in use.*--http-port 0"):
            ports.require_free("127.0.0.1", port, "--http-port")
        assert ports.free_port("127.0.0.1") != port


def test_the_embedded_server_is_found_with_its_stub():
    found = find_installation()
    assert found.is_embedded
    assert found.executable.is_file()
    assert found.stub is not None
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in str(found.stub)
    environment = found.environment()
    assert environment["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)  # noqa: PTH120
    assert any("nvidia_pytriton.libs" in folder for folder in environment["LD_LIBRARY_PATH"].split(os.pathsep))


def test_a_server_on_the_path_comes_first(tmp_path, monkeypatch):
    executable = tmp_path / "bin" / "tritonserver"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{executable.parent}{os.pathsep}{os.environ['PATH']}")
    found = find_installation()
    assert found == Installation(executable, tmp_path / "backends", None, ())


@pytest.mark.parametrize(
    ("change", "reason", "remedy"),
    [
        (
            lambda patch: patch.setattr(locate, "find_libpython", lambda: None),
            "libpython_missing",
            "apt-get install libpython3",
        ),
        (lambda patch: patch.setattr(locate, "PYTHON_VERSION", "3.99"), "python_unsupported", "3.8, 3.9, 3.10"),
        (
            lambda patch: patch.setattr("importlib.util.find_spec", lambda _: None),
            "no_tritonserver",
            "pip install 'triton-jpeg-classifier[serve]'",
        ),
    ],
    ids=["libpython", "python", "server"],
)
def test_a_missing_prerequisite_is_one_sentence_with_its_remedy(monkeypatch, change, reason, remedy):
    change(monkeypatch)
    with pytest.raises(PrerequisiteError) as caught:
        find_installation()
    assert caught.value.reason == reason
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def natives(tmp_path, monkeypatch):
    """The native backends of a server, `python` and `tensorrt`, and ours beside them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("python", "tensorrt"):
        (tmp_path / "native" / name).mkdir(parents=True)
        (tmp_path / "native" / name / f"libtriton_{name}.so").write_text(name)
    for name in ("onnxruntime", "tensorrt", "more"):
        (tmp_path / "ours" / name).mkdir(parents=True)
    (tmp_path / "ours" / "onnxruntime" / "model.py").write_text("")
    (tmp_path / "ours" / "tensorrt" / "model.py").write_text("")
    (tmp_path / "stub").write_text("stub")
    return tmp_path / "native"


def test_a_backend_directory_is_created_once(natives, tmp_path):
    ours, stub = tmp_path / "ours", tmp_path / "stub"
    embedded = prepare_backends(Installation(tmp_path, natives, stub, ()), ours)
    assert sorted(path.name for path in embedded.iterdir()) == ["onnxruntime", "python", "tensorrt"]
    assert (embedded / "python" / "triton_python_backend_stub").read_text() == "stub"
    assert (embedded / "onnxruntime").resolve() == ours / "onnxruntime"
    assert prepare_backends(Installation(tmp_path, natives, stub, ()), ours) == embedded
    stub.write_text("another stub")
    assert prepare_backends(Installation(tmp_path, natives, stub, ()), ours) != embedded
    installed = prepare_backends(Installation(tmp_path, natives, None, ()), None)
    assert sorted(path.name for path in installed.iterdir()) == ["python", "tensorrt"]


@pytest.mark.parametrize(("served_with", "file"), [("native", "libtriton_tensorrt.so"), ("python", "model.py")])
def test_the_chosen_backend_is_the_one_in_the_directory(natives, tmp_path, served_with, file):
    installation = Installation(tmp_path, natives, None, ())
    found = prepare_backends(installation, tmp_path / "ours", {"tensorrt": served_with})
    assert [path.name for path in (found / "tensorrt").iterdir()] == [file]


def test_a_user_without_a_writable_home_gets_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    found = prepare_backends(find_installation(), ROOT / "backends")
    assert (tmp_path / "tmp") in found.parents
    (tmp_path / "tmp").rename(tmp_path / "gone")
    (tmp_path / "tmp").write_text("")
    with pytest.raises(PrerequisiteError, match="XDG_CACHE_HOME") as caught:
        prepare_backends(find_installation(), ROOT / "backends")
    assert caught.value.reason == "cache_not_writable"


def test_the_projects_backends_are_found():
    assert {path.parent.name for path in project_backends().glob("*/model.py")} == {
        "onnxruntime",
        "openvino",
        "pytorch",
        "tensorflow",
        "tensorrt",
    }


def test_a_folder_of_backends_beside_the_repository_comes_before_the_projects(tmp_path):
    repository = tmp_path / "model_repository"
    assert backends_folder(repository, None) == project_backends()
    (tmp_path / "backends").mkdir()
    assert backends_folder(repository, None) == tmp_path / "backends"
    assert backends_folder(repository, tmp_path / "mine") == tmp_path / "mine"


# A package with a classifier form, as another project would install it.
FORM = """\
from jpeg_contract.forms import ClassifierForm

FORM = ClassifierForm(
    name="mine", title="Mine", backend="mine", artefact="model.mine", precisions=("fp32",), instance_kind="CPU",
    loader="mine:load", emitter="mine",
)
"""
INSTALLED = """\
import json, os
from pathlib import Path
from jpeg_serve.backends import prepare_backends
from jpeg_serve.locate import find_installation
from jpeg_serve.machine import this_machine
found = prepare_backends(find_installation(), Path(os.environ["OURS"]))
print(json.dumps([sorted(this_machine().python_backends), (found / "mine" / "model.py").read_text()]))
"""


@pytest.mark.parametrize("has_folder", [False, True], ids=["written", "given"])
def test_a_form_of_an_installed_package_gets_a_backend(tmp_path, has_folder):
    (tmp_path / "mine-1.0.dist-info").mkdir()
    (tmp_path / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (tmp_path / "mine-1.0.dist-info" / "entry_points.txt").write_text("[jpeg_contract.forms]\nmine = mine:FORM\n")
    (tmp_path / "mine.py").write_text(FORM)
    ours = tmp_path / "ours"
    (ours / "mine").mkdir(parents=True)
    if has_folder:
        (ours / "mine" / "model.py").write_text("given")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OURS": str(ours),
    }
    done = run(sys.executable, "-c", INSTALLED, env=environment)
    assert done.returncode == 0, done.stderr
    backends, text = json.loads(done.stdout)
    assert "mine" in backends
    assert text == ("given" if has_folder else GENERIC_MODEL)


def test_a_native_backend_is_a_library(tmp_path):
    for name in ("tensorrt", "python"):
        (tmp_path / name).mkdir()
    (tmp_path / "tensorrt" / "libtriton_tensorrt.so").write_text("")
    (tmp_path / "python" / "model.py").write_text("")
    assert native_backends(tmp_path) == {"tensorrt"}


def test_this_machine_has_the_python_backend():
    here = this_machine()
    assert here.natives == frozenset({"python"})
    assert "onnxruntime" in here.python_backends
    assert here.package("numpy")
    assert here.package("no_such_package") is None


def test_the_keys_are_read_from_the_command_line():
    arguments = ["--grpc-port=1", "--grpc-restricted-protocol=model-repository,trace:admin-key=a=b"]
    assert restricted_protocols(arguments) == {"model-repository": ("admin-key", "a=b"), "trace": ("admin-key", "a=b")}
    arguments = ["--grpc-restricted-protocol", "logging:x=y", "--http-restricted-api=inference:z=z"]
    assert restricted_protocols(arguments) == {"logging": ("x", "y")}
    assert restricted_protocols([]) == {}


def test_tritons_reason_has_no_traceback():
    assert (
        reason("load failed: Internal: broken\n\nAt:\n  /some/where.py(3): f\n;\n") == "load failed: Internal: broken"
    )
    assert reason("load failed: no file;\n") == "load failed: no file"


def test_a_server_that_ended_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with Management(address, {}, load_s=5) as server:
        for call in (
            server.states,
            lambda: server.load("any"),
            lambda: server.unload("any"),
            lambda: server.config("a"),
        ):
            with pytest.raises(ReloadError, match=address) as caught:
                list(call() or ())
            assert caught.value.reason == "server_unreachable"


def test_a_server_that_was_not_started_has_no_process(tmp_path):
    with pytest.raises(ServeError) as caught:
        TritonServer(ServerOptions(model_repository=tmp_path)).wait()
    assert caught.value.reason == "not_started"


def running(pid, started, owner=1, owner_started=0):
    addresses = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    paths = ("/models", "/env", "/env/python", "/natives", "/backends")
    return state.Running(pid, started, owner, owner_started, *addresses, *paths)


def test_a_server_without_its_owner_is_recognised():
    started = state.started_at(os.getpid())
    assert started is not None
    assert not running(os.getpid(), started, os.getpid(), started).is_orphaned()
    assert running(os.getpid(), started, os.getpid(), started - 1).is_orphaned()
    assert not running(os.getpid(), started - 1, os.getpid(), started - 1).is_orphaned()  # it has ended, too
    assert [port for port in range(5) if running(1, 1).holds(port)] == [1, 2, 3]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def this_process():
    started = state.started_at(os.getpid())
    assert started is not None
    return running(os.getpid(), started)


def test_a_process_is_distinguished_from_a_later_one_of_its_id(cache):
    mine = this_process()
    other = running(mine.pid, mine.started - 1)
    files = [state.publish(each) for each in (mine, other)]
    assert state.find_running() == [(files[0], mine)]
    assert not files[1].exists()
    state.withdraw(files[0])
    assert state.find_running() == []
    assert state.started_at(2**22 + 1) is None


@pytest.mark.parametrize(
    ("address", "is_found"), [("127.0.0.1:1", True), ("localhost:1", True), ("127.0.0.1:2", False)]
)
def test_a_server_is_found_by_its_http_address(cache, address, is_found):
    mine = this_process()
    state.publish(mine)
    assert state.find_at(address) == (mine if is_found else None)


def test_only_a_folder_of_the_user_is_trusted(cache):
    file = state.publish(this_process())
    file.parent.chmod(0o755)
    assert state.find_running() == []
    again = state.publish(this_process())
    assert stat.S_IMODE(again.parent.stat().st_mode) == 0o700
    for text in ("{", "{}", '{"format": 4}', file.read_text().replace(state._host(), "another machine")):
        file.write_text(text)
        assert [found for found, _ in state.find_running()] == [again]
        assert file.exists()  # not ours to remove


def test_the_package_imports_nothing_until_it_is_used():
    program = "import sys, jpeg_serve; sys.exit(any(name.startswith('jpeg_serve.') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    program = "import jpeg_serve; print([getattr(jpeg_serve, name).__name__ for name in jpeg_serve.__all__[1:]])"
    done = run(sys.executable, "-c", program)
    assert "TritonServer" in done.stdout, done.stderr
