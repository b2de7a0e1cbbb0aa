"""Measures what decoding costs on this machine, beside the estimate by which the server admits requests.

Each sample is an image that costs much for its pixels, its bytes, its scans or its size, alone or many in a batch.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jpeg_contract.command_line import FAILED, OK, make_app, note, run_app
from jpeg_contract.errors import ReasonedError
from jpeg_contract.geometry import Geometry
from jpeg_contract.settings import Limits, PreprocessSettings
from jpeg_preprocess import DevicePreprocessor, Preprocessor, open_preprocessor
from jpeg_preprocess.decode_cost import MIB
from PIL import Image

COMMAND = "decode_cost.py"
PHOTO = Path(__file__).resolve().parents[1] / "photos" / "china.jpg"
# The samples themselves are beyond none of these; what is admitted is not the question here.
LIMITS = Limits(max_image_bytes=100_000_000, max_decode_ms=60_000)
_SAMPLE_S = 0.002

app = make_app(COMMAND, "Measure what decoding images costs on this machine, beside the server's estimate of it.")
app.usage = f"Usage: {COMMAND} --results FILE [OPTIONS]"


@dataclass(frozen=True)
class Measured:
    """One sample.

    Attributes:
        sample: What it is.
        images: In the batch.
        image_mb: Length of one image in megabytes.
        seconds: Of the batch, best of the rounds.
        estimated_seconds: What the server expects, for all images together.
        memory_mib: By which a GPU's used memory grew meanwhile; 0 on a CPU.
    """

    sample: str
    images: int
    image_mb: float
    seconds: float
    estimated_seconds: float
    memory_mib: int


def main() -> int:
    """Run the command and return its exit status."""
    return run_app(app, None, extra="bench", statuses={ReasonedError: FAILED})


@app.default
def measure_all(*, results: Path, decoder: Literal["scaled", "full", "gpu"] = "scaled", rounds: int = 3) -> int:
    """Measure all samples, and return the exit status.

    Args:
        results: JSON file to write.
        decoder: As in the config of `preprocess`.
        rounds: Measurements of each sample; the fastest counts.
    """
    from jpeg_bench.machine import describe_machine, package_versions
    from jpeg_bench.results import write_result

    # One thread on the CPU, as the estimate has it.
    settings = PreprocessSettings(Geometry(256, (224, 224)), decoder=decoder, threads=1, limits=LIMITS)
    preprocessor = open_preprocessor(settings)
    found: list[dict[str, Any]] = []
    result = {"decoder": decoder, "machine": describe_machine(), "versions": package_versions(), "samples": found}
    try:
        for name, data, images in samples():
            for count in (1, images) if decoder == "gpu" and images > 1 else (1,):
                measured = measure(preprocessor, name, [data] * count, rounds)
                found.append(asdict(measured))
                write_result(results, result)
                note(
                    COMMAND,
                    f"{name} x {count}: {measured.seconds:.3f} s, estimated {measured.estimated_seconds:.3f} s, "
                    f"GPU memory {measured.memory_mib} MiB",
                )
    finally:
        preprocessor.close()
    return OK


def measure(preprocessor: Preprocessor | DevicePreprocessor, name: str, images: list[bytes], rounds: int) -> Measured:
    """Decode a batch several times."""
    seconds, memory = [], 0
    for _ in range(rounds):
        with peak_memory(isinstance(preprocessor, DevicePreprocessor)) as peak:
            begun = time.perf_counter()
            decoded = preprocessor.decode(images)
            seconds.append(time.perf_counter() - begun)
        memory = max(memory, peak())
        for error in decoded.errors:
            if error is not None:
                raise error
    estimated = sum(preprocessor.cost(data).seconds for data in images)
    return Measured(
        name, len(images), round(len(images[0]) / 1e6, 2), round(min(seconds), 4), round(estimated, 4), memory // MIB
    )


@contextmanager
def peak_memory(on_gpu: bool) -> Iterator[Callable[[], int]]:
    """Watch the used memory of the first GPU; yields what returns by how many bytes it grew at most."""
    if not on_gpu:
        yield lambda: 0
        return
    import cupy

    def used() -> int:
        free, total = cupy.cuda.runtime.memGetInfo()
        return int(total - free)

    before, most, done = used(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_S):
            most[0] = max(most[0], used() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: most[0]
    finally:
        done.set()
        watcher.join()


def samples() -> Iterator[tuple[str, bytes, int]]:
    """Yield each sample's name, its encoded image, and a number of images for a batch."""
    china = Image.open(PHOTO).convert("RGB")
    yield "a photo of 500 x 375", encode(china.resize((500, 375)), quality=85), 64
    phone = grainy(china, 4000, 3000)
    yield "12 megapixels, a photo, 4:2:0, quality 85", encode(phone, quality=85), 64
    yield "12 megapixels, 4:4:4, quality 95", encode(phone, quality=95, subsampling=0), 16
    yield "12 megapixels, a photo, progressive", encode(phone, quality=85, progressive=True), 4
    yield "50 megapixels, a photo, 4:2:0, quality 85", encode(grainy(china, 8160, 6144), quality=85), 8
    yield "120 megapixels of one colour", encode(Image.new("RGB", (12_000, 10_000), (90, 120, 30))), 8
    yield "120 megapixels, a photo, 4:2:0, quality 75", encode(grainy(china, 12_000, 10_000), quality=75), 4


def grainy(image: Image.Image, width: int, height: int) -> Image.Image:
    """Enlarge a photo, and add the grain that the enlarged one lacks: +-6 counts, the same in all channels."""
    large = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(0).integers(-6, 7, (height, width, 1), np.int16)
    return Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: Any) -> bytes:
    """Encode an image as JPEG. options: of Pillow."""
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
