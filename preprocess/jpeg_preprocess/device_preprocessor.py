"""A batch of JPEGs to pixels in a GPU's memory: decoded by its JPEG engines, resized by one kernel."""

from __future__ import annotations

import importlib
import io
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.image_errors import ImageError
from jpeg_contract.parameters import SettingsError
from jpeg_contract.remedies import install_command
from jpeg_contract.settings import PreprocessSettings
from numpy.typing import NDArray
from PIL import Image

from jpeg_preprocess.admission import DecodeLater, RequestTooLong, admit
from jpeg_preprocess.base64_text import Unwrapped
from jpeg_preprocess.decode_cost import MIB, DecodeCost
from jpeg_preprocess.device_cost import device_cost, groups
from jpeg_preprocess.device_resize import WINDOW, DeviceResizer, window
from jpeg_preprocess.jpeg_header import PlainJpeg, read_plain
from jpeg_preprocess.preprocessor import Decoded, Preprocessor

log = logging.getLogger(__name__)

_WARM_UP_BATCH, _WARM_UP_SIZE = 64, (640, 480)
# Requests of up to this many images get their pixels in host memory: the Python backend hands each tensor on a GPU over
# in a second round trip between its processes, and the driver opens its memory in each of them. That takes longer than
# the copies of some images (bench/NOTES.md).
_TO_HOST = 4


def open_preprocessor(settings: PreprocessSettings, gpu: int = 0) -> Preprocessor | DevicePreprocessor:
    """Open the preprocessor that the settings name. gpu: number of the GPU, for decoder gpu. Raises SettingsError."""
    return DevicePreprocessor(settings, gpu) if settings.decoder == "gpu" else Preprocessor(settings)


class DevicePreprocessor:
    """Decodes, resizes and crops batches of JPEGs on a GPU, and on the CPU what the GPU does not take.

    nvImageCodec decodes plain JPEGs (`jpeg_header.PlainJpeg`) by the GPU's JPEG engines, or by its cores where it has
    no engines, in groups that take at most `max_decode_mib` of the GPU's memory. What is not plain, what is beyond a
    limit, and what the GPU refuses goes through `Preprocessor`, image by image, which also finds the words for what is
    broken.

    gpu: its number. Raises SettingsError if there is no GPU or a package is missing, or if the geometry cannot be
    computed there.
    """

    def __init__(self, settings: PreprocessSettings, gpu: int = 0) -> None:
        if not DeviceResizer.supports(settings.geometry):
            raise SettingsError(
                "decoder gpu offers bilinear, bicubic, hamming and lanczos, with antialias: use decoder scaled"
            )
        self.settings = settings
        self._cp, codec = _package("cupy"), _package("nvidia.nvimgcodec")
        self._codec = codec
        try:
            self._device = self._cp.cuda.Device(gpu)
            with self._device:
                self._stream = self._cp.cuda.Stream(non_blocking=True)
                self._resize = DeviceResizer(self._cp, settings.geometry)
        except self._cp.cuda.runtime.CUDARuntimeError as error:
            raise SettingsError(f"decoder gpu: there is no usable NVIDIA GPU {gpu} ({error}): use scaled") from error
        self._decoder = _decoder(codec, gpu)
        # The kernel turns images upright.
        self._parameters = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
        self._fallback = Preprocessor(settings)
        self._memory = settings.limits.max_decode_mib * MIB
        self._host = np.empty(0, np.uint8)
        # The first batches wait for what the GPU's driver and nvImageCodec load and reserve: half a second and more.
        for size in (1, _WARM_UP_BATCH):
            self.decode([_warm_up_jpeg()] * size)

    def admit(
        self, requests: Sequence[Sequence[Unwrapped]], may_be_large: Callable[[], bool]
    ) -> list[RequestTooLong | DecodeLater | None]:
        """Choose the requests of a batch that are decoded now: see `admission.admit`."""
        costs = [[self.cost(data) for data in images] for images in requests]
        return admit(costs, self.settings.limits, self._fallback.threads, may_be_large)

    def cost(self, data: Unwrapped) -> DecodeCost:
        """Estimate what it costs to decode an image, on the GPU or on the CPU."""
        header = self._takes(data)
        return self._fallback.cost(data) if header is None else self._cost_on_device(header)

    def decode(self, images: Sequence[Unwrapped]) -> Decoded:
        """As `Preprocessor.decode`, but the pixels are a CuPy array. It is complete when this returns."""
        begun = time.perf_counter()
        height, width = self.settings.geometry.crop_size
        headers = [self._takes(data) for data in images]
        plain = [index for index, header in enumerate(headers) if header is not None]
        sizes = [self._cost_on_device(header).memory_bytes for header in headers if header is not None]
        left = set(range(len(images)))
        with self._device, self._stream:
            pixels = self._cp.empty((len(images), height, width, 3), np.uint8)
            for group in groups(sizes, self._memory):
                # Only bytes have a header.
                taken = {
                    place: image for place in map(plain.__getitem__, group) if isinstance(image := images[place], bytes)
                }
                try:
                    left -= self._decode_on_device(taken, headers, pixels)
                except Exception:
                    # What one image may have done to the decoder must not cost the others their answers.
                    log.exception("%d images could not be decoded on the GPU, and go to the CPU", len(taken))
            errors: list[ImageError | None] = [None] * len(images)
            seconds = [(time.perf_counter() - begun) / max(1, len(images))] * len(images)
            if left:
                places = sorted(left)
                decoded = self._fallback.decode([images[index] for index in places])
                for place, index in enumerate(places):
                    pixels[index].set(decoded.pixels[place])
                    errors[index], seconds[index] = decoded.errors[place], decoded.seconds[place]
            self._stream.synchronize()
        return Decoded(pixels, errors, seconds)

    def for_requests(self, pixels: Any, sizes: Sequence[int]) -> list[Any]:
        """Return the pixels of each request: of some images in host memory, and of more on the GPU.

        Args:
            pixels: Of `decode`.
            sizes: Images of each request, in order; together all of them.

        Returns:
            For each (N, H, W, 3) uint8. What lies in host memory is overwritten by the next call.
        """
        host: NDArray[np.uint8] | None = None
        if any(size <= _TO_HOST for size in sizes):
            if self._host.size < pixels.size:
                memory = self._cp.cuda.alloc_pinned_memory(pixels.size)
                self._host = np.frombuffer(memory, np.uint8, pixels.size)
            host = self._host[: pixels.size].reshape(pixels.shape)
            with self._device, self._stream:
                pixels.get(out=host)
        ends = itertools.accumulate(sizes)
        return [
            (pixels if host is None or size > _TO_HOST else host)[end - size : end]
            for size, end in zip(sizes, ends, strict=True)
        ]

    def close(self) -> None:
        """Wait for what is being decoded, and end the threads."""
        self._fallback.close()

    def _decode_on_device(
        self, images: Mapping[int, bytes], headers: Sequence[PlainJpeg | None], pixels: Any
    ) -> set[int]:
        """Decode plain JPEGs into their rows of `pixels`.

        Args:
            images: By their row.
            headers: Of each row.
            pixels: (N, crop height, crop width, 3) uint8 on the GPU.

        Returns:
            The rows that were written.
        """
        streams = [self._codec.CodeStream(data) for data in images.values()]
        decoded = self._decoder.decode(streams, params=self._parameters, cuda_stream=self._stream.ptr)
        windows = np.zeros(len(headers), WINDOW)
        on_device = set()
        for index, image in zip(images, decoded, strict=True):
            header = headers[index]
            if image is None or header is None:
                continue
            array = image.__cuda_array_interface__
            if array["shape"] != (header.height, header.width, 3) or array["typestr"] != "|u1":
                continue
            row_bytes = (array["strides"] or (header.width * 3,))[0]
            orientation = header.orientation if self.settings.exif_orientation else 1
            windows[index] = window(
                self.settings.geometry, array["data"][0], row_bytes, (header.width, header.height), orientation
            )
            on_device.add(index)
        self._resize(windows, pixels)
        # The decoded images are read until here.
        self._stream.synchronize()
        return on_device

    def _cost_on_device(self, header: PlainJpeg) -> DecodeCost:
        return device_cost(header, self._fallback.threads, self._memory)

    def _takes(self, data: Unwrapped) -> PlainJpeg | None:
        limits = self.settings.limits
        if isinstance(data, ImageError) or len(data) > limits.max_image_bytes:
            return None
        header = read_plain(data)
        return header if header is not None and header.width * header.height <= limits.max_pixels else None


def _warm_up_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", _WARM_UP_SIZE).save(file, "JPEG")
    return file.getvalue()


def _decoder(codec: Any, gpu: int) -> Any:
    """A decoder that uses the GPU's JPEG engines; where it has none, its cores and, for the Huffman codes, the CPU's.

    Engines alone, and one thread to feed them: with a second kind of decoder beside them, or a second thread,
    nvImageCodec shares each batch out among them and waits for the slowest (bench/NOTES.md).
    """
    kinds = codec.BackendKind
    for kind, threads in ((kinds.HW_GPU_ONLY, 1), (kinds.HYBRID_CPU_GPU, usable_cpus())):
        try:
            return codec.Decoder(device_id=gpu, max_num_cpu_threads=threads, backends=[codec.Backend(kind)])
        except RuntimeError as error:
            log.warning("nvImageCodec has no decoder %s on GPU %d: %s", kind.name, gpu, error)
    raise SettingsError(f"decoder gpu: nvImageCodec can decode no JPEG on GPU {gpu}: use scaled")


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: one of its libraries
        raise SettingsError(
            f"decoder gpu: the package {name} cannot be imported ({error}): {install_command('gpu-decode')}, "
            "or use scaled",
            reason="package_missing",
        ) from error
