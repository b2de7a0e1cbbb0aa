"""Scores of a sigmoid, and thresholds, over every way into a real server.

The network has the logits 8 (espresso), 5 (cup), and at most 0 for all else. The threshold of the model leaves all
out.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc
import tritonclient.http
from client_support import KINDS, streamed
from conftest import serve
from jpeg_bench.pipeline import read_pipeline
from jpeg_client import AsyncClient, Client, InvalidArgument, PixelClient, Prediction
from jpeg_client.arrow import classify_batches
from jpeg_serve import TritonServer
from jpeg_serve.probe import probe
from repository.static_repository import make_repository
from support import PHOTOS, edit, photo, run_module

COFFEE = photo("coffee")
ESPRESSO, CUP = (1 / (1 + math.exp(-logit)) for logit in (8, 5))
MODEL = "jpeg_classifier"

# By thresholds: None is that of the model.
FOUND: dict[float | None, list[str]] = {None: [], 0.6: ["espresso", "cup"], 0.9995: ["espresso"], 0.9999: [], 1: []}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_repository(tmp_path_factory.mktemp("sigmoid") / "model_repository")
    config = made / "postprocess" / "config.pbtxt"
    edit(config, '"softmax"', '"sigmoid"')
    edit(config, '"0.0"', '"0.9999"')
    return made


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    yield from serve(repository, tmp_path_factory.mktemp("server") / "triton.log")


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: TritonServer) -> str:
    return f"grpc://{server.grpc_address}" if request.param == "grpc" else f"http://{server.http_address}"


def post(server: TritonServer, path: str, body: bytes, **headers: str) -> tuple[int, Any, bytes]:
    """Return the status, the JSON of a response, and what follows it. JSON has no NaN."""
    connection = http.client.HTTPConnection(server.http_address, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", f"/v2/models/{MODEL}/{path}", body, names)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    end = int(response.headers.get("Inference-Header-Content-Length") or len(content))

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON: {content!r}")

    return response.status, json.loads(content[:end], parse_constant=refuse), content[end:]


def classify(kind: str, url: str, images: Any, **options: Any) -> Any:
    """What `classify` of a client returns."""
    if kind == "sync":
        with Client(url) as client:
            return client.classify(images, **options)

    async def run() -> Any:
        async with AsyncClient(url) as client:
            return await client.classify(images, **options)

    return asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_gets_the_labels_at_or_above_the_threshold(kind: str, url: str) -> None:
    for threshold, labels in FOUND.items():
        found = classify(kind, url, COFFEE, k=2, threshold=threshold)
        assert found.error is None
        assert list(found.labels) == labels
        assert len(found.scores) == len(found.indices) == len(labels)
    every = classify(kind, url, COFFEE, k=2, threshold=0)
    assert every.scores == pytest.approx((ESPRESSO, CUP), rel=1e-6)
    (best,) = classify(kind, url, [COFFEE], k=2, threshold=every.scores[0])
    assert best.labels == ("espresso",)
    images = [COFFEE, b"no image", COFFEE]
    for each in streamed(kind, url, images, k=3, threshold=0.6, batch_size=3):
        prediction = each.prediction
        assert (prediction.labels, prediction.reason) == (
            ((), "not_jpeg") if each.index == 1 else (("espresso", "cup"), None)
        )


def test_the_model_is_described(url: str) -> None:
    with Client(url) as client:
        found = client.describe()
        assert (found.output, found.threshold) == ("sigmoid", 0.9999)
        with pytest.raises(InvalidArgument) as refused:
            client.classify(COFFEE, threshold=1.5)
    assert refused.value.reason == "invalid_threshold"


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http], ids=["grpc", "http"])
def test_requests_of_other_clients_set_a_threshold(server: TritonServer, module: Any) -> None:
    tensor = module.InferInput("IMAGE", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[COFFEE], [b"no image"]], dtype=object))
    address = server.grpc_address if module is tritonclient.grpc else server.http_address
    with module.InferenceServerClient(address) as client:
        for options in ({"parameters": {"threshold": 0.6}}, {"headers": {"threshold": "0.6"}}):
            result = client.infer(MODEL, [tensor], **options)
            assert result.as_numpy("LABEL").tolist() == [[b"espresso", b"cup", b"", b"", b""], [b""] * 5]
            assert result.as_numpy("INDEX").tolist() == [[967, 968, -1, -1, -1], [-1] * 5]
            np.testing.assert_allclose(result.as_numpy("SCORE"), [[ESPRESSO, CUP, 0, 0, 0], [math.nan] * 5], rtol=1e-6)
            assert [bool(error) for error in result.as_numpy("ERROR").ravel()] == [False, True]
        for wrong in (-1, 2, "high", True):
            with pytest.raises(module.InferenceServerException, match=r"\[invalid_threshold\]$"):
                client.infer(MODEL, [tensor], parameters={"threshold": wrong})


@pytest.mark.parametrize("name", ["threshold", "Threshold"])
def test_raw_bytes_with_a_header(server: TritonServer, name: str) -> None:
    raw = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    status, answer, data = post(server, "infer", COFFEE, **raw, **{name: "0.6"})
    assert status == 200
    assert {each["name"]: each["shape"] for each in answer["outputs"]}["LABEL"] == [1, 5]
    assert b"espresso" in data
    assert b"cup" in data
    assert data.count(struct.pack("<i", -1)) == 3
    status, answer, _ = post(server, "infer", COFFEE, **raw, **{name: "0,6"})
    assert status == 400
    assert answer["error"].endswith("[invalid_threshold]")
    _, answer, _ = post(server, "infer", COFFEE, **raw, k="0")
    assert answer["error"].endswith("[invalid_k]")


def test_json_without_a_client(server: TritonServer) -> None:
    image = base64.b64encode(COFFEE).decode()
    for threshold, labels in FOUND.items():
        body = {"IMAGE": image, "k": 3, **({} if threshold is None else {"threshold": threshold})}
        status, answer, _ = post(server, "generate", json.dumps(body).encode(), Content_Type="application/json")
        assert status == 200
        assert answer["LABEL"] == labels + [""] * (3 - len(labels))
        assert answer["INDEX"] == [967, 968][: len(labels)] + [-1] * (3 - len(labels))
        assert answer["SCORE"][len(labels) :] == [0] * (3 - len(labels))
        assert answer["ERROR"] == ""
    body = {
        "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [image]}],
        "parameters": {"k": 3, "threshold": 0.6},
    }
    status, answer, _ = post(server, "infer", json.dumps(body).encode())
    assert {each["name"]: each["data"] for each in answer["outputs"]}["LABEL"] == ["espresso", "cup", ""]


def test_pixels_get_the_same_labels(server: TritonServer) -> None:
    with PixelClient(f"grpc://{server.grpc_address}") as client:
        pixels = np.zeros((2, 224, 224, 3), np.uint8)
        for threshold, labels in FOUND.items():
            found = client.classify(pixels, k=2, threshold=threshold)
            assert [list(each.labels) for each in found] == [labels] * 2


def test_columns_of_arrow(server: TritonServer) -> None:
    batch = pa.RecordBatch.from_pydict({"image": [COFFEE, None]})
    with Client(f"grpc://{server.grpc_address}") as client:
        (none,) = classify_batches(client, [batch])
        (some,) = classify_batches(client, [batch], threshold=0.6)
    assert none.column("labels").to_pylist() == [[], []]
    assert some.column("labels").to_pylist() == [["espresso", "cup"], []]
    assert none.column("reason").to_pylist() == some.column("reason").to_pylist() == [None, "empty"]


def test_the_command_writes_rows_without_labels(server: TritonServer, tmp_path: Path) -> None:
    image, options = PHOTOS / "coffee.jpg", ("--url", f"grpc://{server.grpc_address}", "-q")

    def rows(*more: str | Path) -> str:
        done = run_module("jpeg_client", image, *options, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert rows("--sort-into", tmp_path / "sorted", "--sort-by", "copy") == f"{image}: no label\n"
    assert (tmp_path / "sorted" / "_unsure" / "coffee.jpg").exists()
    assert rows("--threshold", "0.9995").startswith(f"{image}: espresso 1.000")
    table = rows("-k", "2", "--output", "csv", "--threshold", "0.9995").splitlines()
    assert table[0] == "image,label_1,score_1,index_1,label_2,score_2,index_2,error,reason"
    assert table[1] == f"{image},espresso,0.999665,967,,,,,"
    assert rows("-k", "1", "--output", "csv").splitlines()[1] == f"{image},,,,,"
    assert json.loads(rows("--json"))["labels"] == []
    rows("--to", tmp_path / "rows.parquet")
    (row,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert (row["labels"], row["error"]) == ([], None)
    wrong = run_module("jpeg_client", image, *options, "--threshold", "2")
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("[invalid_call]\n")


def test_examinations_see_the_best_label(server: TritonServer, repository: Path) -> None:
    """Whatever the threshold of the model is."""
    assert probe(server.http_address, repository=repository).label == "espresso"
    doctor = run_module("jpeg_client", "doctor", "--url", f"grpc://{server.grpc_address}")
    assert doctor.returncode == 0, doctor.stderr
    assert "espresso" in doctor.stdout
    assert "threshold 0.9999" in doctor.stdout


def test_measurements_without_the_server_label_as_it_does(server: TritonServer, repository: Path) -> None:
    pipeline = read_pipeline(repository)
    logits = np.full((1, 1000), -1, np.float32)
    logits[0, [967, 968]] = 8, 12
    response = pipeline.open_postprocessor()(logits)
    assert response.labels.tolist() == [[b"cup", b"", b"", b"", b""]]
    with Client(f"grpc://{server.grpc_address}") as client:
        assert client.classify(COFFEE) == Prediction((), (), ())
