"""The Python-based tensorrt backend on a real GPU: a tiny engine, built here and served by the embedded Triton.

Skipped where there is no NVIDIA GPU, or not the packages of the extra `tensorrt`.
"""

import base64
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import tritonclient.http as httpclient
from conftest import serve
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig
from jpeg_serve.errors import ServerDied
from repository.static_repository import make_report
from support import (
    TINY_CLASSES,
    TINY_IMAGE,
    as_parameters,
    classifier_args,
    tiny_classifier,
    tiny_images,
    tiny_logits,
    why_no_cupy_gpu,
)

NAME = "classifier_tensorrt"
SMALLEST, BEST, LARGEST = 2, 4, 8  # of the engine's profile
MAX_BATCH = LARGEST + 1  # of the config: the longest batch is split, the shortest is padded


WHY_NOT = why_no_cupy_gpu(("cupy", "tensorrt", "polygraphy", "onnxruntime"), "serve,tensorrt")
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """An ONNX file of the contract."""
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    tiny_classifier(path)
    return path


@pytest.fixture(scope="module")
def reference(network):
    """ONNX Runtime on the CPU."""
    return tiny_logits(network)


@pytest.fixture(scope="module")
def plan(network):
    """The engine."""
    import tensorrt as trt
    from polygraphy.backend.common import SaveBytes
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile

    # Contexts share a profile by default from TensorRT 9 on. Polygraphy switches off what the list does not name: what
    # TensorRT has on by default is in it, too.
    names = ("FASTER_DYNAMIC_SHAPES_0805", "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", "PROFILE_SHARING_0806")
    config = CreateConfig(
        profiles=[Profile().add("input__0", *((batch, *TINY_IMAGE) for batch in (SMALLEST, BEST, LARGEST)))],
        # No cuBLAS and no cuDNN: a machine may have neither.
        tactic_sources=[trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS],
        preview_features=[getattr(trt.PreviewFeature, name) for name in names]
        if hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806")
        else None,
    )
    path = network.with_name("model.plan")
    SaveBytes(EngineBytesFromNetwork(NetworkFromOnnxPath(str(network)), config), str(path))()
    return path


def close(found, expected):
    """Each kernel sums in an order of its own, and may do so in TF32."""
    np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())


def config(folder, *, gpu=0, graphs=True, **changes):
    fields = {
        "max_batch_size": MAX_BATCH,
        "optimization": {"cuda": {"graphs": graphs}},
        "parameters": as_parameters({"cuda_graph_after": "2"}),
        **changes,
    }
    return ServingConfig.from_triton(classifier_args(folder, "tensorrt", gpu=gpu, name=NAME, **fields))


def load(plan, **changes):
    folder = plan.parent / "1"
    folder.mkdir(exist_ok=True)
    (folder / "model.plan").write_bytes(plan.read_bytes())
    return open_classifier(config(plan.parent, **changes)).loaded


def on_gpu(runner, pixels):
    import cupy

    placed = cupy.asarray(pixels)
    cupy.cuda.Device().synchronize()
    return runner.from_capsule(placed.__dlpack__())


@pytest.mark.parametrize("graphs", [True, False])
def test_batches_of_any_size_run_from_host_and_device_memory(plan, reference, graphs):
    runner = load(plan, graphs=graphs)
    mixed = [[1, 2, 3], [MAX_BATCH, 1], [1] * LARGEST, [20]]
    for sizes in [[size] for size in range(1, MAX_BATCH + 2)] * 3 + mixed:
        parts = [tiny_images(size, seed) for seed, size in enumerate(sizes)]
        given = [on_gpu(runner, part) if place % 2 else part for place, part in enumerate(parts)]
        for found in (runner(parts), runner([on_gpu(runner, part) for part in parts]), runner(given)):
            for logits, part in zip(found, parts, strict=True):
                close(logits, reference(part))
    assert bool(runner.graph_sizes) is graphs


def test_graphs_do_not_change_the_logits(plan):
    with_graphs, without = load(plan), load(plan, graphs=False)
    for size in [1, 3, LARGEST, MAX_BATCH] * 4:
        pixels = tiny_images(size, size)
        assert np.array_equal(with_graphs([pixels])[0], without([pixels])[0])
    assert with_graphs.graph_sizes == [SMALLEST, 3, LARGEST]
    assert without.graph_sizes == []


def test_an_engine_that_cannot_be_served_is_refused(plan, tmp_path):
    broken = tmp_path / "model.plan"
    broken.write_bytes(plan.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match=r"is not an engine for TensorRT .* --backend tensorrt") as caught:
        load(broken)
    assert caught.value.reason == "engine_differs"
    with pytest.raises(ModelLoadError, match=r"output__0 is FLOAT \[5\] for each image, but the config says"):
        load(plan, output=[{"name": "output__0", "dims": [6]}])
    with pytest.raises(ModelLoadError, match="no usable NVIDIA GPU 99"):
        open_classifier(config(plan.parent, gpu=99))
    with pytest.raises(ModelLoadError) as caught:
        open_classifier(config(tmp_path / "gone"))
    assert caught.value.reason == "artefact_missing"


# As the native backend takes it, too. Two instances; the file is named by the compute capability alone.
CONFIG = """
name: "%(name)s"
platform: "tensorrt_plan"
backend: "tensorrt"
max_batch_size: %(max_batch)d
input { name: "input__0" data_type: TYPE_UINT8 dims: [32, 32, 3] }
output { name: "output__0" data_type: TYPE_FP32 dims: [%(classes)d] }
instance_group { count: 2 kind: KIND_GPU gpus: [0] }
dynamic_batching { max_queue_delay_microseconds: 20000 }
optimization { cuda { graphs: %(graphs)s } }
parameters { key: "cuda_graph_after" value { string_value: "2" } }
parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }
cc_model_filenames { key: "%(capability)s" value: "model_here.plan" }
"""

# The backend itself, which also notes in which memory pixels arrive.
WATCHED = """
from pathlib import Path

import triton_python_backend_utils as pb_utils
from jpeg_runtime import triton_model


class TritonPythonModel(triton_model.TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        self._seen = Path(args["model_repository"]).parents[1] / "seen"

    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "input__0") for request in requests]
        with self._seen.open("a") as seen:
            seen.writelines("cpu " if tensor.is_cpu() else "gpu " for tensor in tensors)
        return super().execute(requests)
"""


def repository_with(folder, artefact, *, graphs="true"):
    import cupy

    digits = cupy.cuda.Device(0).compute_capability
    model = folder / "model_repository" / NAME
    (model / "1").mkdir(parents=True)
    served = model / "1" / "model_here.plan"
    served.write_bytes(artefact)
    make_report(served, "tensorrt", recipe="", recipe_sha256="", input=list(TINY_IMAGE), classes=TINY_CLASSES)
    fields = {
        "name": NAME,
        "max_batch": MAX_BATCH,
        "classes": TINY_CLASSES,
        "graphs": graphs,
        "capability": f"{digits[:-1]}.{digits[-1]}",
    }
    (model / "config.pbtxt").write_text(CONFIG % fields)
    (folder / "backends" / "tensorrt").mkdir(parents=True)
    (folder / "backends" / "tensorrt" / "model.py").write_text(WATCHED)
    return model.parent


@pytest.fixture(scope="module", params=["true", "false"])
def served(request, plan, tmp_path_factory):
    """A server, and the file in which the backend notes the memory of pixels."""
    folder = tmp_path_factory.mktemp("served")
    repository = repository_with(folder, plan.read_bytes(), graphs=request.param)
    # A key for the one part, instead of jpeg-serve's for all: tests register shared memory.
    open_memory = ["--http-restricted-api=model-repository:admin-key=test"]
    options = {"load": [NAME], "backends": folder / "backends", "triton": open_memory}
    for server in serve(repository, folder / "triton.log", **options):
        yield server, folder / "seen"


@contextmanager
def device_region(client, name, pixels):
    """Pixels in the memory of GPU 0, which the server opens: CUDA shared memory."""
    from cupy.cuda import runtime

    pointer = runtime.malloc(pixels.nbytes)
    try:
        runtime.memcpy(pointer, pixels.ctypes.data, pixels.nbytes, runtime.memcpyHostToDevice)
        handle = base64.b64encode(runtime.ipcGetMemHandle(pointer)).decode()
        client.register_cuda_shared_memory(name, handle, 0, pixels.nbytes)
        try:
            yield
        finally:
            client.unregister_cuda_shared_memory(name)
    finally:
        runtime.free(pointer)


def infer(server, pixels, region=None):
    client = httpclient.InferenceServerClient(server.http_address)
    tensor = httpclient.InferInput("input__0", pixels.shape, "UINT8")
    with ExitStack() as stack:
        stack.callback(client.close)
        if region is None:
            tensor.set_data_from_numpy(pixels)
        else:
            stack.enter_context(device_region(client, region, pixels))
            tensor.set_shared_memory(region, pixels.nbytes)
        return client.infer(NAME, [tensor]).as_numpy("output__0")


def test_the_embedded_server_serves_requests_from_both_memories_at_once(served, reference):
    server, seen = served
    seen.write_text("")
    sizes = [size for size in range(1, MAX_BATCH + 1) for _ in range(6)]
    batches = [tiny_images(size, seed) for seed, size in enumerate(sizes)]
    with ThreadPoolExecutor(12) as pool:
        responses = list(
            pool.map(
                lambda place: infer(server, batches[place], f"region_{place}" if place % 2 else None),
                range(len(batches)),
            )
        )
    for pixels, logits in zip(batches, responses, strict=True):
        close(logits, reference(pixels))
    places = seen.read_text().split()
    assert len(places) == len(batches)
    # Pixels in GPU memory reach the backend there.
    assert places.count("gpu") == len(batches) // 2


def test_an_engine_that_cannot_be_loaded_keeps_the_model_from_loading(plan, tmp_path):
    repository = repository_with(tmp_path, plan.read_bytes()[:-1000])
    log = tmp_path / "triton.log"
    with pytest.raises(ServerDied):
        next(serve(repository, log, load=[NAME], backends=tmp_path / "backends"))
    assert "model_here.plan is not an engine for TensorRT" in log.read_text()
