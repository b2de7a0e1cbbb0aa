import os
import socket
import sys

import pytest
from jpeg_serve import locate, ports
from jpeg_serve.backends import prepare_backends
from jpeg_serve.errors import PortError, PrerequisiteError
from jpeg_serve.locate import Installation, find_installation
from support import ROOT


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
        (lambda patch: patch.setattr("importlib.util.find_spec", lambda _: None), "neither on the PATH"),
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
