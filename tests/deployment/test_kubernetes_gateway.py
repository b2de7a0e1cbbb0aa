"""The chart's gateway, run from its rendered ConfigMap and environment in front of a real server, and a stranger at it.

The server has the options of the chart's Deployment. What a pod adds is replaced: paths, ports, and the two Secrets.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import helm_python
import pytest
import yaml
from conftest import serve
from gateway_support import INFER, Gateway, infer_request, labels, ports_of, small_jpeg, stub
from jpeg_serve import TritonServer
from support import ROOT
from tritonclient.grpc import service_pb2

PRIVATE = ("preprocess", "classifier_onnx", "postprocess")
# What the pod's volumes and network decide.
OF_THE_POD = {"SERVERS", "ADDRESS", "PORT", "KEYS", "CERTIFICATE", "CERTIFICATE_KEY", "RUN"}


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    with helm_python.Chart.load(ROOT / "deploy/kubernetes/chart") as chart:
        rendered = chart.render({}, name="demo", namespace="vision")
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module")
def containers(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
    return {container["name"]: container for container in deployment["spec"]["template"]["spec"]["containers"]}


@pytest.fixture(scope="module")
def behind(
    built_repository: Path, tmp_path_factory: pytest.TempPathFactory, containers: dict[str, dict[str, Any]]
) -> Iterator[TritonServer]:
    arguments = containers["server"]["args"]
    split = arguments.index("--")
    own = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[:split])
    yield from serve(
        built_repository,
        tmp_path_factory.mktemp("behind") / "triton.log",
        address=own["address"],
        drain_s=int(own["drain-s"]),
        triton=tuple(arguments[split + 1 :]),
    )


@pytest.fixture(scope="module")
def gateway(
    behind: TritonServer, documents: list[dict[str, Any]], containers: dict[str, dict[str, Any]]
) -> Iterator[Gateway]:
    (files,) = [document["data"] for document in documents if document["kind"] == "ConfigMap"]
    variables = {each["name"].removeprefix("GATEWAY_"): each["value"] for each in containers["gateway"]["env"]}
    settings = {name: value for name, value in variables.items() if name not in OF_THE_POD}
    assert variables.keys() >= OF_THE_POD
    with Gateway([ports_of(behind)], settings, files=files) as gateway:
        yield gateway


def outcome(gateway: Gateway, method: str, message: bytes, **options: Any) -> str:
    """Send bytes to a method of Triton's service with the key, and return the name of the status."""
    with gateway.endpoint.channel() as channel:
        path = f"/inference.GRPCInferenceService/{method}"
        call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(message, metadata=gateway.endpoint.metadata(), timeout=20, **options)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def test_a_photo_is_labelled(gateway: Gateway) -> None:
    assert labels(gateway.classify(small_jpeg()))[0] == "espresso"
    assert outcome(gateway, "ModelInfer", infer_request(small_jpeg()).SerializeToString()) == "OK"
    assert gateway.command("health").returncode == 0


def test_other_machines_reach_no_port_of_the_server_but_the_metrics(behind: TritonServer) -> None:
    """127.0.0.2 stands for another address of this machine: who listens on 127.0.0.1 only has nothing there."""
    for port in (behind.options.http_port, behind.options.grpc_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)
    socket.create_connection(("127.0.0.2", behind.options.metrics_port), timeout=5).close()


def test_stranger_without_a_key_gets_nothing(gateway: Gateway) -> None:
    assert gateway.classify(small_jpeg(), key=False).status == 401
    assert gateway.request("/v2/models/jpeg_classifier/config", key=False).status == 401
    with gateway.endpoint.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        stub(channel).ModelInfer(infer_request(small_jpeg()), timeout=20)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("model", PRIVATE)
def test_models_inside_are_closed(gateway: Gateway, model: str) -> None:
    assert gateway.request(f"/v2/models/{model}").status == 404
    assert gateway.request(f"/v2/models/{model}/infer", b"{}").status == 404
    assert outcome(gateway, "ModelInfer", infer_request(small_jpeg(), model).SerializeToString()) == "PERMISSION_DENIED"


def test_versions_are_closed(gateway: Gateway) -> None:
    assert gateway.request("/v2/models/jpeg_classifier/versions/1/infer", b"{}").status == 404
    assert gateway.request("/v2/models/jpeg_classifier/versions/1").status == 404
    request = infer_request(small_jpeg())
    request.model_version = "1"
    assert outcome(gateway, "ModelInfer", request.SerializeToString()) == "PERMISSION_DENIED"
    request = service_pb2.ModelMetadataRequest(name="jpeg_classifier", version="1")
    assert outcome(gateway, "ModelMetadata", request.SerializeToString()) == "PERMISSION_DENIED"


def test_compressed_bodies_are_closed(gateway: Gateway) -> None:
    assert gateway.classify(small_jpeg(), {"Content-Encoding": "gzip"}).status == 415
    message = infer_request(small_jpeg()).SerializeToString()
    assert outcome(gateway, "ModelInfer", message, compression=grpc.Compression.Gzip) == "UNIMPLEMENTED"


def test_requests_that_end_a_server_are_closed(gateway: Gateway, behind: TritonServer) -> None:
    deep = gateway.request(INFER, b'{"inputs":' + b"[" * 200_000)
    assert (deep.status, deep.error.rpartition(" ")[2]) == (413, "[json_too_long]")
    classification = {"inputs": [], "outputs": [{"name": "LABEL", "parameters": {"classification": 3}}]}
    refused = gateway.request(INFER, json.dumps(classification).encode())
    assert (refused.status, refused.error.rpartition(" ")[2]) == (400, "[parameter_refused]")
    request = infer_request(small_jpeg())
    request.outputs.add(name="LABEL").parameters["classification"].int64_param = 3
    assert outcome(gateway, "ModelInfer", request.SerializeToString()) == "INVALID_ARGUMENT"
    assert behind.poll() is None


def test_shared_memory_is_closed(gateway: Gateway) -> None:
    for path in ("/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status"):
        assert gateway.request(path).status == 404
    assert gateway.request("/v2/systemsharedmemory/region/x/register", b"{}").status == 404
    for method in ("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "CudaSharedMemoryRegister"):
        assert outcome(gateway, method, b"") == "UNIMPLEMENTED"
    request = infer_request(small_jpeg())
    request.inputs[0].parameters["shared_memory_region"].string_param = "x"
    assert outcome(gateway, "ModelInfer", request.SerializeToString()) == "INVALID_ARGUMENT"


def test_control_of_the_server_is_closed(gateway: Gateway) -> None:
    for path in ("repository/index", "repository/models/preprocess/load", "logging", "trace/setting"):
        assert gateway.request(f"/v2/{path}", b"{}").status == 404
    for path in ("/metrics", "/v2/logging", "/v2/models/stats"):
        assert gateway.request(path).status == 404
    for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"):
        assert outcome(gateway, method, b"") == "UNIMPLEMENTED"
