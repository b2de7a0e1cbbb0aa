# ruff: noqa: E501  # one row for each case
"""No path, address or traceback reaches a client, over HTTP or gRPC; what the operator needs is in the log."""

import http.client
import json
import re
import shutil
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import serve
from jpeg_serve import state
from jpeg_serve.check import CheckResult, examine_repository
from jpeg_serve.errors import ReloadError, ServerDied
from jpeg_serve.management import Management
from repository.edits import append, parameter
from repository.static_repository import make_repository
from support import ROOT, photo
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

SECRET = "/srv/secret/weights.onnx"

LEAK = re.compile(
    r"(?<![\w<])/\w+/|/srv|/tmp|\.py\b|\bAt:|Traceback|\bline \d|\b0x[0-9a-f]{4,}|\d+\.\d+\.\d+\.\d+|localhost|:\d{4,5}\b|"
    r"jpeg_serve_|[A-Z]\w+Error\b|<\w+ object",
)

# Makes a stage fail at requests with a parameter `fault`, by its own name.
FAULTY = f'''

import json as _json
import os as _os

_Good = TritonPythonModel


class _Unprintable(Exception):
    def __str__(self):
        raise OSError(2, "No such file or directory", "{SECRET}")


_FAULTS = {{
    "path": lambda: open("{SECRET}"),
    "address": lambda: (_ for _ in ()).throw(RuntimeError("object at 0x7f3a5c0012d0 of {SECRET}")),
    "memory": lambda: (_ for _ in ()).throw(MemoryError("{SECRET}")),
    "unprintable": lambda: (_ for _ in ()).throw(_Unprintable("{SECRET}")),
}}


def _fail(requests, name):
    for request in requests:
        place, _, fault = str(_json.loads(request.parameters()).get("fault", "")).partition(":")
        if place == name:
            _FAULTS[fault]()


class TritonPythonModel(_Good):
    def _respond(self, requests):
        _fail(requests, "STAGE")
        self._requests = requests
        return super()._respond(requests)

    def _run(self, tensors):
        _fail(self._requests, "STAGE's network")
        if any("output" in request.parameters() for request in self._requests):
            return [object() for _ in tensors]
        return super()._run(tensors)
'''

BROKEN = f"""\
class TritonPythonModel:
    def initialize(self, args):
        open("{SECRET}")
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("faulty") / "triton.log"


@pytest.fixture(scope="module")
def faulty(log):
    """A server whose stages fail on request, with a model `broken` that does not load."""
    repository = make_repository(log.parent / "model_repository")
    backends = log.parent / "backends"
    shutil.copytree(ROOT / "backends", backends)
    for stage, file in {
        "preprocess": repository / "preprocess" / "1" / "model.py",
        "classifier": backends / "onnxruntime" / "model.py",
        "postprocess": repository / "postprocess" / "1" / "model.py",
    }.items():
        file.write_text(file.read_text() + FAULTY.replace("STAGE", stage))
    broken = repository / "broken"
    (broken / "1").mkdir(parents=True)
    (broken / "1" / "model.py").write_text(BROKEN)
    tensor = "{ name: 'X' data_type: TYPE_FP32 dims: [1] }"
    (broken / "config.pbtxt").write_text(
        f"name: 'broken' backend: 'python' max_batch_size: 1 input {tensor} output {tensor}\n"
    )
    yield from serve(repository, log, backends=backends)


def infer(server, protocol, image, **parameters):
    """Send an image; return the error."""
    module, address = {
        "http": (httpclient, server.http_address),
        "grpc": (grpcclient, server.grpc_address),
    }[protocol]
    tensor = module.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image]], dtype=object))
    with module.InferenceServerClient(address) as client, pytest.raises(InferenceServerException) as caught:
        client.infer("jpeg_classifier", [tensor], parameters=parameters)
    return str(caught.value)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("preprocess", "preprocess failed on this request"),
        ("classifier", "classifier_onnx failed on this request"),
        ("classifier's network", "classifier_onnx failed on this request"),
        ("postprocess", "postprocess failed on this request"),
    ],
)
@pytest.mark.parametrize("fault", ["path", "address", "memory", "unprintable"])
def test_an_exception_of_a_stage_stays_in_the_log(faulty, log, protocol, place, says, fault):
    before = log.stat().st_size
    error = infer(faulty, protocol, photo("coffee"), fault=f"{place}:{fault}")
    assert says in error
    assert not LEAK.search(error), error
    expected = ["Traceback"] if fault == "unprintable" else ["Traceback", SECRET]
    limit = time.monotonic() + 10
    while not all(text in log.read_text()[before:] for text in expected):
        assert time.monotonic() < limit, "the log does not say why"
        time.sleep(0.05)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_output_that_is_no_tensor_stays_in_the_log(faulty, protocol):
    error = infer(faulty, protocol, photo("coffee"), fault="output")
    assert "classifier_onnx failed on this request" in error
    assert not LEAK.search(error), error


def test_the_other_requests_are_answered_after_it(faulty):
    with httpclient.InferenceServerClient(faulty.http_address) as client:
        tensor = httpclient.InferInput("IMAGE", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[photo("coffee")]], dtype=object))
        assert client.infer("jpeg_classifier", [tensor]).as_numpy("INDEX").shape == (1, 5)


def test_the_search_for_leaks_finds_those_of_triton():
    """What 2.51 answers where an exception leaves `execute`, and where its shared memory is full."""
    assert LEAK.search("message: FileNotFoundError: x\n\nAt:\n  /srv/models/preprocess/1/model.py(48): execute\n")
    assert LEAK.search("Failed to increase the shared memory pool size for key 'jpeg_serve_3373_edb66908_70dcdce5'")
    assert LEAK.search("failed to connect to all addresses; last error: ipv4:127.0.0.1:8001")


INPUT = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]}

# Requests over HTTP that are refused: method, path below /v2, body.
REFUSED = {
    "no JSON": ("POST", "/models/jpeg_classifier/infer", "{"),
    "a list": ("POST", "/models/jpeg_classifier/infer", "[]"),
    "no input": ("POST", "/models/jpeg_classifier/infer", {"inputs": []}),
    "unknown input": ("POST", "/models/jpeg_classifier/infer", {"inputs": [{**INPUT, "name": "Y"}]}),
    "unknown output": ("POST", "/models/jpeg_classifier/infer", {"inputs": [INPUT], "outputs": [{"name": "Y"}]}),
    "another type": ("POST", "/models/jpeg_classifier/infer", {"inputs": [{**INPUT, "datatype": "FP32", "data": [1]}]}),
    "no type": ("POST", "/models/jpeg_classifier/infer", {"inputs": [{**INPUT, "datatype": "Y"}]}),
    "another shape": ("POST", "/models/jpeg_classifier/infer", {"inputs": [{**INPUT, "shape": [1, 2]}]}),
    "too many": ("POST", "/models/jpeg_classifier/infer", {"inputs": [{**INPUT, "shape": [65, 1], "data": ["x"] * 65}]}),
    "no JPEG": ("POST", "/models/jpeg_classifier/infer", {"inputs": [INPUT]}),
    "k": ("POST", "/models/jpeg_classifier/infer", {"inputs": [INPUT], "parameters": {"k": 0}}),
    "shared memory": ("POST", "/models/jpeg_classifier/infer", {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 4}}]}),
    "pixels": ("POST", "/models/classifier_onnx/infer", {"inputs": [{"name": "input__0", "datatype": "UINT8", "shape": [1, 3], "data": [1, 2, 3]}]}),
    "unknown model": ("POST", "/models/other/infer", {"inputs": [INPUT]}),
    "a path as model": ("POST", "/models/..%2F..%2Fetc/infer", {"inputs": [INPUT]}),
    "unknown version": ("POST", "/models/jpeg_classifier/versions/7/infer", {"inputs": [INPUT]}),
    "a word as version": ("GET", "/models/jpeg_classifier/versions/x", None),
    "model that did not load": ("POST", "/models/broken/infer", {"inputs": [INPUT]}),
    "its config": ("GET", "/models/broken/config", None),
    "its metadata": ("GET", "/models/broken", None),
    "its statistics": ("GET", "/models/broken/stats", None),
    "the repository": ("POST", "/repository/index", {}),
    "a load": ("POST", "/repository/models/broken/load", {}),
    "logging": ("GET", "/logging", None),
    "tracing": ("GET", "/trace/setting", None),
    "regions": ("GET", "/systemsharedmemory/status", None),
    "unknown path": ("GET", "/other", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(faulty):
    """The server, after a failed try to load the model `broken`; what the holder of the key gets to read."""
    running = state.find_at(faulty.http_address)
    assert running is not None
    with Management(faulty.grpc_address, running.keys, load_s=60) as management, pytest.raises(ReloadError) as caught:
        management.load("broken")
    assert SECRET in str(caught.value), "the operator learns the reason"
    return faulty


@pytest.mark.parametrize(("method", "path", "body"), REFUSED.values(), ids=REFUSED)
def test_refusals_over_http(broken, method, path, body):
    connection = http.client.HTTPConnection(broken.http_address, timeout=30)
    connection.request(method, f"/v2{path}", body if body is None or isinstance(body, str) else json.dumps(body))
    response = connection.getresponse()
    text = f"{response.headers}{response.read().decode()}"
    connection.close()
    assert response.status >= 400
    assert not LEAK.search(text), text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("ModelInfer", service_pb2.ModelInferRequest(model_name="jpeg_classifier")),
        ("ModelInfer", service_pb2.ModelInferRequest(model_name="../../etc")),
        ("ModelInfer", service_pb2.ModelInferRequest(model_name="broken")),
        ("ModelInfer", service_pb2.ModelInferRequest(model_name="jpeg_classifier", model_version="x")),
        ("ModelConfig", service_pb2.ModelConfigRequest(name="broken")),
        ("ModelMetadata", service_pb2.ModelMetadataRequest(name="broken")),
        ("ModelStatistics", service_pb2.ModelStatisticsRequest(name="broken")),
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest()),
        ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="broken")),
        ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest()),
        ("TraceSetting", service_pb2.TraceSettingRequest()),
        ("LogSettings", service_pb2.LogSettingsRequest()),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.ListFields()[:1] and value.ListFields()[0][1]),
)
def test_refusals_over_grpc(broken, call, message):
    with grpc.insecure_channel(broken.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), call)(message, timeout=30)
    error = caught.value
    text = f"{error.details()} {error.trailing_metadata()}"
    assert not LEAK.search(text), text


@pytest.mark.parametrize(
    "change",
    [
        parameter("postprocess", "labels_file", "../../secret.txt"),
        append("classifier_onnx", 'default_model_filename: "../../secret.onnx"'),
    ],
    ids=["labels", "network"],
)
def test_a_model_that_names_a_file_elsewhere_does_not_load_either(tmp_path, monkeypatch, change):
    """Also without `jpeg-serve check`, as in a Triton that somebody else starts."""
    repository = make_repository(tmp_path / "model_repository")
    result = CheckResult([], served_with=examine_repository(repository).served_with)
    monkeypatch.setattr("jpeg_serve.server.examine_repository", lambda *_, **__: result)
    shutil.copyfile(repository / "postprocess" / "labels.txt", tmp_path / "secret.txt")
    shutil.copyfile(repository / "classifier_onnx" / "1" / "model.onnx", repository / "secret.onnx")
    change(repository)
    with pytest.raises(ServerDied) as died:
        next(serve(repository, tmp_path / "triton.log", drain_s=0))
    assert "leads out of" in str(died.value)
