"""The Python-based onnxruntime backend when a network fails while it runs."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import onnx
import pytest
import tritonclient.http as httpclient
from conftest import serve
from jpeg_client import Client, RequestRefused
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.report import ArtefactFile, read_report, write_report
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support import encode, wait_for_batches

DARK, BRIGHT = (encode(Image.new("RGB", (64, 64), colour)) for colour in ("#202020", "#f0f0f0"))


def network_that_fails_on_bright_images(path):
    """Write a network that looks up the brightest value in a table of 200 rows: ONNX Runtime refuses larger ones."""
    table = np.tile(np.arange(1000, dtype=np.float32), (200, 1))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input__0"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["pixels"], ["brightest"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Cast", ["brightest"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["output__0"], axis=0),
        ],
        "fragile",
        [helper.make_tensor_value_info("input__0", TensorProto.UINT8, ["batch", 224, 224, 3])],
        [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, ["batch", 1000])],
        [numpy_helper.from_array(table, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


@pytest.fixture
def fragile(repository, tmp_path):
    artefact = repository / "classifier_onnx" / "1" / "model.onnx"
    network_that_fails_on_bright_images(artefact)
    file = ArtefactFile(file=artefact.name, sha256=artefact_sha256(artefact))
    write_report(msgspec.structs.replace(read_report(artefact), artefact=file), artefact)
    for model in ("preprocess", "classifier_onnx"):
        wait_for_batches(repository / model, 4, seconds=10)
    yield from serve(repository, tmp_path / "triton.log")


def test_a_request_that_fails_does_not_affect_others(fragile, tmp_path):
    def classify(image):
        with Client(f"grpc://{fragile.grpc_address}", retry=False) as client:
            try:
                return client.classify([image], k=1)[0].indices
            except RequestRefused as refusal:
                return str(refusal)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(classify, [DARK, BRIGHT, DARK, DARK]))
    assert found[0] == found[2] == found[3] == (999,)
    assert found[1] == "classifier_onnx failed on this request; the server's log says why"
    # They were one batch, and the details are in the log only.
    assert "a batch of 4 requests failed" in (tmp_path / "triton.log").read_text()
    client = httpclient.InferenceServerClient(fragile.http_address)
    tensor = httpclient.InferInput("IMAGE", [4, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[BRIGHT]] * 4, dtype=object))
    with pytest.raises(httpclient.InferenceServerException) as caught:
        client.infer("jpeg_classifier", [tensor])
    assert caught.value.status() == "500"
    client.close()
