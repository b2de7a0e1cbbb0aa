"""How cost grows: with requests in flight, images of a request, size of the images, instances of the steps."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jpeg_bench.asks import Load
from jpeg_bench.errors import BenchError
from jpeg_bench.machine import machine, versions
from jpeg_bench.photos import read_photos
from jpeg_bench.serve import Point, measure, prepared
from jpeg_bench.steps import ENSEMBLE, read_steps
from jpeg_bench.target import own_server

IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = ((250, 188), (500, 375), (1000, 750), (2000, 1500), (4000, 3000))
INSTANCES = (1, 2, 3)
_IN_FLIGHT = 32
_IMAGES_IN_FLIGHT = 64

Tell = Callable[[str], None]


def sweep(repository: Path, folder: Path, load: Load, tell: Tell) -> dict[str, Any]:
    """Measure along each of the four, over gRPC (the first also over HTTP). Raises BenchError.

    folder: of the photos. load: seconds, warm-up and processes of each point; requests in flight are set here.
    """

    def point(target: Any, protocol: Any, photos: Sequence[bytes], images: int, in_flight: int) -> dict[str, Any]:
        asked = Load(in_flight=in_flight, processes=load.processes, warmup_s=load.warmup_s, seconds=load.seconds)
        found = measure(target, prepared(target, protocol, photos, images), asked)
        tell(str(found))
        return _short(found)

    photos = read_photos(folder).data
    most = read_steps(repository).max_batch_size
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "seconds": load.seconds}
    with own_server(repository) as target:
        result["in_flight"] = [
            point(target, protocol, photos, 1, count) for protocol in ("grpc", "http") for count in IN_FLIGHT
        ]
        result["batch"] = [
            point(target, "grpc", photos, images, max(2, _IMAGES_IN_FLIGHT // images))
            for images in BATCHES
            if images <= most
        ]
        result["image_size"] = []
        for size in SIZES:
            resized = read_photos(folder, size)
            found = {
                "size": f"{size[0]}x{size[1]}",
                "megapixels": round(size[0] * size[1] / 1e6, 3),
                "mean_bytes": resized.to_json()["mean_bytes"],
            }
            result["image_size"].append({**found, **point(target, "grpc", resized.data, 1, _IN_FLIGHT)})
    result["instances"] = []
    for count in INSTANCES:
        with instances(repository, count) as changed, own_server(changed) as target:
            tell(f"{count} instances of each step that may have several")
            one = point(target, "grpc", photos, 1, 1)
            many = point(target, "grpc", photos, 1, _IN_FLIGHT)
            result["instances"].append({"instances": count, "one": one, "many": many})
    return result


@contextmanager
def instances(repository: Path, count: int) -> Iterator[Path]:
    """A copy of a repository in which preprocess and the classifier run so many instances, while the block lasts."""
    from google.protobuf import text_format
    from jpeg_serve.models import read_models

    models, problems = read_models(repository)
    if ENSEMBLE not in models:
        raise BenchError(f"{repository} has no ensemble {ENSEMBLE}{f' ({problems[0]})' if problems else ''}")
    names = [step.model_name for step in models[ENSEMBLE].config.ensemble_scheduling.step]
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / "model_repository"
        shutil.copytree(repository, changed, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        if (beside := repository.resolve().parent / "backends").is_dir():  # where jpeg-serve looks for them first
            (Path(folder) / "backends").symlink_to(beside)
        for name in names:
            if name != "postprocess":
                config = models[name].config
                for group in config.instance_group:
                    group.count = count
                (changed / name / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
        yield changed


def _short(point: Point) -> dict[str, Any]:
    said = point.to_json()
    kept = ("protocol", "images_a_request", "in_flight", "images_per_s", "p50_ms", "p99_ms", "failures")
    memory = said["memory"]
    return {
        **{name: said[name] for name in kept},
        "client_limited": said["client_limited"],
        "cpu_cores": said["cpu_cores"] and said["cpu_cores"]["all"],
        "pss_mib": memory and memory["pss_mib"],
    }
