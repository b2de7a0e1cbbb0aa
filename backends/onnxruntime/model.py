"""Python-based backend `onnxruntime`: serves the config.pbtxt of the native one, through the Python package."""

from jpeg_backend.classifier import ClassifierModel
from jpeg_backend.onnx_runtime import load_session


class TritonPythonModel(ClassifierModel):
    default_filename = "model.onnx"
    load = staticmethod(load_session)
