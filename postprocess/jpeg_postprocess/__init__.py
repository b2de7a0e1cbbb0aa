"""From logits to labels, for the model `postprocess`. NumPy in, NumPy out; nothing here knows Triton."""

from jpeg_postprocess.parameters import (
    InvalidK,
    InvalidParameter,
    InvalidThreshold,
    Wanted,
    read_k,
    read_threshold,
    read_wanted,
)
from jpeg_postprocess.postprocessor import Postprocessor, TopKRequest, TopKResponse
from jpeg_postprocess.topk import best, sigmoid, softmax, top_k

__all__ = [
    "InvalidK",
    "InvalidParameter",
    "InvalidThreshold",
    "Postprocessor",
    "TopKRequest",
    "TopKResponse",
    "Wanted",
    "best",
    "read_k",
    "read_threshold",
    "read_wanted",
    "sigmoid",
    "softmax",
    "top_k",
]
