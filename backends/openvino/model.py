"""Python-based backend `openvino`: serves the native one's config.pbtxt through the Python package of OpenVINO."""

from jpeg_runtime.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
