"""Python-based backend `openvino`: serves the config.pbtxt of the native one, through the Python package."""

from jpeg_backend.classifier import ClassifierModel
from jpeg_backend.openvino_runtime import load_model


class TritonPythonModel(ClassifierModel):
    default_filename = "model.xml"
    load = staticmethod(load_model)
