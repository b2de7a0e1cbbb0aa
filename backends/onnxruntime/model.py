"""Python-based backend `onnxruntime`: serves the native one's config.pbtxt through the Python package onnxruntime."""

from jpeg_runtime.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
