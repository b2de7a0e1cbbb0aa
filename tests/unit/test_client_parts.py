import io
import json
import re
import sys
from typing import Any

import numpy as np
import pytest
from jpeg_client import Client, RequestRefused
from jpeg_client.cli import main
from jpeg_client.errors import InvalidArgument
from jpeg_client.requests import MAX_REQUEST_BYTES
from jpeg_client.responses import EnsembleOutputs
from jpeg_client.top_k import TopK
from jpeg_contract.remedies import install_command
from support import ROOT, run, run_module


class RecordingTransport:
    """Record requests instead of sending them; the server tests use a real connection.

    Args:
        limit: max_batch_size of the model.
        refuse: Returns the message of an error response to the images, or None.
    """

    def __init__(self, limit=64, refuse=None):
        self.limit, self.refuse, self.requests = limit, refuse or (lambda images: None), []
        self.sends_deadline = False

    def config(self, model, timeout_s):
        return {"max_batch_size": self.limit}

    def metadata(self, model, timeout_s):
        return {"versions": ["1"]}

    def infer(self, model, images, top_k, timeout_s):
        self.requests.append(list(images))
        if message := self.refuse(images):
            raise RequestRefused(message, "400")
        k = top_k.k or 5
        labels = np.array([[image] * k for image in images], dtype=object)
        numbers = np.ones((len(images), k))
        return EnsembleOutputs(
            labels, numbers.astype(np.float32), numbers.astype(np.int32), np.full((len(images), 1), b"", object)
        )

    def close(self):
        pass


def client(**options):
    made = Client("grpc://localhost:1")
    made._transport.close()
    made._transport = RecordingTransport(**options)
    return made


def test_images_are_paths_bytes_or_open_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"from path")
    images = [
        tmp_path / "a.jpg",
        str(tmp_path / "a.jpg"),
        b"bytes",
        bytearray(b"array"),
        memoryview(b"view"),
        io.BytesIO(b"from file"),
    ]
    found = [prediction.labels[0] for prediction in client().classify(images, k=1)]
    assert found == ["from path", "from path", "bytes", "array", "view", "from file"]


@pytest.mark.parametrize(
    ("images", "fact"),
    [
        (None, "NoneType"),
        ([None], "NoneType"),
        (io.StringIO("text"), "binary mode"),
        ([io.StringIO("text")], "binary mode"),
    ],
)
def test_other_types_than_images_raise_a_type_error(images, fact):
    with pytest.raises(TypeError, match=fact):
        client().classify(images)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e12])
def test_an_invalid_timeout_is_refused(timeout_s):
    with pytest.raises(InvalidArgument, match=str(timeout_s).replace("+", r"\+")) as refused:
        Client("grpc://localhost:1", timeout_s=timeout_s)
    assert refused.value.reason == "invalid_timeout"


def test_a_k_beyond_32_bits_is_refused():
    with pytest.raises(InvalidArgument, match=str(2**63)) as refused:
        client().classify([b"x"], k=2**63)
    assert refused.value.reason == "invalid_k"
    for wrong in ("3", 1.5):
        with pytest.raises(InvalidArgument) as refused:
            TopK(wrong)  # type: ignore[arg-type]  # as callers without types may pass
        assert refused.value.reason == "invalid_k"
    made = TopK(np.int64(3))  # type: ignore[arg-type]  # an integer of NumPy counts as one
    assert json.dumps(made.parameters) == '{"k": 3}'


def test_a_threshold_is_a_number_from_0_to_1():
    for wrong in (-0.1, 1.1, float("nan"), float("inf"), "0.5", [0.5]):
        with pytest.raises(InvalidArgument) as refused:
            client().classify([b"x"], threshold=wrong)
        assert refused.value.reason == "invalid_threshold"
    rights: list[Any] = [0, 1, 0.25, np.float32(0.5)]
    for right in rights:
        assert json.loads(json.dumps(TopK(threshold=right).parameters)) == {"threshold": right}
    assert TopK().parameters == {}


def test_a_long_list_is_split_by_batch_size_and_by_bytes():
    made = client(limit=4)
    assert len(made.classify([b"x"] * 10)) == 10
    assert [len(request) for request in made._transport.requests] == [4, 4, 2]
    made = client()
    large = bytes(MAX_REQUEST_BYTES // 2 + 1)
    made.classify([large, large, b"x"])
    assert [len(request) for request in made._transport.requests] == [1, 2]
    assert client().classify([]) == []


def test_each_image_of_a_failed_batch_has_its_own_error():
    def refuse(images):
        if all(image == b"bad" for image in images):
            return "\n".join(f"image {i}: broken" for i in range(len(images)))
        return None

    made = client(refuse=refuse)
    assert [prediction.error for prediction in made.classify([b"bad", b"bad"])] == ["broken", "broken"]
    assert [len(request) for request in made._transport.requests] == [2, 1, 1]


def test_a_refusal_of_the_whole_request_is_raised():
    with pytest.raises(RequestRefused, match="k must be") as refused:
        client(refuse=lambda images: "k must be a whole number").classify([b"x"])
    assert (refused.value.reason, refused.value.status) == ("request_refused", "400")


@pytest.mark.parametrize(
    "url", ["localhost:8001", "ftp://localhost", "grpc://", "http://host/path", "", "http://host:65536", "http://[host"]
)
def test_an_invalid_url_is_refused(url):
    with pytest.raises(InvalidArgument, match="grpc://HOST:PORT") as refused:
        Client(url)
    assert refused.value.reason == "invalid_url"


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_unreachable_server_is_reported_when_it_is_retried_and_at_the_end(scheme):
    done = run_module("jpeg_client", "--url", f"{scheme}://127.0.0.1:1", "--timeout-s", "1", __file__)
    assert done.returncode == 3
    retried, failed = done.stderr.splitlines()
    assert failed.startswith("jpeg-classify: error: ")
    assert failed.endswith("[server_unavailable]")
    for line in (retried, failed):
        assert f"{scheme}://127.0.0.1:1" in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "invalid_call"),
        (["gone.jpg"], "file_missing"),
        (["--url", "nowhere", __file__], "invalid_url"),
        (["-k", "0", __file__], "invalid_call"),
        (["--timeout-s", "0", __file__], "invalid_call"),
        (["--timeout-s", "1e9", __file__], "invalid_timeout"),
        (["--timeout", "1", __file__], "invalid_call"),  # no abbreviations
    ],
)
def test_an_invalid_call_exits_with_2(arguments, reason):
    done = run_module("jpeg_client", *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith(f"[{reason}]\n")
    assert done.stderr.count("\n") == 1


def test_a_folder_without_images_is_an_error(tmp_path):
    done = run_module("jpeg_client", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("[no_images]\n")


def command(monkeypatch, transport, *arguments):
    """Run jpeg-classify with a transport that sends nothing; return its exit status."""
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")  # main would set it for this whole process
    monkeypatch.setattr("jpeg_client.grpc_transport.GrpcTransport", lambda *_, **__: transport)
    return main([str(argument) for argument in arguments])


def test_options_and_paths_may_alternate(tmp_path, monkeypatch, capsys):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("one.txt", "folder/b.JPG", "folder/a.jfif", "folder/skipped.txt", "folder/deep/c.jpeg"):
        (tmp_path / name).write_bytes(name.encode())
    transport = RecordingTransport()
    assert command(monkeypatch, transport, tmp_path / "one.txt", "-k", 2, tmp_path / "folder", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["labels"] for line in lines] == [
        [name] * 2 for name in ("one.txt", "folder/a.jfif", "folder/b.JPG", "folder/deep/c.jpeg")
    ]
    assert lines[0] == {
        "image": str(tmp_path / "one.txt"),
        "labels": ["one.txt"] * 2,
        "scores": [1.0, 1.0],
        "indices": [1, 1],
        "error": None,
        "reason": None,
    }


def test_failed_images_are_reported_on_stderr_and_the_others_are_printed(tmp_path, monkeypatch, capsys):
    for name in ("good", "bad"):
        (tmp_path / name).write_bytes(name.encode())
    transport = RecordingTransport(limit=1, refuse=lambda images: "image 0: broken" if images == [b"bad"] else None)
    assert command(monkeypatch, transport, "-k", "1", tmp_path / "bad", "/proc/self/mem", tmp_path / "good") == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'good'}: good 1.000\n"
    broken, unreadable, summary = printed.err.splitlines()
    assert "/proc/self/mem" in unreadable
    assert unreadable.endswith("[file_unreadable]")
    assert f"{tmp_path / 'bad'}: broken" in broken
    assert broken.endswith("[image_refused]")
    assert "1 answered, 1 file_unreadable, 1 image_refused" in summary


WITHOUT = """\
import runpy, sys
sys.modules[{package!r}] = None
sys.argv = {arguments!r}
runpy.run_module({module!r}, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("module", "package", "extra", "arguments"),
    [
        ("jpeg_client", "numpy", "client", [__file__]),
        ("jpeg_client", "tritonclient", "client", [__file__]),
        ("jpeg_client", "stamina", "client", [__file__]),
        ("jpeg_client", "pycurl", "client", ["--url", "http://localhost:1", __file__]),
        ("jpeg_serve", "google.protobuf", "serve", ["check"]),
        ("jpeg_build", "numpy", "build", ["mobilenet_v2"]),
        ("jpeg_build", "tritonclient", "build", ["mobilenet_v2"]),
    ],
)
def test_a_missing_package_is_reported_with_the_command_that_installs_it(module, package, extra, arguments):
    program = WITHOUT.format(module=module, package=package, arguments=[module, *arguments])
    done = run(sys.executable, "-c", program, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"the package {package}" in done.stderr
    assert install_command(extra) in done.stderr
    assert f"pip install -e '.[{extra}]'" in done.stderr
    assert done.stderr.endswith("[package_missing]\n")


def test_help_states_the_default_of_every_option():
    done = run_module("jpeg_client", "--help")
    assert done.returncode == 0
    panel = done.stdout.partition("Parameters")[2].replace("│", "")
    options = [" ".join(part.split()) for part in panel.partition("╰")[0].split("\n --")[1:]]
    for option in options:
        assert re.search("default|^(json|resume|null|quiet|shrink|sort-into|files-from) ", option), option
