"""Python-based backend `tensorflow`: serves the native one's config.pbtxt through the Python package of TensorFlow."""

from jpeg_runtime.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
