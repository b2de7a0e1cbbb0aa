"""Python-based backend `pytorch`: serves the config.pbtxt of the native one, through the Python package torch."""

from jpeg_backend.classifier import DeviceClassifierModel
from jpeg_backend.torch_script import load_script


class TritonPythonModel(DeviceClassifierModel):
    default_filename = "model.pt"
    load = staticmethod(load_script)
