"""TensorFlow, imported quietly and only when it is needed, and what is said where it is missing."""

from __future__ import annotations

import os
from typing import Any

from jpeg_build.errors import BuildError

MISSING = (
    "TensorFlow is not installed here; it has an environment of its own, since its pins fit no other: "
    "`make build-tensorflow`, then .venv-tensorflow/bin/jpeg-build and .venv-tensorflow/bin/jpeg-serve"
)


def tensorflow() -> Any:
    """The package `tensorflow`. It is kept from taking all of a GPU's memory, and from talking of its insides.

    Raises BuildError if it is not installed.
    """
    # Read when the library is loaded. 3 leaves fatal errors: even at 2 an import prints errors that are none.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise BuildError(MISSING) from error
    tf.get_logger().setLevel("ERROR")
    # fp32 is to mean fp32, also on GPUs that have TensorFloat-32, with the mantissa of fp16.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # it runs already, in a process that has its own wishes
    return tf


def first_line(error: BaseException) -> str:
    """The head of a message of TensorFlow, which may go on for pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
