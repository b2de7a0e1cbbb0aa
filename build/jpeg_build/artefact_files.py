"""Files that are made of networks, and of which no classifier can be built."""

from __future__ import annotations

from pathlib import Path

_ENGINE = "is a TensorRT engine, which runs on one kind of GPU and TensorRT"
_ONNX = "build from the ONNX file that it was made from: jpeg-build mine.onnx"

_MESSAGES = {
    ".engine": f"{_ENGINE}: {_ONNX}",
    ".plan": f"{_ENGINE}: {_ONNX}",
    ".xml": f"is an OpenVINO model, which cannot be converted back: {_ONNX}",
    ".tflite": "is a TensorFlow Lite model: build from the Keras network or the SavedModel that it was made from, or "
    "convert it with python -m tf2onnx.convert --tflite FILE --output mine.onnx",
    ".pb": "is a frozen graph of TensorFlow: convert it with python -m tf2onnx.convert --graphdef FILE --inputs NAME:0 "
    "--outputs NAME:0 --output mine.onnx",
}


def artefact_message(path: Path) -> str | None:
    """Return what to do with a file that is neither a recipe nor a network that can be built; None for others."""
    message = _MESSAGES.get(path.suffix.lower())
    return None if message is None else f"{path}: {message}"
