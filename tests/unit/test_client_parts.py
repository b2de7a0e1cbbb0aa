import io
import sys

import numpy as np
import pytest
from jpeg_client import Client, RequestRefused
from jpeg_client.client import MAX_REQUEST_BYTES
from jpeg_client.transport import Arrays
from support import ROOT, run, run_module


class Recorder:
    """Stands where the connection is, to see what a Client makes of a call; the server tests use a real one."""

    def __init__(self, limit=64, refuse=None):
        self.limit, self.refuse, self.requests = limit, refuse or (lambda images: None), []

    def max_batch_size(self, model, timeout_s):
        return self.limit

    def infer(self, model, images, k, timeout_s):
        self.requests.append(list(images))
        if message := self.refuse(images):
            raise RequestRefused(message, "400")
        labels = np.array([[image] * (k or 5) for image in images], dtype=object)
        numbers = np.ones((len(images), k or 5))
        return Arrays(
            labels, numbers.astype(np.float32), numbers.astype(np.int32), np.full((len(images), 1), b"", object)
        )

    def close(self):
        pass


def client(**options):
    made = Client("grpc://localhost:1")
    made._transport.close()
    made._transport = Recorder(**options)
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
    ("images", "said"),
    [
        ("photo.jpg", r"write classify\(\[image\]\)"),
        (b"bytes", r"write classify\(\[image\]\)"),
        ([None], "a path, bytes or an open file, not NoneType"),
        ([io.StringIO("text")], "open it in binary mode"),
    ],
)
def test_what_is_no_list_of_images_is_a_type_error(images, said):
    with pytest.raises(TypeError, match=said):
        client().classify(images)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_time_out_that_is_none_is_refused(timeout_s):
    with pytest.raises(ValueError, match="must be above 0"):
        Client("grpc://localhost:1", timeout_s=timeout_s)


def test_a_k_that_no_message_can_carry_is_refused():
    with pytest.raises(ValueError, match="no classifier has that many classes"):
        client().classify([b"x"], k=2**63)


def test_a_long_list_is_cut_by_the_servers_batch_and_by_bytes():
    made = client(limit=4)
    assert len(made.classify([b"x"] * 10)) == 10
    assert [len(request) for request in made._transport.requests] == [4, 4, 2]
    made = client()
    large = bytes(MAX_REQUEST_BYTES // 2 + 1)
    made.classify([large, large, b"x"])
    assert [len(request) for request in made._transport.requests] == [1, 2]
    assert client().classify([]) == []


def test_a_batch_of_broken_images_only_has_a_reason_for_each():
    def refuse(images):
        if all(image == b"bad" for image in images):
            return "\n".join(f"image {i}: broken" for i in range(len(images)))
        return None

    made = client(refuse=refuse)
    assert [prediction.error for prediction in made.classify([b"bad", b"bad"])] == ["broken", "broken"]
    assert [len(request) for request in made._transport.requests] == [2, 1, 1]


def test_any_other_refusal_is_raised():
    with pytest.raises(RequestRefused, match="k must be"):
        client(refuse=lambda images: "k must be a whole number").classify([b"x"])


@pytest.mark.parametrize("url", ["localhost:8001", "ftp://localhost", "grpc://", "http://host/path", ""])
def test_an_address_it_does_not_know_is_refused(url):
    with pytest.raises(ValueError, match="write grpc://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_nobody_at_the_address_is_one_sentence(scheme):
    done = run_module("jpeg_client", "--url", f"{scheme}://127.0.0.1:1", __file__)
    assert done.returncode == 1
    assert done.stderr == (
        f"jpeg-classify: no Triton answers at {scheme}://127.0.0.1:1: is it running, and is that the right port?\n"
    )


def test_a_wrong_call_exits_with_2(tmp_path):
    for arguments in (["gone.jpg"], ["--url", "nowhere", __file__], [], ["-k", "0", __file__]):
        assert run_module("jpeg_client", *arguments).returncode == 2
    done = run_module("jpeg_client", tmp_path)
    assert done.returncode == 1
    assert "no image found" in done.stderr


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
        ("jpeg_serve", "google.protobuf", "serve", ["check"]),
        ("jpeg_build", "numpy", "build", ["mobilenet_v2"]),
        ("jpeg_build", "tritonclient", "build", ["mobilenet_v2"]),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it(module, package, extra, arguments):
    program = WITHOUT.format(module=module, package=package, arguments=[module, *arguments])
    done = run(sys.executable, "-c", program, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"the package {package}" in done.stderr
    assert f"pip install -e '.[{extra}]' in this project's folder" in done.stderr


@pytest.mark.parametrize("module", ["jpeg_client", "jpeg_serve", "jpeg_build"])
def test_help_states_the_default_of_every_option(module):
    done = run_module(module, "--help")
    assert done.returncode == 0
    options = [part for part in done.stdout.split("\n  -")[1:] if not part.startswith("h,")]
    assert options
    for option in options:
        assert "default" in option or "flag" in option or "--json" in option, option
