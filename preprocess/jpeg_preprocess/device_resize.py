"""Resize and crop on a GPU: every image of a batch, whatever its size, in one launch of one kernel."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jpeg_contract.exif import LIES
from jpeg_contract.geometry import Geometry, Size
from numpy.typing import NDArray

WINDOW = np.dtype(
    [
        ("pixels", np.uint64),
        ("step_x", np.int64),
        ("step_y", np.int64),
        ("width", np.int32),
        ("height", np.int32),
        ("left", np.float64),
        ("top", np.float64),
        ("scale_x", np.float64),
        ("scale_y", np.float64),
        ("shown_left", np.int32),
        ("shown_top", np.int32),
        ("shown_right", np.int32),
        ("shown_bottom", np.int32),
    ]
)
"""One image, as the kernel takes it.

pixels: address of the upright image's first pixel; 0 skips the image. step_x, step_y: bytes from there to the pixel on
its right, and below. width, height: of the upright image, in pixels. left, top: where in it the crop begins. scale_x,
scale_y: how many of its pixels one pixel of the result stands for. shown_left to shown_bottom: where the image lies in
the result; outside of it, the result has the geometry's colour.
"""

# Pillow's filters (src/libImaging/Resample.c): how far each reaches, and its weight at a distance.
_FILTERS = {
    "bilinear": (1.0, "x = fabsf(x); return x < 1.0f ? 1.0f - x : 0.0f;"),
    "bicubic": (
        2.0,
        "const float a = -0.5f; x = fabsf(x);"
        "if (x < 1.0f) return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;"
        "if (x < 2.0f) return (((x - 5.0f) * x + 8.0f) * x - 4.0f) * a;"
        "return 0.0f;",
    ),
    "hamming": (
        1.0,
        "x = fabsf(x);"
        "if (x == 0.0f) return 1.0f;"
        "if (x >= 1.0f) return 0.0f;"
        "x *= 3.14159265358979f;"
        "return sinf(x) / x * (0.54f + 0.46f * cosf(x));",
    ),
    "lanczos": (
        3.0,
        "const float pi = 3.14159265358979f;"
        "if (x <= -3.0f || x >= 3.0f) return 0.0f;"
        "if (x == 0.0f) return 1.0f;"
        "return 3.0f * sinf(pi * x) * sinf(pi * x / 3.0f) / (pi * pi * x * x);",
    ),
}

# One thread computes one pixel, both of Pillow's passes in one: rows first, rounded to integers as Pillow does.
_SOURCE = r"""
struct Window {
    unsigned long long pixels;
    long long step_x, step_y;
    int width, height;
    double left, top, scale_x, scale_y;
    int shown_left, shown_top, shown_right, shown_bottom;
};

__device__ __forceinline__ float weight(float x) { %(weight)s }

// Halves go up, as in Pillow: enlarged images have many.
__device__ __forceinline__ float rounded(float x) { return fminf(fmaxf(floorf(x + 0.5f), 0.0f), 255.0f); }

extern "C" __global__ void resize(const Window* windows, unsigned char* result, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Window image = windows[blockIdx.z];
    if (!image.pixels) return;
    unsigned char* out = result + 3ll * ((long long)(blockIdx.z * height + y) * width + x);
    if (x < image.shown_left || x >= image.shown_right || y < image.shown_top || y >= image.shown_bottom) {
        out[0] = %(red)d;
        out[1] = %(green)d;
        out[2] = %(blue)d;
        return;
    }
    const double spread_x = fmax(image.scale_x, 1.0), spread_y = fmax(image.scale_y, 1.0);
    const double reach_x = %(reach)f * spread_x, reach_y = %(reach)f * spread_y;
    const double middle_x = image.left + (x + 0.5) * image.scale_x, middle_y = image.top + (y + 0.5) * image.scale_y;
    const int first_x = max(0, (int)(middle_x - reach_x + 0.5)), first_y = max(0, (int)(middle_y - reach_y + 0.5));
    const int last_x = min(image.width, (int)(middle_x + reach_x + 0.5));
    const int last_y = min(image.height, (int)(middle_y + reach_y + 0.5));
    const float offset_x = (float)(first_x - middle_x + 0.5), offset_y = (float)(first_y - middle_y + 0.5);
    const float step_x = (float)(1.0 / spread_x), step_y = (float)(1.0 / spread_y);

    float sum_x = 0.0f;
    for (int i = 0; i < last_x - first_x; ++i) sum_x += weight((i + offset_x) * step_x);
    const float norm_x = 1.0f / sum_x;

    float red = 0.0f, green = 0.0f, blue = 0.0f, sum_y = 0.0f;
    const unsigned char* row = (const unsigned char*)image.pixels + first_y * image.step_y + first_x * image.step_x;
    for (int j = 0; j < last_y - first_y; ++j, row += image.step_y) {
        float r = 0.0f, g = 0.0f, b = 0.0f;
        const unsigned char* pixel = row;
        for (int i = 0; i < last_x - first_x; ++i, pixel += image.step_x) {
            const float w = weight((i + offset_x) * step_x);
            r += w * pixel[0];
            g += w * pixel[1];
            b += w * pixel[2];
        }
        const float w = weight((j + offset_y) * step_y);
        sum_y += w;
        red += w * rounded(r * norm_x);
        green += w * rounded(g * norm_x);
        blue += w * rounded(b * norm_x);
    }
    out[0] = (unsigned char)rounded(red / sum_y);
    out[1] = (unsigned char)rounded(green / sum_y);
    out[2] = (unsigned char)rounded(blue / sum_y);
}
"""
_BLOCK = (32, 8)

_Window = tuple[int, int, int, int, int, float, float, float, float, int, int, int, int]


def window(geometry: Geometry, address: int, row_bytes: int, stored: Size, orientation: int) -> _Window:
    """Describe one image for the kernel, in the order of WINDOW.

    Args:
        geometry: Resize and crop.
        address: Of its first pixel, HWC uint8 RGB.
        row_bytes: Bytes from one row to the next.
        stored: (width, height) as it lies in memory.
        orientation: Of EXIF, 1 to 8: how to turn it upright.
    """
    at_zero = _window(geometry, row_bytes, stored, orientation)
    return (address + at_zero[0], *at_zero[1:])


@functools.lru_cache(maxsize=4096)
def _window(geometry: Geometry, row_bytes: int, stored: Size, orientation: int) -> _Window:
    """Describe an image at address 0. Cached, since most images of a service have one of few sizes."""
    width, height = stored
    swapped, from_right, from_bottom = LIES[orientation]
    first = (width - 1) * 3 * from_right + (height - 1) * row_bytes * from_bottom
    step_x, step_y = (-3 if from_right else 3), (-row_bytes if from_bottom else row_bytes)
    if swapped:
        width, height = height, width
        step_x, step_y = step_y, step_x
    resized = geometry.resized_size(width, height)
    corner_x, corner_y = geometry.crop_corner(*resized)
    left, top, right, bottom = geometry.shown(*resized)
    shown = (left - corner_x, top - corner_y, right - corner_x, bottom - corner_y)
    return (first, step_x, step_y, width, height, *geometry.sampling(width, height), *shown)


class DeviceResizer:
    """Resizes and crops as `resize_and_crop` does, to within 1 count, on the current GPU.

    Args:
        cp: The package CuPy.
        geometry: With antialias, and any interpolation but nearest and box (see `supports`): whether a pixel counts for
            these or not depends on a rounding error, which differs between Pillow's doubles and the kernel's floats.
    """

    def __init__(self, cp: Any, geometry: Geometry) -> None:
        assert self.supports(geometry)
        reach, weight = _FILTERS[geometry.interpolation]
        self._cp, self._geometry = cp, geometry
        red, green, blue = geometry.fill or (0, 0, 0)
        source = _SOURCE % {"reach": reach, "weight": weight, "red": red, "green": green, "blue": blue}
        self._kernel = cp.RawKernel(source, "resize")
        self._kernel.compile()

    @staticmethod
    def supports(geometry: Geometry) -> bool:
        """Whether the kernel computes this geometry."""
        return geometry.antialias and geometry.interpolation in _FILTERS

    def __call__(self, windows: NDArray[Any], result: Any) -> None:
        """Enqueue the resize on the current stream.

        Args:
            windows: (N,) of WINDOW, in host memory.
            result: (N, crop height, crop width, 3) uint8 on the GPU, contiguous. Images with address 0 are skipped.
        """
        height, width = self._geometry.crop_size
        parameters = self._cp.asarray(windows.view(np.uint8))
        grid = (-(-width // _BLOCK[0]), -(-height // _BLOCK[1]), len(windows))
        self._kernel(grid, (*_BLOCK, 1), (parameters, result, np.int32(width), np.int32(height)))
