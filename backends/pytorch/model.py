"""Python-based backend `pytorch`: serves the native one's config.pbtxt through the Python package of PyTorch."""

from jpeg_runtime.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
