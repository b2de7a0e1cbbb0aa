"""A recipe to start from, for users who give a network where a recipe is expected."""

from __future__ import annotations

from pathlib import Path

_TEMPLATE = """\
classes = 1000
labels = "labels.txt"              # one label per line

[geometry]
resize_size = 256
crop_size = 224

[normalisation]                    # of the training: (pixel / 255 - mean) / std
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[source]
{source}"""

_ONNX = """\
kind = "onnx"
file = "{stem}.onnx"
output = "logits"                  # or "probabilities", behind a softmax
"""
_TORCHVISION = """\
kind = "torchvision"
network = "resnet50"               # the network that the weights are for
weights = "IMAGENET1K_V2"          # replaced by --checkpoint
"""
_KERAS = """\
kind = "keras"
network = "ResNet50"               # the network that the weights are for
weights = "{name}"
"""
_SAVED_MODEL = """\
kind = "saved_model"
folder = "{stem}"
output = "probabilities"           # or "logits"
"""

_BUILD = "Then build with `jpeg-build {base}.toml`."
_TF_TRT = "Then build with `jpeg-build {base}.toml --backend tf_trt`."
_CHECKPOINT = (
    "Then build with `jpeg-build {base}.toml --checkpoint {checkpoint}`. If torchvision does not have the network: "
    'export it with torch.onnx.export, for kind = "onnx".'
)
_ENGINE = "An engine runs on one kind of GPU and TensorRT: build from the ONNX file that it was made from. "

# By the ending of a file: the table [source], and the steps.
_SOURCES = {
    ".onnx": (_ONNX, _BUILD),
    ".pt": (_TORCHVISION, _CHECKPOINT),
    ".pth": (_TORCHVISION, _CHECKPOINT),
    ".ckpt": (_TORCHVISION, _CHECKPOINT),
    ".safetensors": (
        _TORCHVISION,
        'Convert the weights with torch.save(safetensors.torch.load_file("{path}"), "{checkpoint}"). ' + _CHECKPOINT,
    ),
    ".h5": (
        _KERAS,
        f"{_TF_TRT} If the file has a whole network, and not only weights: convert it with "
        'keras.models.load_model("{path}").export("{base}"), for kind = "saved_model".',
    ),
    ".keras": (
        _SAVED_MODEL,
        f'Convert the network with keras.models.load_model("{{path}}").export("{{base}}"). {_TF_TRT}',
    ),
    ".engine": (_ONNX, _ENGINE + _BUILD),
    ".plan": (_ONNX, _ENGINE + _BUILD),
    ".xml": (
        _ONNX,
        f"An OpenVINO model cannot be converted back: build from the ONNX file that it was made from. {_BUILD}",
    ),
}


def network_file_message(path: Path) -> str | None:
    """Describe the recipe that a network needs.

    Args:
        path: The RECIPE argument.

    Returns:
        A message with a recipe to start from; None if the path is not a SavedModel and does not have the ending of a
        network's file.
    """
    if (path / "saved_model.pb").is_file():
        base, source, steps = path, _SAVED_MODEL, _TF_TRT
    elif path.suffix.lower() in _SOURCES:
        base, (source, steps) = path.with_suffix(""), _SOURCES[path.suffix.lower()]
    else:
        return None
    checkpoint = f"{base}.pth" if path.suffix.lower() == ".safetensors" else path
    names = {"path": path, "name": path.name, "base": base, "stem": base.name, "checkpoint": checkpoint}
    return (
        f"{path}: is a network, not a recipe (a TOML file that describes a network). Save these lines as {base}.toml, "
        f"and correct every value (docs/recipes.md):\n\n{_TEMPLATE.format(source=source.format(**names))}\n"
        f"{steps.format(**names)}"
    )
