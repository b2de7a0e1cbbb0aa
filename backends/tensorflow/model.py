"""Python-based backend `tensorflow`: serves the config.pbtxt of the native one, through the Python package."""

from jpeg_backend.classifier import ClassifierModel
from jpeg_backend.tensorflow import load_saved_model


class TritonPythonModel(ClassifierModel):
    default_filename = "model.savedmodel"
    load = staticmethod(load_saved_model)
