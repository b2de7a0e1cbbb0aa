"""From logits to labels, for the model `postprocess`. NumPy in, NumPy out; nothing here knows Triton."""

from jpeg_postprocess.postprocessor import Postprocessor, TopKRequest, TopKResponse
from jpeg_postprocess.topk import InvalidTopK, read_k, request_k, softmax, top_k

__all__ = [
    "InvalidTopK",
    "Postprocessor",
    "TopKRequest",
    "TopKResponse",
    "read_k",
    "request_k",
    "softmax",
    "top_k",
]
