"""Measures ways to make a classifier's pixels of JPEGs side by side: this project's, NVIDIA DALI, torchvision, Pillow.

Each decodes, resizes with antialias and crops batches, in one process, with as many instances as serve it best; what it
decodes on a GPU stays there. The ways take turns, so that a busy machine slows all of them.
"""

from __future__ import annotations

import io
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jpeg_bench.errors import BenchError
from jpeg_bench.machine import describe_machine, package_versions
from jpeg_bench.options import PHOTOS, PhotoOptions, PositiveIntegers, comma_separated, joined
from jpeg_bench.photos import rotate_batches
from jpeg_bench.recorder import clock
from jpeg_bench.results import write_result
from jpeg_bench.worker_processes import run_together
from jpeg_contract.command_line import FAILED, OK, Parameter, PositiveInteger, PositiveSeconds, make_app, note, run_app
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.errors import ReasonedError
from jpeg_contract.geometry import Geometry
from jpeg_contract.settings import PreprocessSettings

COMMAND = "decode_pipelines.py"
# ImageNet's usual evaluation.
GEOMETRY = Geometry(256, (224, 224))
_LIMIT_S = 120.0
_PACKAGES = {"dali": "nvidia-dali-cuda120", "torchvision": "torchvision"}

Way = Literal["gpu", "scaled", "full", "dali-gpu", "dali-cpu", "torchvision-gpu", "torchvision-cpu", "pillow"]
"""`gpu`, `scaled` and `full` are this project's decoders."""

Step = Callable[[], Any]
"""Makes the pixels of one batch, in host memory or on the GPU: (N, H, W, 3) or (N, 3, H, W) uint8."""

app = make_app(COMMAND, "Measure ways to decode, resize and crop JPEGs side by side.")
app.usage = f"Usage: {COMMAND} --results FILE [OPTIONS]"


@dataclass(frozen=True)
class Found:
    """What a way reaches.

    Attributes:
        way: Its name.
        instances: Instances, each in a thread of its own, with which it was fastest.
        batch: Images per batch.
        images_per_s: Median of the rounds.
        least: Of the rounds.
        most: Of the rounds.
        mean_counts: Mean difference of the pixels from those of decoder full, in counts of 255.
        most_counts: The largest difference.
    """

    way: Way
    instances: int
    batch: int
    images_per_s: float
    least: float
    most: float
    mean_counts: float
    most_counts: int


def main() -> int:
    """Run the command and return its exit status."""
    return run_app(app, None, extra="bench", statuses={ReasonedError: FAILED})


@app.default
def measure_all(
    *,
    results: Path,
    ways: Annotated[tuple[Way, ...], Parameter(converter=comma_separated, show_default=joined)] = ("scaled", "pillow"),
    photos: PhotoOptions = PHOTOS,
    batch_size: PositiveInteger = 64,
    instances: PositiveIntegers = (1, 2, 4),
    seconds: PositiveSeconds = 2.0,
    rounds: PositiveInteger = 3,
) -> int:
    """Measure all ways, and return the exit status.

    Args:
        results: JSON file to write.
        ways: Ways to measure, separated by commas.
        photos: The photos.
        batch_size: Images per batch.
        instances: Numbers of instances to try, separated by commas.
        seconds: Length of a measurement.
        rounds: Measurements of each way with its best number of instances.
    """
    read = photos.read()
    data = read.data
    wanted = _pixels("full", data)
    best = {way: max(instances, key=lambda count: _rate(way, data, batch_size, count, seconds)) for way in ways}
    rates: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            rates[way].append(_rate(way, data, batch_size, best[way], seconds))
    found = []
    for way in ways:
        difference = np.abs(_pixels(way, data).astype(int) - wanted)
        rate = rates[way]
        found.append(
            Found(
                way,
                best[way],
                batch_size,
                round(statistics.median(rate), 1),
                round(min(rate), 1),
                round(max(rate), 1),
                round(float(difference.mean()), 3),
                int(difference.max()),
            )
        )
        note(
            COMMAND,
            f"{way}: {found[-1].images_per_s:,.0f} images/s ({min(rate):,.0f} to {max(rate):,.0f}) with "
            f"{best[way]} instances; pixels differ by {difference.mean():.2f} counts, at most {difference.max()}",
        )
    write_result(
        results,
        {
            "machine": describe_machine(),
            "versions": package_versions(),
            "photos": read.to_json(),
            "found": [asdict(each) for each in found],
        },
    )
    return OK


def prepare(way: Way, photos: Sequence[bytes], batch: int, instances: int, seconds: float) -> Callable[[float], float]:
    """Open a way in this process.

    Returns:
        Function that works from a start time on, and returns the images per second.
    """
    steps = [open_way(way, itertools.cycle(rotate_batches(photos, batch)), batch, instances) for _ in range(instances)]
    for step in steps:
        step()

    def run(start: float) -> float:
        time.sleep(max(0.0, start - clock()))
        counts, failures = [0] * instances, list[Exception]()

        def work(number: int) -> None:
            try:
                while clock() < start + seconds:
                    steps[number]()
                    counts[number] += 1
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(instances)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return sum(counts) * batch / (clock() - start)

    return run


def prepare_pixels(way: Way, photos: Sequence[bytes]) -> Callable[[float], Any]:
    """Open a way in this process; returns a function that makes the pixels of all photos, (N, H, W, 3) uint8."""
    step = open_way(way, itertools.repeat(list(photos)), len(photos), 1)
    return lambda _: in_host_memory(way, step())


def open_way(way: Way, batches: Iterator[list[bytes]], batch: int, instances: int) -> Step:
    """Open an instance of a way.

    Args:
        way: Its name.
        batches: Encoded images; endless.
        batch: Images in each.
        instances: That share the CPUs.

    Raises:
        BenchError: A package is missing.
    """
    device = "gpu" if way.endswith("gpu") else "cpu"
    try:
        if way.startswith("dali"):
            return _dali(batches, batch, device, max(1, usable_cpus() // instances))
        if way.startswith("torchvision"):
            return _torchvision(batches, device)
    except ModuleNotFoundError as error:
        package = _PACKAGES[way.partition("-")[0]]
        raise BenchError(
            f"{way} needs the package {error.name}: pip install {package}", reason="package_missing"
        ) from error
    return _pillow(batches) if way == "pillow" else _ours(batches, way, max(1, usable_cpus() // instances))


def in_host_memory(way: Way, pixels: Any) -> Any:
    """Return pixels as an array (N, H, W, 3)."""
    if way.startswith("dali"):
        return np.asarray((pixels.as_cpu() if way == "dali-gpu" else pixels).as_array())
    if way.startswith("torchvision"):
        return pixels.permute(0, 2, 3, 1).cpu().numpy()
    return pixels if isinstance(pixels, np.ndarray) else pixels.get()


def _ours(batches: Iterator[list[bytes]], decoder: str, threads: int) -> Step:
    from jpeg_preprocess import open_preprocessor

    preprocessor = open_preprocessor(PreprocessSettings(GEOMETRY, decoder=decoder, threads=threads))

    def step() -> Any:
        decoded = preprocessor.decode(next(batches))
        for error in decoded.errors:
            if error is not None:
                raise error
        return decoded.pixels

    return step


def _dali(batches: Iterator[list[bytes]], batch: int, device: str, threads: int) -> Step:
    from nvidia.dali import fn, pipeline_def, types

    def encoded() -> list[Any]:
        return [np.frombuffer(image, np.uint8) for image in next(batches)]

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=0 if device == "gpu" else None)
    def pipeline() -> Any:
        jpegs = fn.external_source(source=encoded, dtype=types.UINT8, ndim=1)
        images = fn.decoders.image(jpegs, device="mixed" if device == "gpu" else "cpu", output_type=types.RGB)
        resized = fn.resize(
            images,
            resize_shorter=GEOMETRY.resize_size,
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        return fn.crop(resized, crop=GEOMETRY.crop_size, rounding="truncate", dtype=types.UINT8)

    made = pipeline()
    made.build()
    # The next batches are made meanwhile; what is returned is complete.
    return lambda: made.run()[0]


def _torchvision(batches: Iterator[list[bytes]], device: str) -> Step:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    name = "cuda" if device == "gpu" else "cpu"
    stream = torch.cuda.Stream() if device == "gpu" else None

    def step() -> Any:
        encoded = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in next(batches)]
        with torch.cuda.stream(stream):
            images = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=name)
            pixels = [
                functional.center_crop(
                    functional.resize(image, [GEOMETRY.resize_size], antialias=True), list(GEOMETRY.crop_size)
                )
                for image in images
            ]
            made = torch.stack(pixels)
        if stream is not None:
            stream.synchronize()
        return made

    return step


def _pillow(batches: Iterator[list[bytes]]) -> Step:
    """As many servers do it: image by image, all of the photo, one thread."""
    from PIL import Image

    def pixels(data: bytes) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            photo = image.convert("RGB")
        width, height = photo.size
        ratio = GEOMETRY.resize_size / min(width, height)
        photo = photo.resize((int(width * ratio), int(height * ratio)), Image.Resampling.BILINEAR)
        (rows, columns), (width, height) = GEOMETRY.crop_size, photo.size
        left, top = round((width - columns) / 2), round((height - rows) / 2)
        return np.asarray(photo.crop((left, top, left + columns, top + rows)))

    return lambda: np.stack([pixels(data) for data in next(batches)])


def _rate(way: Way, photos: Sequence[bytes], batch: int, instances: int, seconds: float) -> float:
    _, [rate] = run_together(prepare, [(way, photos, batch, instances, seconds)], timeout_s=seconds + _LIMIT_S)
    return float(rate)


def _pixels(way: Way, photos: Sequence[bytes]) -> Any:
    _, [pixels] = run_together(prepare_pixels, [(way, photos)], timeout_s=_LIMIT_S)
    return pixels


if __name__ == "__main__":
    raise SystemExit(main())
