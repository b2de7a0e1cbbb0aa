"""The bilinear resize against Pillow's, whose order of directions it takes."""

import numpy as np
import pytest
from jpeg_contract.geometry import Geometry
from jpeg_preprocess import resize_and_crop
from PIL import Image
from support import PHOTOS, noise, reference_pixels


@pytest.mark.parametrize("path", sorted(PHOTOS.rglob("*.jpg")), ids=lambda path: path.stem)
@pytest.mark.parametrize("enlarged", [1, 3])
def test_nearly_all_pixels_of_photos_are_those_of_torchvision(path, enlarged):
    photo = Image.open(path).convert("RGB")
    image = photo.resize((photo.width * enlarged, photo.height * enlarged))
    difference = np.abs(resize_and_crop(Geometry(256, (224, 224)), image).astype(int) - reference_pixels(image))
    assert difference.max() <= 1
    # Most with a factor of 6, whose weights fixed-point numbers round differently: 0.043. In the other order, 0.07.
    assert difference.mean() < 0.05


@pytest.mark.parametrize("size", [(640, 640), (1000, 300), (300, 1000), (375, 500), (200, 180)])
def test_directions_are_resized_in_the_order_of_pillow(size):
    """In the other order, a sixth to a quarter of the values differ."""
    image = noise(*size)
    difference = np.abs(resize_and_crop(Geometry(256, (224, 224)), image).astype(int) - reference_pixels(image))
    assert difference.max() <= 1
    assert difference.mean() < 0.02
