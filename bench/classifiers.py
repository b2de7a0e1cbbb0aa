"""Builds, verifies, serves and measures classifiers of several backends and precisions on this machine.

Usage: classifiers.py RECIPE --results FILE [--build BACKEND:PRECISION[:OPTION,...] ...]

For each --build (default: onnx and openvino in fp32, fp16 and int8): jpeg-build, jpeg-build verify --speed (the
classifier alone, from host memory to host memory), then a real tritonserver on free ports, whose ensemble classifies
the project's photos and is measured with raw JPEGs: one request at a time, and many at once. One JSON file holds all
results, with machine and versions. What fails is in it with its reason, and the next one goes on.

OPTIONs are options of jpeg-build, without the dashes: torch_tensorrt:fp32:no-trt.

Engines take minutes to build, and several build at once without loss; nothing else may run while one is measured. So
the two can be done apart: `--repositories FOLDER --only build` for each of them, at once, then the same without --only,
which measures what is built there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from jpeg_client import Client, JpegClientError
from jpeg_serve import ServeError, ServerOptions, TritonServer

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = sorted((ROOT / "photos").glob("*.jpg"))

DEFAULT = [f"{backend}:{precision}" for backend in ("onnx", "openvino") for precision in ("fp32", "fp16", "int8")]
SECONDS = 5.0
IMAGES_A_REQUEST = 8


def main() -> int:
    options = parser().parse_args()
    results: dict[str, Any] = {"recipe": Path(options.recipe).stem, "machine": machine(), "classifiers": []}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for entry in options.build or DEFAULT:
            repository = (options.repositories or Path(folder)) / re.sub(r"[^\w.-]+", "-", entry)
            found = build(options, repository, entry)
            if "error" not in found and options.only != "build":
                measure(options, repository, found)
            if options.repositories is None:
                shutil.rmtree(repository, ignore_errors=True)
            results["classifiers"].append(found)
            # After each: what was measured is not lost if the next one takes the machine down.
            aside = options.results.with_suffix(".part")
            aside.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            aside.replace(options.results)
            print(line(found), flush=True)
    return 0 if all("error" not in found for found in results["classifiers"]) else 1


def build(options: argparse.Namespace, repository: Path, entry: str) -> dict[str, Any]:
    """What building it said, and what of that is worth keeping; from an earlier call if it is built already."""
    noted = repository / "built.json"
    if noted.is_file():
        known: dict[str, Any] = json.loads(noted.read_text(encoding="utf-8"))
        return known
    backend, precision, *rest = entry.split(":", 2)
    extra = [f"--{option}" for option in rest[0].split(",")] if rest else []
    found: dict[str, Any] = {"backend": backend, "precision": precision, "options": extra}
    asked = ["jpeg_build", options.recipe, "--backend", backend, "--precision", precision]
    begun = time.monotonic()
    built = run([*asked, *weights(options), "--model-repository", str(repository / "model_repository"), *extra])
    found["build_s"] = round(time.monotonic() - begun, 1)
    if isinstance(built, str):
        return {**found, "error": built}
    found |= {key: built[key] for key in ("artefact", "requires", "details", "parity", "versions")}
    noted.write_text(json.dumps(found), encoding="utf-8")
    return found


def weights(options: argparse.Namespace) -> list[str]:
    if options.checkpoint:
        return ["--checkpoint", options.checkpoint]
    return ["--weights", "none"] if options.weights == "none" else []


def measure(options: argparse.Namespace, repository: Path, found: dict[str, Any]) -> None:
    """Adds speeds and labels to `found`, or why there are none."""
    models = repository / "model_repository"
    where = ["--model-repository", str(models)]
    asked = ["jpeg_build", "verify", found["backend"], "--speed", "--recipe", options.recipe]
    verified = run([*asked, *weights(options), *where])
    if isinstance(verified, str):
        found["error"] = verified
        return
    found["alone_images_per_s"] = verified["images_per_second"]
    log = options.results.with_name(f"{options.results.stem}-{found['backend']}-{found['precision']}.log")
    settings = ServerOptions(
        model_repository=models, backends=ROOT / "backends", http_port=0, grpc_port=0, metrics_port=0
    )
    try:
        with log.open("wb") as sink, TritonServer(settings, log=sink) as server:
            found["ensemble"] = ensemble(server.grpc_address, options.processes, options.seconds)
        log.unlink()
    except (ServeError, JpegClientError, RuntimeError, OSError) as error:
        found["error"] = f"{type(error).__name__}: {error}"


def ensemble(address: str, processes: int, seconds: float) -> dict[str, Any]:
    """Labels of the photos, then the speed: one request at a time, then from several processes at once."""
    with Client(f"grpc://{address}") as client:
        labels = {
            photo.name: f"{prediction.labels[0]} {prediction.scores[0]:.3f}"
            for photo, prediction in zip(PHOTOS, client.classify(PHOTOS, k=1), strict=True)
        }
    alone = ask(address, 1, seconds / 2)
    # Fresh processes, not forks: gRPC does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(ask, [address] * processes, [IMAGES_A_REQUEST] * processes, [1.0] * processes))
        asked = [pool.submit(ask, address, IMAGES_A_REQUEST, seconds) for _ in range(processes)]
        busy = [future.result() for future in asked]
    return {
        "labels": labels,
        "one_at_a_time_p50_ms": round(statistics.median(alone) * 1e3, 2),
        "processes": processes,
        "images_a_request": IMAGES_A_REQUEST,
        # Each process for the time that its own requests took: the last one ends after the others.
        "images_per_s": round(sum(len(times) / sum(times) for times in busy) * IMAGES_A_REQUEST, 1),
        "request_p50_ms": round(statistics.median(time for times in busy for time in times) * 1e3, 2),
    }


def ask(address: str, images: int, seconds: float) -> list[float]:
    """Ask again and again; the time of each request, in seconds."""
    data = [photo.read_bytes() for photo in PHOTOS]
    batch = (data * images)[:images]
    times = []
    with Client(f"grpc://{address}") as client:
        client.classify(batch)
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            client.classify(batch)
            times.append(time.perf_counter() - begun)
    return times


def run(arguments: list[str]) -> Any:
    """A command of this project: what it prints as JSON, or, as text, why it failed."""
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    return "\n".join(done.stderr.strip().splitlines()[-8:]) or f"exit status {done.returncode}"


def machine() -> dict[str, Any]:
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    gpus = subprocess.run(asked, capture_output=True, text=True, check=False).stdout if shutil.which(asked[0]) else ""
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((row.split(":")[1].strip() for row in rows if "model name" in row), "")
    return {
        "gpus": gpus.strip().splitlines(),
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def line(found: dict[str, Any]) -> str:
    name = f"{found['backend']} {found['precision']}"
    if "error" in found:
        return f"{name}: FAILED: {found['error'].splitlines()[-1][:200]}"
    built = f"{name}: parity {found['parity']['relative_difference']:.2g}, built in {found['build_s']} s"
    if "ensemble" not in found:
        return built
    served = found["ensemble"]
    return (
        f"{built}, alone {found['alone_images_per_s']} images/s, ensemble {served['images_per_s']} images/s, "
        f"p50 {served['one_at_a_time_p50_ms']} ms"
    )


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("recipe", metavar="RECIPE", help="name or path, as jpeg-build takes it")
    found.add_argument("--results", type=Path, required=True, metavar="FILE", help="JSON file to write")
    found.add_argument("--build", action="append", metavar="BACKEND:PRECISION[:OPTION,...]", help="can be repeated")
    found.add_argument("--weights", choices=["recipe", "none"], default="recipe", help="none: random (default: recipe)")
    found.add_argument("--checkpoint", metavar="FILE", help="weights, as jpeg-build takes them")
    found.add_argument("--repositories", type=Path, metavar="FOLDER", help="where to build, and keep what was built")
    found.add_argument("--only", choices=["build"], help="build: do not measure")
    found.add_argument("--processes", type=int, default=4, metavar="N", help="that ask at once (default: 4)")
    found.add_argument("--seconds", type=float, default=SECONDS, help=f"of each measurement (default: {SECONDS:g})")
    return found


if __name__ == "__main__":
    sys.exit(main())
