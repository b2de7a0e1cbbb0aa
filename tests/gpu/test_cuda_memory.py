"""Pixels in the memory of a real GPU, shared with the server, on their way to a TensorRT engine.

Skipped where there is no NVIDIA GPU, or not the packages of the extra `tensorrt` and cuda-python.
"""

import signal
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import tritonclient.grpc
from conftest import serve
from jpeg_client import InvalidArgument, PixelClient
from jpeg_client import shared_memory as regions
from jpeg_contract.folders import SHARED_MEMORY
from jpeg_contract.report import Requirements
from jpeg_serve.state import find_at
from repository.edits import add_classifier
from repository.static_repository import make_repository
from support import why_no_cupy_gpu

KEY = "a-key-of-clients-of-this-machine"
CLASSES = 1000
LARGEST = 64

WHY_NOT = why_no_cupy_gpu(("cupy", "tensorrt", "polygraphy", "onnx", "cuda.bindings"), "serve,build,tensorrt")
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)


def reference(weights, pixels):
    return pixels.astype(np.float32).mean(axis=(1, 2)) @ weights


@pytest.fixture(scope="module")
def plan(weights):
    """An engine whose logits are linear in the mean colour of an image."""
    import tensorrt as trt
    from onnx import TensorProto, helper, numpy_helper
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxBytes, Profile

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input__0"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=1),  # (N, 1, 1, 3)
            helper.make_node("Reshape", ["means", "columns"], ["colours"]),  # (N, 3, 1)
            helper.make_node("Mul", ["colours", "weights"], ["products"]),
            helper.make_node("ReduceSum", ["products", "axis"], ["output__0"], keepdims=0),
        ],
        "linear",
        [helper.make_tensor_value_info("input__0", TensorProto.UINT8, ["batch", 224, 224, 3])],
        [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            numpy_helper.from_array(np.array([-1, 3, 1], np.int64), "columns"),
            numpy_helper.from_array(weights[None], "weights"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    config = CreateConfig(
        profiles=[Profile().add("input__0", *((batch, 224, 224, 3) for batch in (1, 8, LARGEST)))],
        # No cuBLAS and no cuDNN: a machine may have neither.
        tactic_sources=[trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS],
    )
    return bytes(EngineBytesFromNetwork(NetworkFromOnnxBytes(model.SerializeToString()), config)())


@pytest.fixture(scope="module")
def server(plan, tmp_path_factory):
    import cupy
    import tensorrt

    folder = tmp_path_factory.mktemp("served")
    repository = make_repository(folder / "model_repository")
    digits = cupy.cuda.Device(0).compute_capability
    requires = Requirements(compute_capability=f"{digits[:-1]}.{digits[-1]}", tensorrt=tensorrt.__version__)
    config = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
    add_classifier(repository, "tensorrt", {"model.plan": plan}, config=config, requires=requires, probe=[])
    (folder / "key").write_text(KEY)
    yield from serve(repository, folder / "triton.log", shared_memory_key_file=folder / "key")


@pytest.fixture
def url(server):
    return f"grpc://{server.grpc_address}"


@pytest.fixture
def registered(server):
    """A function that lists the regions of GPU memory that the server knows."""
    running = find_at(server.http_address)
    assert running is not None
    name, value = running.keys["shared-memory"]
    with closing(tritonclient.grpc.InferenceServerClient(server.grpc_address)) as triton:

        def names():
            headers = {f"triton-grpc-protocol-{name}": value}
            return set(triton.get_cuda_shared_memory_status(headers=headers, as_json=True).get("regions", {}))

        yield names


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_arrays_of_the_host_and_of_the_gpu_get_the_same_logits_as_messages(url, weights, registered):
    import cupy

    random = np.random.default_rng(1)
    with PixelClient(url) as messages, PixelClient(url, shared_memory="cuda", shared_memory_key=KEY) as memory:
        for count in (1, 3, LARGEST, LARGEST + 5, 2):
            pixels = random.integers(0, 256, (count, 224, 224, 3), np.uint8)
            expected = messages.logits(pixels)
            close(expected, reference(weights, pixels))
            assert np.array_equal(memory.logits(pixels), expected)
            assert np.array_equal(memory.logits(cupy.asarray(pixels)), expected)
        labels = memory.classify(pixels, k=1)
        assert [each.indices[0] for each in labels] == reference(weights, pixels).argmax(axis=1).tolist()
        assert len(registered()) == 1
        for client, wrong in ((memory, cupy.asarray(pixels)[:, ::-1]), (messages, cupy.asarray(pixels))):
            with pytest.raises(InvalidArgument) as error:
                client.logits(wrong)
            assert error.value.reason == "invalid_pixels"
        assert np.array_equal(memory.logits(pixels), expected)
    assert registered() == set()


CRASHING = """
import sys
import numpy as np
from jpeg_client import PixelClient
client = PixelClient(sys.argv[1], shared_memory="cuda", shared_memory_key=sys.argv[2])
client.logits(np.zeros((64, 224, 224, 3), np.uint8))
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_client_leaves_on_the_gpu_is_freed_by_the_next(url, registered):
    import cupy

    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    with PixelClient(url, shared_memory="cuda", shared_memory_key=KEY) as first:
        first.logits(pixels)
    free_before = cupy.cuda.runtime.memGetInfo()[0]
    command = [sys.executable, "-c", CRASHING, url, KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crashing:
        assert crashing.stdout is not None
        assert crashing.stdout.readline() == "ready\n"
        (left,) = registered()
        crashing.send_signal(signal.SIGKILL)
        crashing.wait(timeout=20)
    assert registered() == {left}
    with PixelClient(url, shared_memory="cuda", shared_memory_key=KEY) as following:
        following.logits(pixels)
        assert left not in registered()
    assert registered() == set()
    assert not list(SHARED_MEMORY.glob(f"{regions.PREFIX}{url.rpartition(':')[2]}-*"))
    assert cupy.cuda.runtime.memGetInfo()[0] > free_before - 64 * 224 * 224 * 3
