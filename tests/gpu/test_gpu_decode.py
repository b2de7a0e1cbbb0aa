"""`decoder` gpu on a real GPU: its pixels against the CPU's, and the CPU for images that it does not decode.

Skipped where there is no NVIDIA GPU, or not the packages of the extra `gpu-decode`.
"""

import io
import time

import numpy as np
import pytest
from decode_cost import grainy, peak_memory
from jpeg_contract.geometry import Geometry
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import DevicePreprocessor, Preprocessor, open_preprocessor, resize_and_crop
from jpeg_preprocess.decode_cost import MIB
from jpeg_preprocess.device_cost import device_cost
from jpeg_preprocess.device_resize import WINDOW, DeviceResizer, window
from jpeg_preprocess.jpeg_header import read_plain
from PIL import Image
from support import PHOTOS, encode, noise, photo, why_no_cupy_gpu

# Measured on an H200 (docs/performance.md): the decoder interpolates the chroma of 4:2:0 images differently from
# libjpeg-turbo.
MEAN_COUNTS, MOST_COUNTS = 0.8, 6


WHY_NOT = why_no_cupy_gpu(("cupy", "nvidia.nvimgcodec"), "gpu-decode")
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def settings(decoder, interpolation="bilinear"):
    return PreprocessSettings(Geometry(232, (224, 224), interpolation), decoder=decoder)


@pytest.fixture(scope="module")
def gpu():
    preprocessor = DevicePreprocessor(settings("gpu"))
    yield preprocessor
    preprocessor.close()


@pytest.fixture(scope="module")
def cpu():
    preprocessor = Preprocessor(settings("full"))
    yield preprocessor
    preprocessor.close()


def compare(gpu, cpu, images):
    """Check that both have the same errors, and return the pixels of both."""
    ours, theirs = gpu.decode(images), cpu.decode(images)
    reasons = [[error and error.reason for error in decoded.errors] for decoded in (ours, theirs)]
    assert reasons[0] == reasons[1]
    return ours.pixels.get().astype(int), theirs.pixels.astype(int)


def in_host_memory(pixels):
    return pixels if isinstance(pixels, np.ndarray) else pixels.get()


def test_requests_of_some_images_get_their_pixels_in_host_memory_and_larger_ones_on_the_gpu(gpu):
    photos = [file.read_bytes() for file in sorted(PHOTOS.rglob("*.jpg"))][:9]
    pixels = gpu.decode(photos).pixels
    one, some, more = gpu.for_requests(pixels, [1, 3, 5])
    assert isinstance(one, np.ndarray) and isinstance(some, np.ndarray) and not isinstance(more, np.ndarray)
    np.testing.assert_array_equal(np.concatenate([one, some, more.get()]), pixels.get())


def china():
    return Image.open(PHOTOS / "china.jpg").convert("RGB")


def test_photos_have_nearly_the_pixels_of_the_cpu(gpu, cpu):
    found, wanted = compare(gpu, cpu, [file.read_bytes() for file in sorted(PHOTOS.rglob("*.jpg"))])
    difference = np.abs(found - wanted)
    assert difference.mean(axis=(1, 2, 3)).max() <= MEAN_COUNTS
    assert difference.max() <= MOST_COUNTS


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"quality": 40}])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (37, 411), (1600, 1200), (224, 224), (1, 1)])
def test_images_of_any_size_and_subsampling_have_nearly_the_pixels_of_the_cpu(gpu, cpu, size, options):
    found, wanted = compare(gpu, cpu, [encode(china().resize(size), **options)])
    assert np.abs(found - wanted).mean() <= MEAN_COUNTS


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(gpu, cpu, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found, wanted = compare(gpu, cpu, [encode(china(), exif=exif)])
    assert np.abs(found - wanted).mean() <= MEAN_COUNTS


def test_other_formats_have_exactly_the_pixels_of_the_cpu():
    stream = io.BytesIO()
    china().save(stream, "PNG")
    found = []
    for decoder in ("gpu", "full"):
        chosen = PreprocessSettings(Geometry(232, (224, 224)), decoder=decoder, formats=("jpeg", "png"))
        preprocessor = open_preprocessor(chosen)
        decoded = preprocessor.decode([stream.getvalue()])
        preprocessor.close()
        assert decoded.errors == [None]
        found.append(in_host_memory(decoded.pixels))
    np.testing.assert_array_equal(*found)


def test_images_that_the_gpu_does_not_decode_have_exactly_the_pixels_of_the_cpu(gpu, cpu):
    others = [
        encode(china(), progressive=True),
        encode(china().convert("CMYK")),
        photo("china")[:9000],
        b"hello",
        b"",
        encode(china(), keep_rgb=True),
    ]
    good = photo("coffee")
    mixed = [image for other in others for image in (good, other)]
    found, wanted = compare(gpu, cpu, mixed)
    np.testing.assert_array_equal(found[1::2], wanted[1::2])
    assert np.abs(found[::2] - wanted[::2]).mean() <= MEAN_COUNTS


def test_a_damaged_image_costs_no_other_its_pixels(gpu, cpu):
    data = photo("china")
    damaged = data[: len(data) // 2] + b"\x55" * 300 + data[len(data) // 2 + 300 :]
    good = photo("coffee")
    found, wanted = compare(gpu, cpu, [good, damaged, good])
    assert np.abs(found[::2] - wanted[::2]).mean() <= MEAN_COUNTS


def memory_of(image):
    header = read_plain(image)
    assert header is not None
    return device_cost(header, 1, 1).memory_bytes


def test_a_batch_of_the_largest_images_is_decoded_in_groups_within_a_bound_of_memory(gpu, cpu):
    """Each is larger than the bound by itself, so that it is alone in its group."""
    largest = encode(china().resize((12_000, 10_000)), quality=75)
    one = memory_of(largest)
    assert one > gpu.settings.limits.max_decode_mib * MIB
    gpu.decode([largest])  # what nvImageCodec reserves once
    with peak_memory(on_gpu=True) as grown:
        pixels = in_host_memory(gpu.decode([largest] * 16).pixels)
    assert grown() <= 3 * one  # it frees images later; without groups it would hold all sixteen
    assert (pixels == pixels[0]).all()
    found, wanted = compare(gpu, cpu, [largest])
    np.testing.assert_array_equal(found[0], pixels[0])
    assert np.abs(found - wanted).mean() <= MEAN_COUNTS


def test_the_most_that_a_batch_may_hold_takes_less_than_the_longest_wait(gpu):
    limits = gpu.settings.limits
    for size, options in (((12_000, 10_000), {"quality": 75}), ((4000, 3000), {"quality": 95, "subsampling": 0})):
        image = encode(grainy(china(), *size), **options)
        if len(image) > limits.max_image_bytes:
            continue
        admitted = max(count for count in range(1, 65) if gpu.admit([[image] * count], lambda: True) == [None])
        begun = time.monotonic()
        decoded = gpu.decode([image] * admitted)
        assert decoded.errors == [None] * admitted
        assert time.monotonic() - begun < limits.max_wait_ms / 1000, (size, admitted)


def test_a_group_that_cannot_be_decoded_on_the_gpu_costs_no_other_its_pixels(gpu, cpu, monkeypatch, caplog):
    good = photo("coffee")
    monkeypatch.setattr(gpu, "_memory", memory_of(good))  # each image is a group
    decode, calls = gpu._decode_on_device, []

    def fail_once(images, headers, pixels):
        calls.append(list(images))
        if len(calls) == 2:
            raise RuntimeError("the decoder is gone")
        return decode(images, headers, pixels)

    monkeypatch.setattr(gpu, "_decode_on_device", fail_once)
    found, wanted = compare(gpu, cpu, [good, good, good])
    assert calls == [[0], [1], [2]]
    np.testing.assert_array_equal(found[1], wanted[1])
    assert np.abs(found - wanted).mean() <= MEAN_COUNTS
    assert "could not be decoded on the GPU" in caplog.text


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "hamming"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (100, 90), (2000, 1501)])
@pytest.mark.parametrize(
    "shape",
    [
        {"resize_size": 232},
        {"resize_size": 224, "resize_side": "longer", "fill": (114, 115, 116)},
        {"resize_size": 100, "fill": (1, 2, 3)},
        {"resize_size": 231, "crop_rounding": "down"},
        {"resize_size": (160, 224), "resize_side": "longer", "fill": (114, 115, 116)},
    ],
    ids=["crop", "letterbox", "padded", "crop rounded down", "letterbox in a box"],
)
def test_the_kernel_is_within_a_count_of_the_cpu(interpolation, size, shape):
    import cupy

    geometry = Geometry(crop_size=(224, 224), interpolation=interpolation, **shape)
    image = noise(*size)
    stored = cupy.asarray(np.asarray(image))
    result = cupy.zeros((1, 224, 224, 3), np.uint8)
    windows = np.array([window(geometry, stored.data.ptr, size[0] * 3, size, 1)], WINDOW)
    DeviceResizer(cupy, geometry)(windows, result)
    difference = np.abs(result.get()[0].astype(int) - resize_and_crop(geometry, image))
    # Two where both passes round a half, which float32 and the CPU's fixed point see on different sides; that one is
    # coarser with bilinear.
    assert difference.max() <= 2
    assert (difference == 2).mean() < (1e-2 if interpolation == "bilinear" else 1e-4)
