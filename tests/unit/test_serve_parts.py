import os
import socket
import sys

import pytest
from google.protobuf import text_format
from jpeg_serve import locate, ports, state
from jpeg_serve.backends import prepare_backends
from jpeg_serve.errors import PortError, PrerequisiteError, ReloadError
from jpeg_serve.fitness import gpus_used, loads_engine, runs_on, same_release
from jpeg_serve.gpus import find_gpus
from jpeg_serve.locate import Installation, find_installation
from jpeg_serve.machine import installed_version, native_backends, this_machine
from jpeg_serve.management import Management, reason, restricted_protocols
from support import ROOT
from tritonclient.grpc.model_config_pb2 import ModelConfig


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
    ("change", "said"),
    [
        (lambda patch: patch.setattr(locate, "find_libpython", lambda: None), "apt-get install libpython3"),
        (lambda patch: patch.setattr(locate, "PYTHON_VERSION", "3.99"), r"3\.8, 3\.9, 3\.10.*this is 3\.99"),
        (
            lambda patch: patch.setattr("importlib.util.find_spec", lambda _: None),
            r"neither on the PATH.*pip install -e '\.\[serve\]' in this project's folder",
        ),
    ],
)
def test_a_missing_prerequisite_is_one_sentence_with_its_remedy(monkeypatch, change, said):
    change(monkeypatch)
    with pytest.raises(PrerequisiteError, match=said) as caught:
        find_installation()
    assert "\n" not in str(caught.value)


def test_backends_are_put_together_once_and_natives_win(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native = tmp_path / "native"
    for name in ("python", "tensorrt"):
        (native / name).mkdir(parents=True)
        (native / name / f"libtriton_{name}.so").write_text(name)
    ours = tmp_path / "ours"
    for name in ("onnxruntime", "tensorrt", "common"):
        (ours / name).mkdir(parents=True)
    (ours / "onnxruntime" / "model.py").write_text("")
    (ours / "tensorrt" / "model.py").write_text("")
    stub = tmp_path / "stub"
    stub.write_text("stub")

    embedded = prepare_backends(Installation(tmp_path, native, stub, ()), ours)
    assert sorted(path.name for path in embedded.iterdir()) == ["onnxruntime", "python", "tensorrt"]
    assert (embedded / "python" / "triton_python_backend_stub").read_text() == "stub"
    assert (embedded / "tensorrt" / "libtriton_tensorrt.so").exists()
    assert (embedded / "onnxruntime").resolve() == ours / "onnxruntime"
    assert prepare_backends(Installation(tmp_path, native, stub, ()), ours) == embedded

    stub.write_text("another stub")
    assert prepare_backends(Installation(tmp_path, native, stub, ()), ours) != embedded
    installed = prepare_backends(Installation(tmp_path, native, None, ()), None)
    assert sorted(path.name for path in installed.iterdir()) == ["python", "tensorrt"]


def test_a_user_without_a_writable_home_gets_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    found = prepare_backends(find_installation(), ROOT / "backends")
    assert (tmp_path / "tmp") in found.parents
    (tmp_path / "tmp").rename(tmp_path / "gone")
    (tmp_path / "tmp").write_text("")
    with pytest.raises(PrerequisiteError, match="set XDG_CACHE_HOME"):
        prepare_backends(find_installation(), ROOT / "backends")


@pytest.mark.parametrize(
    ("built", "gpu", "compatible", "runs"),
    [
        ("9.0", "9.0", False, True),
        ("9.0", "8.0", False, False),
        ("8.6", "8.9", False, False),
        ("8.6", "8.9", True, True),
        ("9.0", "8.0", True, True),
        ("8.0", "7.5", True, False),
        ("8.0", "12.0", True, True),
        ("7.5", "7.5", True, True),
    ],
)
def test_an_engine_runs_on_its_kind_of_gpu(built, gpu, compatible, runs):
    assert runs_on(built, gpu, hardware_compatible=compatible) is runs


@pytest.mark.parametrize(
    ("built", "here", "compatible", "loads"),
    [
        ("8.6.1", "8.6.1", False, True),
        ("8.6.1", "8.6.1.post1", False, True),
        ("10.3.0", "10.3.0.26+cuda12.6", False, True),
        ("8.6.1", "8.6.0", False, False),
        ("10.3.0", "10.4.0", False, False),
        ("10.3.0", "10.4.0", True, True),
        ("10.4.0", "10.3.0", True, False),
        ("9.3.0", "10.0.1", True, False),
        ("10.3.0", "", False, True),  # not known, not judged
    ],
)
def test_a_tensorrt_loads_its_own_engines(built, here, compatible, loads):
    assert loads_engine(built, here, version_compatible=compatible) is loads


def test_a_local_version_is_no_other_release():
    assert same_release("2.2.0", "2.2.0+cu121")
    assert same_release("2.2.0", "")
    assert not same_release("2.2.0", "2.2.1")


@pytest.mark.parametrize(
    ("groups", "used"),
    [
        ("", [0, 1, 2]),
        ("instance_group { kind: KIND_GPU }", [0, 1, 2]),
        ("instance_group { kind: KIND_GPU gpus: [2] }", [2]),
        ("instance_group { kind: KIND_GPU gpus: [0] } instance_group { kind: KIND_GPU gpus: [1] }", [0, 1]),
        ("instance_group { kind: KIND_GPU gpus: [0] } instance_group { }", [0, 1, 2]),
        ("instance_group { kind: KIND_GPU gpus: [7] }", []),
    ],
)
def test_instance_groups_say_which_gpus_are_used(groups, used):
    capabilities = ["8.0", "8.6", "9.0"]
    found = gpus_used(text_format.Parse(groups, ModelConfig()), capabilities)
    assert found == {index: capabilities[index] for index in used}


def test_a_machine_without_a_gpu_is_a_normal_state():
    """CUDA_VISIBLE_DEVICES hides what there is, so that this holds on every machine."""
    found = find_gpus({**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert found.capabilities == ()
    assert found.why_none.startswith(("no NVIDIA driver", "the NVIDIA driver"))
    assert "none (" in str(found)


def test_what_this_python_has_is_known_without_importing_it():
    import numpy as np

    assert installed_version("numpy") == np.__version__
    assert installed_version("no_such_package") is None
    here = this_machine()
    assert here.runs_in_python("tensorrt")
    assert not here.runs_in_python("python")


def test_a_native_backend_is_a_library(tmp_path):
    for name in ("tensorrt", "python"):
        (tmp_path / name).mkdir()
    (tmp_path / "tensorrt" / "libtriton_tensorrt.so").write_text("")
    (tmp_path / "python" / "model.py").write_text("")
    assert native_backends(tmp_path) == {"tensorrt"}


def test_the_keys_are_read_from_the_command_line():
    arguments = ["--grpc-port=1", "--grpc-restricted-protocol=model-repository,trace:admin-key=a=b"]
    assert restricted_protocols(arguments) == {"model-repository": ("admin-key", "a=b"), "trace": ("admin-key", "a=b")}
    arguments = ["--grpc-restricted-protocol", "logging:x=y", "--http-restricted-api=inference:z=z"]
    assert restricted_protocols(arguments) == {"logging": ("x", "y")}
    assert restricted_protocols([]) == {}


def test_tritons_reason_is_given_without_a_traceback():
    assert (
        reason("load failed: Internal: broken\n\nAt:\n  /some/where.py(3): f\n;\n") == "load failed: Internal: broken"
    )
    assert reason("load failed: no file;\n") == "load failed: no file"


def test_a_server_that_is_gone_is_said_to_be():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with Management(address, {}, load_s=5) as server:
        for call in (
            server.states,
            lambda: server.load("any"),
            lambda: server.unload("any"),
            lambda: server.config("a"),
        ):
            with pytest.raises(ReloadError, match=f"the server at {address} does not answer over gRPC.*refused"):
                list(call() or ())


def running(pid, started, owner=1, owner_started=0):
    addresses = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    return state.Running(pid, started, owner, owner_started, *addresses, "/models", "/env", "/env/python", "/backends")


def test_a_server_without_its_owner_is_told_from_others():
    started = state.started_at(os.getpid())
    assert started is not None
    assert not running(os.getpid(), started, os.getpid(), started).is_orphaned()
    assert running(os.getpid(), started, os.getpid(), started - 1).is_orphaned()
    assert not running(os.getpid(), started - 1, os.getpid(), started - 1).is_orphaned()  # it has ended, too
    assert [port for port in range(5) if running(1, 1).holds(port)] == [1, 2, 3]


def test_a_process_is_told_from_a_later_one_of_its_number(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    started = state.started_at(os.getpid())
    assert started is not None
    mine, other = running(os.getpid(), started), running(os.getpid(), started - 1)
    files = [state.publish(each) for each in (mine, other)]
    assert state.find_running() == [(files[0], mine)]
    assert not files[1].exists()
    state.withdraw(files[0])
    assert state.find_running() == []
    assert state.started_at(2**22 + 1) is None


def test_only_a_folder_of_ones_own_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    started = state.started_at(os.getpid())
    assert started is not None
    file = state.publish(running(os.getpid(), started))
    file.parent.chmod(0o755)
    assert state.find_running() == []
    again = state.publish(running(os.getpid(), started))
    assert again.parent.stat().st_mode & 0o777 == 0o700
    for text in ("{", "{}", '{"format": 3}', file.read_text().replace(state._host(), "another machine")):
        file.write_text(text)
        assert [found for found, _ in state.find_running()] == [again]
        assert file.exists()  # not ours to remove
