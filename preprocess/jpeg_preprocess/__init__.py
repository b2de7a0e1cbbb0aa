"""From JPEG bytes to pixels, and from logits to labels: what the models beside the classifier do.

NumPy in, NumPy out. Nothing here knows Triton, so everything here can be tested and used without it.
"""

from jpeg_preprocess.decode import Decoder, Limits
from jpeg_preprocess.device_preprocessor import DevicePreprocessor, open_preprocessor
from jpeg_preprocess.errors import ImageError, describe_failures
from jpeg_preprocess.geometry import Geometry, Interpolation
from jpeg_preprocess.labels import LabelFileError, read_labels
from jpeg_preprocess.postprocessor import Answer, Postprocessor, Question
from jpeg_preprocess.preprocessor import Decoded, Preprocessor
from jpeg_preprocess.settings import (
    PostprocessSettings,
    PreprocessSettings,
    SettingsError,
    read_parameters,
)
from jpeg_preprocess.topk import KError, read_k, request_k, softmax, top_k

__all__ = [
    "Answer",
    "Decoded",
    "Decoder",
    "DevicePreprocessor",
    "Geometry",
    "ImageError",
    "Interpolation",
    "KError",
    "LabelFileError",
    "Limits",
    "PostprocessSettings",
    "Postprocessor",
    "PreprocessSettings",
    "Preprocessor",
    "Question",
    "SettingsError",
    "describe_failures",
    "open_preprocessor",
    "read_k",
    "read_labels",
    "read_parameters",
    "request_k",
    "softmax",
    "top_k",
]
