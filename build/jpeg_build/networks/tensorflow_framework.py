"""The import of TensorFlow: quiet, on demand, with a remedy where it is missing."""

from __future__ import annotations

import os
from typing import Any

from jpeg_contract.remedies import install_command

from jpeg_build.errors import BuildError
from jpeg_build.networks.keras_framework import importing, use_defaults

MISSING = (
    f"TensorFlow is not installed here. Its pins need an environment of its own: {install_command('build-tensorflow')} "
    "there, or in a checkout `make build-tensorflow`, then .venv-tensorflow/bin/jpeg-build and "
    ".venv-tensorflow/bin/jpeg-serve"
)


def tensorflow() -> Any:
    """Import the package `tensorflow`, quiet, and without reserving all of a GPU's memory.

    Raises:
        BuildError: It is not installed.
    """
    # Read when the library is loaded. 3 prints fatal errors only: at 2, the import prints errors that are harmless.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with importing("tensorflow"):  # TensorFlow imports Keras.
            import tensorflow as tf
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise BuildError(MISSING, reason="tensorflow_missing") from error
    tf.get_logger().setLevel("ERROR")
    use_defaults(tf.keras)
    # GPUs with TensorFloat-32 would compute fp32 with the mantissa of fp16.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # TensorFlow runs already: the process has its own settings.
    return tf
