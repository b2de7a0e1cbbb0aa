"""The extras of this project that bring the frameworks of networks."""

from __future__ import annotations

EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "onnxscript"), "torch"),
    **dict.fromkeys(("timm", "safetensors"), "timm"),
    **dict.fromkeys(("transformers", "huggingface_hub"), "hugging-face"),
    "ultralytics": "ultralytics",
    **dict.fromkeys(("keras", "h5py"), "keras"),
}
"""By the package that an extra brings."""
