"""SavedModels through TensorFlow, with or without TensorRT engines inside (TF-TRT)."""

from __future__ import annotations

import os

import numpy as np
from jpeg_preprocess.cpus import limited_cpus

from jpeg_backend.batching import Array, Run
from jpeg_backend.model_config import BackendConfigError, ModelConfig

# Read when the library is loaded. Below 3, an import alone prints errors that are none.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A TRTEngineOp that finds no engine for a batch would run TensorFlow's own operations and say so in the log only.
os.environ.setdefault("TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION", "false")

try:
    import tensorflow as tf
except ImportError as missing:
    raise BackendConfigError(
        f"the package tensorflow cannot be imported ({missing}): make build-tensorflow makes an environment with it, "
        "and .venv-tensorflow/bin/jpeg-serve serves from there"
    ) from missing

REBUILD = "build it again on this machine: .venv-tensorflow/bin/jpeg-build RECIPE --backend tf_trt"


def load_saved_model(config: ModelConfig) -> Run:
    """Load a SavedModel onto the instance's GPU or the CPU.

    Parameters, with the native backend's names (README of triton's tensorflow_backend): TF_NUM_INTRA_THREADS and
    TF_NUM_INTER_THREADS (default 0: TensorFlow's choice), TF_GRAPH_TAG (default serve), TF_SIGNATURE_DEF (default
    serving_default). The others say how instances share a session; here each has a process of its own.

    Raises BackendConfigError if the folder is missing or cannot be loaded here, or if its tensors are not those of
    the config.
    """
    if not (config.artefact / "saved_model.pb").is_file():
        raise BackendConfigError(f"{config.artefact.name} is missing: build it with jpeg-build")
    _set_up(config)
    name = config.parameters.get("TF_SIGNATURE_DEF", "serving_default")
    try:
        loaded = tf.saved_model.load(str(config.artefact), tags=[config.parameters.get("TF_GRAPH_TAG", "serve")])
    except Exception as error:
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackendConfigError(
            f"{config.artefact.name} cannot be loaded by TensorFlow {tf.__version__} ({told[:300]}): {REBUILD}"
        ) from error
    if name not in loaded.signatures:
        raise BackendConfigError(
            f"{config.artefact.name} has no signature {name}; it has {', '.join(loaded.signatures) or 'none'}"
        )
    signature = loaded.signatures[name]
    for wanted, tensors, dims in (
        (config.input_name, signature.structured_input_signature[1], config.input_dims),
        (config.output_name, signature.structured_outputs, config.output_dims),
    ):
        if wanted not in tensors:
            raise BackendConfigError(f"{config.artefact.name} has no tensor {wanted}; it has {', '.join(tensors)}")
        shape = tensors[wanted].shape
        if not shape.is_compatible_with((None, *dims)):
            raise BackendConfigError(
                f"{config.artefact.name} has {wanted} of shape {shape}, but the config says {list(dims)} for each image"
            )

    def run(pixels: Array) -> Array:
        # Through `loaded`, which keeps the variables alive: a signature alone does not.
        answer = loaded.signatures[name](**{config.input_name: tf.constant(pixels)})
        return np.ascontiguousarray(answer[config.output_name].numpy())

    return run


def _set_up(config: ModelConfig) -> None:
    """Settings of the whole process, which is this instance's alone."""
    tf.get_logger().setLevel("ERROR")
    # As when the artefact was compared with its network: fp32 is to mean fp32.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.threading.set_intra_op_parallelism_threads(config.integer("TF_NUM_INTRA_THREADS", 0) or limited_cpus())
    tf.config.threading.set_inter_op_parallelism_threads(config.integer("TF_NUM_INTER_THREADS", 0))
    gpus = tf.config.list_physical_devices("GPU")
    if config.gpu is None:
        tf.config.set_visible_devices([], "GPU")
    elif config.gpu >= len(gpus):
        raise BackendConfigError(
            f"TensorFlow {tf.__version__} finds {len(gpus)} GPUs, and this instance belongs to number {config.gpu} "
            f"(nvidia-smi shows what the driver finds; TensorFlow's CUDA libraries come with pip install "
            f"'tensorflow[and-cuda]=={tf.__version__}'), or put the instances on the CPU with kind: KIND_CPU"
        )
    else:
        tf.config.set_visible_devices(gpus[config.gpu], "GPU")
        # Otherwise TensorFlow takes all memory of the GPU at once.
        tf.config.experimental.set_memory_growth(gpus[config.gpu], True)
