"""What is known of the networks of keras.applications: Keras documents it, and keeps it with no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jpeg_contract.labels import read_labels

from jpeg_build.init.source import recipe_name
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.recipe.table import RECIPES

_SYMMETRIC = {"scale": "-1..1"}
_CAFFE = {"scale": "0..255", "mean": [103.939, 116.779, 123.68], "color": "BGR"}
_TORCH = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# These networks normalise the pixels themselves.
_PLAIN = {"scale": "0..255"}

# By the beginning of the name, the first one that fits: what preprocess_input does.
_NORMALISATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("MobileNetV3", _PLAIN),
    ("MobileNet", _SYMMETRIC),
    ("Xception", _SYMMETRIC),
    ("Inception", _SYMMETRIC),
    ("NASNet", _SYMMETRIC),
    ("ResNet50V2", _SYMMETRIC),
    ("ResNet101V2", _SYMMETRIC),
    ("ResNet152V2", _SYMMETRIC),
    ("ResNet", _CAFFE),
    ("VGG", _CAFFE),
    ("DenseNet", _TORCH),
    ("EfficientNet", _PLAIN),
    ("ConvNeXt", _PLAIN),
)
_USUAL_SIZE = 224
_SIZES = {
    **dict.fromkeys(("Xception", "InceptionV3", "InceptionResNetV2"), 299),
    "NASNetLarge": 331,
    **dict(zip((f"EfficientNetB{number}" for number in range(1, 8)), (240, 260, 300, 380, 456, 528, 600), strict=True)),
    **dict(zip((f"EfficientNetV2B{number}" for number in range(1, 4)), (240, 260, 300), strict=True)),
    **{"EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480},
}
# As in most evaluations on ImageNet.
_CROP_PERCENT = 0.875


def application_draft(network: str, weights: str | Path) -> Draft:
    """Describe a network of keras.applications. weights: "imagenet", or a file of the user's."""
    size = _SIZES.get(network, _USUAL_SIZE)
    normalisation = next((values for begin, values in _NORMALISATIONS if network.startswith(begin)), None)
    imagenet = weights == "imagenet"
    return Draft(
        name=recipe_name(network),
        source={"kind": "keras", "network": network, "weights": str(weights), "output": "logits"},
        classes=1000 if imagenet else None,
        labels=read_labels(RECIPES / "imagenet.txt") if imagenet else None,
        geometry={"crop_size": size, "crop_percent": _CROP_PERCENT} if imagenet else {"crop_size": size},
        normalisation=normalisation,
        notes=(
            [
                Hint(
                    f"Keras keeps no geometry with its weights: crop_percent = {_CROP_PERCENT} is that of most "
                    "evaluations",
                    "resize_size|crop_percent",
                )
            ]
            if imagenet
            else []
        ),
    )
