"""Python-based backend `tensorrt`: serves the native one's config.pbtxt through the Python package of TensorRT."""

from jpeg_runtime.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
