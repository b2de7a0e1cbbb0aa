"""Python-based backend `tensorrt`: serves the config.pbtxt of the native one, through TensorRT's Python package."""

from jpeg_backend.classifier import DeviceClassifierModel
from jpeg_backend.tensorrt_engine import load_engine


class TritonPythonModel(DeviceClassifierModel):
    default_filename = "model.plan"
    load = staticmethod(load_engine)
