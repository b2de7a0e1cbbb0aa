"""The classifier through Triton's example clients for images: what they read of a model, and what they send.

`image_client.py` and `grpc_image_client.py` of triton-inference-server/client take any model with one image input whose
config states its layout; `-s NONE` sends pixels as they are.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from PIL import Image
from support import photo
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

MODEL = "classifier_onnx"


@pytest.fixture(params=["grpc", "http"])
def triton(request, server):
    """tritonclient's module and a client, for each protocol."""
    module = grpc_client if request.param == "grpc" else http_client
    address = server.grpc_address if request.param == "grpc" else server.http_address
    with module.InferenceServerClient(address) as client:
        yield module, client


def described(triton):
    """Metadata and config of the classifier, in the form of the gRPC protocol."""
    module, client = triton
    if module is grpc_client:
        return (
            client.get_model_metadata(MODEL, as_json=True),
            client.get_model_config(MODEL, as_json=True)["config"],
        )
    return client.get_model_metadata(MODEL), client.get_model_config(MODEL)


def test_metadata_and_config_state_one_image_with_its_layout_and_one_vector(triton):
    metadata, config = described(triton)
    assert len(metadata["inputs"]) == len(metadata["outputs"]) == len(config["input"]) == 1
    assert metadata["outputs"][0]["datatype"] == "FP32"
    batch, *vector = map(int, metadata["outputs"][0]["shape"])
    assert (batch, len([length for length in vector if length > 1])) == (-1, 1)
    assert int(config["max_batch_size"]) > 0
    assert len(metadata["inputs"][0]["shape"]) == 4
    layout = config["input"][0]["format"]
    known = model_config_pb2.ModelInput.Format.keys()
    assert layout in known
    assert layout == "FORMAT_NHWC"


@pytest.mark.parametrize("batch", [1, 3])
def test_pixels_sent_as_they_are_get_the_class_of_the_photo(triton, batch):
    module, client = triton
    metadata, _ = described(triton)
    tensor, output = metadata["inputs"][0], metadata["outputs"][0]
    _, height, width, channels = map(int, tensor["shape"])
    assert channels == 3
    image = Image.open(io.BytesIO(photo("coffee"))).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image).astype(triton_to_np_dtype(tensor["datatype"]))
    batched = np.stack([pixels] * batch)
    sent = module.InferInput(tensor["name"], list(batched.shape), tensor["datatype"])
    sent.set_data_from_numpy(batched)
    outputs = [module.InferRequestedOutput(output["name"], class_count=3)]
    found = client.infer(MODEL, [sent], outputs=outputs).as_numpy(output["name"])
    assert found.shape == (batch, 3)
    for row in found:
        score, index, label = row[0].decode().split(":")
        assert label == "espresso"
        assert int(index) == 967
        assert float(score) > 5
