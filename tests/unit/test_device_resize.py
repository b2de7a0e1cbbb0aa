"""The windows that the GPU's kernel gets, checked without a GPU: the pixels that it reads.

tests/gpu has the kernel itself.
"""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.geometry import Geometry, Interpolation
from jpeg_preprocess import resize_and_crop
from jpeg_preprocess.device_resize import WINDOW, DeviceResizer, window
from PIL import Image, ImageOps
from support import noise

GEOMETRY = Geometry(30, (24, 20))


def upright(stored, described):
    """The image that the kernel reads: pixel (x, y) lies step_x * x + step_y * y bytes after the first one."""
    first, step_x, step_y, width, height = described[:5]
    base = first + step_y * np.arange(height)[:, None, None] + step_x * np.arange(width)[None, :, None]
    return stored.reshape(-1)[base + np.arange(3)]


def turned(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.copy()
    image.info["exif"] = exif.tobytes()
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_kernel_reads_an_upright_image(orientation):
    image = noise(50, 31)
    described = window(GEOMETRY, 0, 150, (50, 31), orientation)
    np.testing.assert_array_equal(upright(np.asarray(image), described), turned(image, orientation))


def test_only_the_first_pixels_address_depends_on_the_address():
    near, far = (window(GEOMETRY, address, 150, (50, 31), 3) for address in (0, 10**12))
    assert far == (near[0] + 10**12, *near[1:])


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 8))
def test_the_crop_lies_inside_the_upright_image(width, height, orientation):
    described = np.array([window(GEOMETRY, 0, width * 3, (width, height), orientation)], WINDOW)[0]
    assert (described["width"], described["height"]) == ((width, height) if orientation < 5 else (height, width))
    crop_height, crop_width = GEOMETRY.crop_size
    for start, step, count, size in (
        (described["left"], described["scale_x"], crop_width, described["width"]),
        (described["top"], described["scale_y"], crop_height, described["height"]),
    ):
        assert start >= -1e-9
        assert start + step * count <= size + 1e-6


@given(st.integers(20, 90), st.integers(20, 90))
def test_the_crop_is_the_one_of_the_cpu(width, height):
    image = noise(width, height)
    *_, left, top, scale_x, scale_y, _, _, _, _ = window(GEOMETRY, 0, width * 3, (width, height), 1)
    crop_height, crop_width = GEOMETRY.crop_size
    box = (left, top, min(left + crop_width * scale_x, width), min(top + crop_height * scale_y, height))
    resized = image.resize((crop_width, crop_height), Image.Resampling.BILINEAR, box=box)
    difference = np.abs(np.asarray(resized).astype(int) - resize_and_crop(GEOMETRY, image))
    # It is not Pillow that resizes there. Another crop of this noise would differ by some 80 counts.
    assert difference.max() <= 2
    assert (difference == 2).mean() < 0.005


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 8), st.sampled_from(["even", "down"]))
def test_the_kernel_gets_where_a_letterbox_shows_the_image(width, height, orientation, rounding):
    geometry = Geometry(24, (24, 30), resize_side="longer", fill=(1, 2, 3), crop_rounding=rounding)
    described = np.array([window(geometry, 0, width * 3, (width, height), orientation)], WINDOW)[0]
    shown = np.zeros((24, 30), bool)
    shown[described["shown_top"] : described["shown_bottom"], described["shown_left"] : described["shown_right"]] = True
    image = Image.new("RGB", (described["width"], described["height"]), (200, 200, 200))
    pixels = resize_and_crop(geometry, image)
    np.testing.assert_array_equal(shown, (pixels == 200).all(axis=2))
    # What the kernel computes lies inside of the image.
    rows, columns = np.nonzero(shown)
    for places, start, step, size in (
        (columns, described["left"], described["scale_x"], described["width"]),
        (rows, described["top"], described["scale_y"], described["height"]),
    ):
        assert start + step * places.min() >= -1e-6
        assert start + step * (places.max() + 1) <= size + 1e-6


def test_without_a_colour_the_image_fills_the_result():
    *_, left, top, right, bottom = window(GEOMETRY, 0, 150, (50, 31), 1)
    assert (left, top, right, bottom) == (0, 0, 20, 24)


def test_the_kernel_supports_filters_with_antialias_only():
    supported = {name for name in get_args(Interpolation) if DeviceResizer.supports(Geometry(30, (24, 20), name))}
    assert supported == {"bilinear", "bicubic", "lanczos", "hamming"}
    assert not DeviceResizer.supports(Geometry(30, (24, 20), antialias=False))
