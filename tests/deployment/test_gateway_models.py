"""A gateway that opens several models: the real nginx in front of a real server with several ensembles."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from colours import RGB, colour_recipe, plain
from conftest import serve
from gateway_support import RAW_HEADERS, Gateway, Response, infer_request, labels, ports_of, stub
from jpeg_build.build import build
from jpeg_build.build.request import Request
from jpeg_build.recipe.recipe import load_recipe
from jpeg_build.repository.combine import combine
from jpeg_build.repository.use import Trial, try_beside
from jpeg_client import Client, RequestRefused
from jpeg_contract.forms import FORMS
from jpeg_contract.model_names import ModelNames
from jpeg_serve import TritonServer
from support import run
from tritonclient.grpc import service_pb2

DOGS = {"poodle": RGB["green"], "husky": RGB["blue"], "pug": RGB["red"]}
CATS = {"tabby": RGB["red"], "siamese": RGB["white"]}
BIRDS = {"robin": RGB["red"], "parrot": RGB["green"], "jay": RGB["blue"]}
FISH = {"cod": RGB["red"], "eel": RGB["green"]}

OPEN = ("jpeg_classifier", "cats", "birds", "both")
READ_METHODS = ("ModelReady", "ModelMetadata", "ModelConfig")

schemes = pytest.mark.parametrize("scheme", ["https", "grpcs"])


def put(root: Path, recipe: Path, ensemble: str, **more: Any) -> None:
    build(Request(load_recipe(recipe), root, ensemble=ensemble, **more), lambda line: None)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dogs with a softmax; cats, of several labels, which use their `preprocess`; birds of other pixels and formats,
    split between two forms; dogs and cats on one image; fish, which stay closed."""
    folder = tmp_path_factory.mktemp("several")
    root = folder / "model_repository"
    put(root, colour_recipe(folder, "dogs", DOGS), "jpeg_classifier")
    put(root, colour_recipe(folder, "cats", CATS, more='output = "sigmoid"\nthreshold = 0.25\n'), "cats")
    birds = colour_recipe(folder, "birds", BIRDS, size=48, more='formats = ["jpeg", "png"]\n')
    put(root, birds, "birds")
    put(root, birds, "birds", backend="openvino")
    try_beside(root, FORMS["openvino"].of("birds"), None, Trial("split", 50))
    combine(root, ModelNames("both"), ["jpeg_classifier", "cats"])
    put(root, colour_recipe(folder, "fish", FISH, size=40), "fish")
    return root


@pytest.fixture(scope="module")
def several(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    yield from serve(repository, tmp_path_factory.mktemp("log") / "triton.log")


@pytest.fixture(scope="module")
def gateway(several: TritonServer) -> Iterator[Gateway]:
    with Gateway([ports_of(several)], {"MODELS": " ".join(OPEN), "PRIVATE_MODELS": "fish"}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def steps(repository: Path) -> list[str]:
    """What the server has loaded beside the open models and the closed ensemble."""
    return sorted({path.parent.name for path in repository.glob("*/config.pbtxt")} - {*OPEN, "fish"})


def connect(gateway: Gateway, scheme: str, model: str) -> Client:
    endpoint = gateway.endpoint
    url = f"{scheme}://localhost:{endpoint.port}"
    return Client(url, api_key=endpoint.key, ca=endpoint.certificate, model=model)


def raw(gateway: Gateway, model: str, **headers: str) -> Response:
    """Send a red image as it is."""
    return gateway.request(f"/v2/models/{model}/infer", plain("red"), {**RAW_HEADERS, **headers})


def grpc_status(gateway: Gateway, method: str, request: Any) -> str:
    with gateway.endpoint.channel() as channel:
        try:
            getattr(stub(channel), method)(request, metadata=gateway.endpoint.metadata())
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def read(gateway: Gateway, method: str, model: str) -> str:
    return grpc_status(gateway, method, getattr(service_pb2, f"{method}Request")(name=model))


# --- What is open ---


@schemes
@pytest.mark.parametrize(
    ("model", "label"), [("jpeg_classifier", "pug"), ("cats", "tabby"), ("birds", "robin"), ("both", "pug")]
)
def test_each_open_model_answers_by_its_name(gateway: Gateway, scheme: str, model: str, label: str) -> None:
    with connect(gateway, scheme, model) as client:
        assert client.classify(plain("red"), k=1).labels == (label,)
    assert labels(raw(gateway, model))[0] == label


@pytest.mark.parametrize("model", OPEN)
def test_each_open_model_is_described(gateway: Gateway, model: str) -> None:
    for rest in ("", "/ready", "/config"):
        assert gateway.request(f"/v2/models/{model}{rest}").status == 200, rest
        assert gateway.request(f"/v2/models/{model}{rest}", key=False).status == 401, rest
    assert {read(gateway, method, model) for method in READ_METHODS} == {"OK"}


@schemes
@pytest.mark.parametrize("model", OPEN)
def test_the_client_describes_a_model_as_without_the_gateway(
    gateway: Gateway, several: TritonServer, scheme: str, model: str
) -> None:
    with Client(f"grpc://{several.grpc_address}", model=model) as direct, connect(gateway, scheme, model) as through:
        assert through.describe() == direct.describe()


@schemes
def test_the_command_works_in_full(gateway: Gateway, scheme: str, tmp_path: Path) -> None:
    """`doctor`, the formats of a folder's files, the columns of CSV, and the threshold."""
    endpoint = gateway.endpoint
    environment = {**os.environ, "JPEG_API_KEY": endpoint.key}
    options = ["--url", f"{scheme}://localhost:{endpoint.port}", "--ca", str(endpoint.certificate)]

    def classify(*arguments: str | Path) -> str:
        done = run(sys.executable, "-m", "jpeg_client", *arguments, *options, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(classify("doctor", "--json", "--model", "cats"))
    assert [finding["ok"] for finding in found["findings"]] == [True] * 5
    assert "threshold 0.25" in found["findings"][2]["detail"]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "red.jpg").write_bytes(plain("red"))
    (photos / "no.png").write_bytes(b"no image")
    # A folder's files of formats that the model does not decode are skipped, the others are sent.
    assert len(classify(photos, "--model", "cats").splitlines()) == 1
    header, *rows = classify(photos / "red.jpg", "--model", "cats", "--output", "csv").splitlines()
    assert header.count("label") == len(CATS)
    assert len(rows) == 1
    counts = [
        len(json.loads(classify(photos / "red.jpg", "--json", "--model", "cats", "--threshold", least))["labels"])
        for least in ("0", "0.5", "1")
    ]
    assert counts == [2, 1, 0], counts


@schemes
def test_the_formats_of_each_model_are_read(gateway: Gateway, scheme: str) -> None:
    formats = []
    for model in ("cats", "birds"):
        with connect(gateway, scheme, model) as client:
            formats.append(client.describe().formats)
    assert formats == [("jpeg",), ("jpeg", "png")]


def test_the_threshold_of_a_raw_image_is_a_header(gateway: Gateway) -> None:
    """Over HTTP only listed headers pass."""
    assert labels(raw(gateway, "cats", threshold="0")).count("") == 0
    assert labels(raw(gateway, "cats", threshold="1")).count("") == 2
    with gateway.endpoint.channel() as channel:
        metadata = gateway.endpoint.metadata(threshold="1")
        response = stub(channel).ModelInfer(infer_request(plain("red"), "cats"), metadata=metadata)
    assert np.frombuffer(response.raw_output_contents[2], np.int32).tolist() == [-1, -1]


def test_the_limits_hold_for_all_models_together(several: TritonServer) -> None:
    settings: dict[str, str | int] = {"MODELS": "jpeg_classifier cats", "RATE": 1, "BURST": 2}
    with Gateway([ports_of(several)], settings) as gateway:
        statuses = [raw(gateway, model).status for model in ("jpeg_classifier", "cats") * 3]
    assert statuses == [200] * 3 + [429] * 3


# --- What stays closed ---


def test_the_server_has_the_steps(steps: list[str]) -> None:
    """So that the tests below refuse what exists."""
    expected = {"preprocess", "postprocess", "classifier_onnx", "cats_postprocess", "cats_classifier_onnx"}
    expected |= {f"birds_{step}" for step in ("preprocess", "router", "classifier_openvino", "postprocess")}
    assert expected | {"fish_preprocess", "fish_classifier_onnx"} <= set(steps)


def test_steps_take_no_inference(gateway: Gateway, steps: list[str]) -> None:
    good = infer_request(plain("red")).SerializeToString()
    with gateway.endpoint.channel() as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for model in ["fish", *steps]:
            assert raw(gateway, model).status == 404, model
            assert grpc_status(gateway, "ModelInfer", infer_request(plain("red"), model)) == "PERMISSION_DENIED", model
            # Protobuf takes the last of two names.
            twice = good + service_pb2.ModelReadyRequest(name=model).SerializeToString()
            with pytest.raises(grpc.RpcError) as refused:
                infer(twice, metadata=gateway.endpoint.metadata())
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED, model
        infer(good, metadata=gateway.endpoint.metadata())


def test_of_steps_only_the_config_is_open(gateway: Gateway, steps: list[str]) -> None:
    """The client reads formats, threshold and classes there; a config changes no state."""
    own = [step for step in steps if not step.startswith("fish")]
    for model in own:
        statuses = [gateway.request(f"/v2/models/{model}{rest}").status for rest in ("/config", "", "/ready", "/stats")]
        assert statuses == [200, 404, 404, 404], model
        assert gateway.request(f"/v2/models/{model}/config", key=False).status == 401, model
        assert gateway.request(f"/v2/models/{model}/config", b"{}").status == 405, model
        assert [read(gateway, method, model) for method in READ_METHODS] == [*["PERMISSION_DENIED"] * 2, "OK"], model
    for model in ("fish", *(step for step in steps if step not in own), "other", "other_preprocess", "x"):
        assert gateway.request(f"/v2/models/{model}/config").status == 404, model
        assert {read(gateway, method, model) for method in READ_METHODS} == {"PERMISSION_DENIED"}, model


def test_refusals_name_the_open_models(gateway: Gateway) -> None:
    with connect(gateway, "grpcs", "fish") as client, pytest.raises(RequestRefused) as refused:
        client.classify(plain("red"))
    assert refused.value.reason == "forbidden"
    assert all(model in str(refused.value) for model in OPEN)


@pytest.mark.parametrize("path", ["/v2/models/CATS/infer", "/v2/models/cat%73/infer", "/v2/models/cats/infer?x"])
def test_alternative_spelling_of_a_name_is_refused(gateway: Gateway, path: str) -> None:
    assert gateway.request(path, plain("red"), RAW_HEADERS).status == 404


def test_unnamed_models_are_closed_by_default(several: TritonServer) -> None:
    """`jpeg_classifier` and its steps are closed, but for the config of the `preprocess` that models share."""
    with Gateway([ports_of(several)], {"MODELS": "cats"}) as gateway, connect(gateway, "grpcs", "cats") as client:
        assert client.describe().formats == ("jpeg",)
        assert client.classify(plain("red"), k=1).labels == ("tabby",)
        good = infer_request(plain("red"), "cats").SerializeToString()
        for model in ("jpeg_classifier", "classifier_onnx", "postprocess"):
            second = service_pb2.ModelReadyRequest(name=model).SerializeToString()
            with gateway.endpoint.channel() as channel, pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                    good + second, metadata=gateway.endpoint.metadata()
                )
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED, model
            assert gateway.request(f"/v2/models/{model}/config").status == 404, model


def test_a_combined_model_alone_classifies(several: TritonServer) -> None:
    """Its steps belong to closed models, so it is not described."""
    with Gateway([ports_of(several)], {"MODELS": "both"}) as gateway, connect(gateway, "https", "both") as client:
        first, second = client.classify([plain("red"), plain("white")], k=1)
        assert (first.labels, second.others["cats"].labels) == (("pug",), ("siamese",))
        with pytest.raises(RequestRefused) as refused:
            client.describe()
        assert refused.value.reason == "not_found"


# --- The settings ---


def test_many_models_with_long_names(gateway: Gateway) -> None:
    """nginx reads 4,096 bytes of one argument."""
    names = [f"{'x' * 60}_{number}" for number in range(10, 40)]
    done = gateway.command(
        "check",
        GATEWAY_RUN=str(gateway.folder / "many"),
        GATEWAY_MODELS=" ".join(names[:20]),
        GATEWAY_PRIVATE_MODELS=" ".join(names[20:]),
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"GATEWAY_MODELS": "cats dogs cats"}, "cats twice"),
        ({"GATEWAY_MODELS": "cats", "GATEWAY_PRIVATE_MODELS": "dogs cats"}, "cats"),
        ({"GATEWAY_MODELS": " "}, "GATEWAY_MODELS"),
        ({"GATEWAY_MODELS": "a" * 100}, "GATEWAY_MODELS"),
        ({"GATEWAY_MODEL": "cats"}, "GATEWAY_MODELS"),
    ],
)
def test_contradictions_are_refused(gateway: Gateway, settings: dict[str, str], fact: str) -> None:
    done = gateway.command("check", **settings)
    assert done.returncode == 2
    assert re.search(fact, done.stderr)
