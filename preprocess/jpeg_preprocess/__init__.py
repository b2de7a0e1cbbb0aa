"""From encoded images to pixels, for the model `preprocess`: on the CPU or on a GPU.

Nothing here knows Triton, so that everything here can be tested and used without it.
"""

from jpeg_preprocess.base64_text import unwrap
from jpeg_preprocess.device_preprocessor import DevicePreprocessor, open_preprocessor
from jpeg_preprocess.preprocessor import Decoded, Preprocessor
from jpeg_preprocess.requests import Preprocessed, PreprocessedBatch, Refused, preprocess_requests
from jpeg_preprocess.resize import resize_and_crop

__all__ = [
    "Decoded",
    "DevicePreprocessor",
    "Preprocessed",
    "PreprocessedBatch",
    "Preprocessor",
    "Refused",
    "open_preprocessor",
    "preprocess_requests",
    "resize_and_crop",
    "unwrap",
]
