"""What the GPU's kernel is told, checked without a GPU: the pixels it would read, and where it would put them.

tests/gpu has the kernel itself.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_preprocess import Geometry
from jpeg_preprocess.device_resize import WINDOW, DeviceResizer, window
from PIL import Image, ImageOps
from support import noise

GEOMETRY = Geometry(30, (24, 20))


def upright(stored, told):
    """The image that the kernel sees: pixel (x, y) lies step_x * x + step_y * y bytes after the first one."""
    _, step_x, step_y, width, height, *_ = told
    base = told[0] + step_y * np.arange(height)[:, None, None] + step_x * np.arange(width)[None, :, None]
    return stored.reshape(-1)[base + np.arange(3)]


def turned(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.copy()
    image.info["exif"] = exif.tobytes()
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_kernel_sees_an_upright_image(orientation):
    image = noise(50, 31)
    told = window(GEOMETRY, 0, 150, (50, 31), orientation)
    np.testing.assert_array_equal(upright(np.asarray(image), told), turned(image, orientation))


def test_the_address_is_that_of_the_first_pixel_and_nothing_else_depends_on_it():
    near, far = (window(GEOMETRY, address, 150, (50, 31), 3) for address in (0, 10**12))
    assert far == (near[0] + 10**12, *near[1:])


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 8))
def test_the_crop_lies_inside_the_upright_image(width, height, orientation):
    told = np.array([window(GEOMETRY, 0, width * 3, (width, height), orientation)], WINDOW)[0]
    assert (told["width"], told["height"]) == ((width, height) if orientation < 5 else (height, width))
    crop_height, crop_width = GEOMETRY.crop_size
    for start, step, count, size in (
        (told["left"], told["across"], crop_width, told["width"]),
        (told["top"], told["down"], crop_height, told["height"]),
    ):
        assert start >= -1e-9
        assert start + step * count <= size + 1e-6


@given(st.integers(20, 90), st.integers(20, 90))
def test_the_crop_is_the_one_of_the_cpu(width, height):
    image = noise(width, height)
    *_, left, top, across, down = window(GEOMETRY, 0, width * 3, (width, height), 1)
    crop_height, crop_width = GEOMETRY.crop_size
    box = (left, top, min(left + crop_width * across, width), min(top + crop_height * down, height))
    resized = image.resize((crop_width, crop_height), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(np.asarray(resized), GEOMETRY.apply(image))


def test_what_is_offered():
    assert all(DeviceResizer.offered(Geometry(30, (24, 20), name)) for name in ("bilinear", "bicubic", "lanczos"))
    assert not DeviceResizer.offered(Geometry(30, (24, 20), "nearest"))
    assert not DeviceResizer.offered(Geometry(30, (24, 20), antialias=False))
