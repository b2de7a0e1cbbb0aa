"""SavedModels through TensorFlow, with or without TensorRT engines inside (TF-TRT)."""

from __future__ import annotations

import os

import numpy as np
from jpeg_contract.forms import TensorFlowParameters

from jpeg_runtime.batching import Array, Run
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig

# Read when the library is loaded. Below 3, a mere import prints harmless errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A TRTEngineOp that finds no engine for a batch would run TensorFlow's own operations and say so in the log only.
os.environ.setdefault("TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION", "false")

import tensorflow as tf  # the variables above are read when it is loaded

REBUILD = "build it again on this machine: jpeg-build RECIPE --backend tf_trt"


def load(config: ServingConfig) -> Run:
    """Load a SavedModel onto the instance's GPU or the CPU, with the parameters of TensorFlowParameters.

    Raises:
        ModelLoadError: The folder is missing or cannot be loaded here, or its tensors are not those of the config.
        SettingsError: A parameter has a value that cannot be used.
    """
    if not (config.artefact / "saved_model.pb").is_file():
        raise ModelLoadError(f"{config.artefact.name} is missing: build it with jpeg-build", reason="artefact_missing")
    options = config.options(TensorFlowParameters)
    _set_up(config, options)
    name = options.signature_def
    try:
        loaded = tf.saved_model.load(str(config.artefact), tags=[options.graph_tag])
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelLoadError(
            f"{config.artefact.name} cannot be loaded by TensorFlow {tf.__version__} ({reason[:300]}): {REBUILD}"
        ) from error
    if name not in loaded.signatures:
        raise ModelLoadError(
            f"{config.artefact.name} has no signature {name}; it has {', '.join(loaded.signatures) or 'none'}"
        )
    signature = loaded.signatures[name]
    for wanted, tensors, dims in (
        (config.input_name, signature.structured_input_signature[1], config.input_dims),
        (config.output_name, signature.structured_outputs, config.output_dims),
    ):
        if wanted not in tensors:
            raise ModelLoadError(f"{config.artefact.name} has no tensor {wanted}; it has {', '.join(tensors)}")
        shape = tensors[wanted].shape
        if not shape.is_compatible_with((None, *dims)):
            raise ModelLoadError(
                f"{config.artefact.name} has {wanted} of shape {shape}, but the config says {list(dims)} for each image"
            )

    def run(pixels: Array) -> Array:
        # Through `loaded`, which keeps the variables alive: a signature alone does not.
        outputs = loaded.signatures[name](**{config.input_name: tf.constant(pixels)})
        return np.ascontiguousarray(outputs[config.output_name].numpy())

    return run


def _set_up(config: ServingConfig, options: TensorFlowParameters) -> None:
    """Apply the settings of the whole process, which serves this instance only."""
    tf.get_logger().setLevel("ERROR")
    # As when the artefact was compared with its network: fp32 is to mean fp32.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.threading.set_intra_op_parallelism_threads(options.num_intra_threads or config.limited_cpus)
    tf.config.threading.set_inter_op_parallelism_threads(options.num_inter_threads)
    gpus = tf.config.list_physical_devices("GPU")
    if config.gpu is None:
        tf.config.set_visible_devices([], "GPU")
    elif config.gpu >= len(gpus):
        raise ModelLoadError(
            f"TensorFlow {tf.__version__} finds {len(gpus)} GPUs, and this instance belongs to number {config.gpu} "
            f"(nvidia-smi shows what the driver finds; TensorFlow's CUDA libraries come with pip install "
            f"'tensorflow[and-cuda]=={tf.__version__}'), or put the instances on the CPU with kind: KIND_CPU"
        )
    else:
        tf.config.set_visible_devices(gpus[config.gpu], "GPU")
        # Otherwise TensorFlow takes all memory of the GPU at once.
        tf.config.experimental.set_memory_growth(gpus[config.gpu], True)
