"""Builds, verifies, serves and measures classifiers of several forms and precisions on this machine.

For each --build: jpeg-build, jpeg-build verify --speed, then a tritonserver on free ports that classifies the photos of
this project and is measured under two closed loops. One JSON file holds all results, the machine and the versions. A
failure is part of the result, and does not affect the other builds.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from jpeg_contract.command_line import (
    FAILED,
    OK,
    Parameter,
    PositiveInteger,
    PositiveSeconds,
    Progress,
    make_app,
    note,
    run_app,
)
from jpeg_contract.command_line import progress as show_progress
from jpeg_contract.errors import ReasonedError

COMMAND = "classifiers.py"
CHECKOUT = Path(__file__).resolve().parents[1]
PHOTOS = CHECKOUT / "photos"

BUILDS = tuple(f"{form}:{precision}" for form in ("onnx", "openvino") for precision in ("fp32", "fp16", "int8"))

app = make_app(
    COMMAND,
    "Build, verify, serve and measure classifiers of several forms and precisions on this machine.",
    "Engines take minutes to build, and several builds can run at the same time. Nothing else must run during a "
    "measurement. So build first, with `--repositories DIR --only-build`, and then measure without --only-build.\n\n"
    "Exit status: 0 all measured; 1 a build or a measurement failed; 2 the call is invalid.",
)
app.usage = f"Usage: {COMMAND} RECIPE --results FILE [OPTIONS]"


def main() -> int:
    """Run the command and return its exit status."""
    return run_app(app, None, extra="bench", statuses={ReasonedError: FAILED})


@app.default
def measure_all(
    recipe: str,
    /,
    *,
    results: Path,
    build: Annotated[tuple[str, ...], Parameter(show_default=" ".join(BUILDS))] = BUILDS,
    weights: Literal["recipe", "none"] = "recipe",
    checkpoint: Path | None = None,
    repositories: Path | None = None,
    only_build: bool = False,
    concurrency: PositiveInteger = 4,
    batch_size: PositiveInteger = 8,
    seconds: PositiveSeconds = 5.0,
) -> int:
    """Build and measure classifiers, and return the exit status.

    Args:
        recipe: Name or path of the recipe.
        results: JSON file to write.
        build: FORM:PRECISION, or FORM:PRECISION:OPTION,... with options of jpeg-build without dashes. Can be repeated.
        weights: none takes random weights.
        checkpoint: File with weights.
        repositories: Folder that keeps the built repositories. By default they are deleted.
        only_build: Build without measuring.
        concurrency: Concurrent requests of the second closed loop; the first has one request of one image.
        batch_size: Images per request of the second closed loop.
        seconds: Duration of each measurement in seconds.
    """
    from jpeg_bench.machine import describe_machine
    from jpeg_bench.results import write_result

    weight_options = ["--checkpoint", str(checkpoint)] if checkpoint else ["--weights", weights]
    result: dict[str, Any] = {"recipe": Path(recipe).stem, "machine": describe_machine(), "classifiers": []}
    with ExitStack() as stack:
        progress = stack.enter_context(show_progress(COMMAND))
        folder = repositories or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for entry in build:
            repository = folder / re.sub(r"[^\w.-]+", "-", entry)
            progress(f"{entry}: build")
            found = build_classifier(repository, recipe, entry, weight_options)
            if "error" not in found and not only_build:
                progress(f"{entry}: measure")
                options = ["--recipe", recipe, *weight_options]
                measure_classifier(repository, found, options, (concurrency, batch_size, seconds))
            if repositories is None:
                shutil.rmtree(repository, ignore_errors=True)
            result["classifiers"].append(found)
            # After each: a crash of the machine loses one measurement.
            write_result(results, result)
            report(progress, found)
    note(COMMAND, f"written: {results}")
    return FAILED if any("error" in found for found in result["classifiers"]) else OK


def build_classifier(repository: Path, recipe: str, entry: str, weight_options: list[str]) -> dict[str, Any]:
    """Build a classifier, or read the result of an earlier build.

    Args:
        repository: Folder of the model repository and of the result.
        recipe: Name or path of the recipe.
        entry: FORM:PRECISION or FORM:PRECISION:OPTION,...
        weight_options: Options of jpeg-build for the weights.

    Returns:
        Duration and report of the build, or its error.
    """
    result_file = repository / "built.json"
    if result_file.is_file():
        known: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
        return known
    form, precision, *rest = entry.split(":", 2)
    options = [f"--{option}" for option in rest[0].split(",")] if rest else []
    found: dict[str, Any] = {"backend": form, "precision": precision, "options": options}
    begin = time.monotonic()
    built = run_jpeg_build(
        ["build", recipe, "--backend", form, "--precision", precision, *weight_options, *options],
        repository / "model_repository",
    )
    found["build_s"] = round(time.monotonic() - begin, 1)
    if isinstance(built, str):
        return {**found, "error": built}
    found |= {key: built.get(key, {}) for key in ("artefact", "requires", "details", "parity", "versions")}
    result_file.write_text(json.dumps(found), encoding="utf-8")
    return found


def measure_classifier(
    repository: Path, found: dict[str, Any], options: list[str], load: tuple[int, int, float]
) -> None:
    """Add the throughput of the classifier alone and of the ensemble to `found`, or an error.

    Args:
        repository: See `build_classifier`.
        found: Result of the build.
        options: Options of jpeg-build verify.
        load: Concurrency, images per request and duration in seconds.
    """
    from jpeg_bench.target_server import start_server

    models = repository / "model_repository"
    verified = run_jpeg_build(["verify", found["backend"], "--speed", *options], models)
    if isinstance(verified, str):
        found["error"] = verified
        return
    found["alone_images_per_s"] = verified["images_per_second"]
    try:
        with start_server(models) as server:
            found["ensemble"] = measure_ensemble(server.addresses["grpc"], load)
    except (ReasonedError, OSError) as error:
        found["error"] = f"{type(error).__name__}: {error}"


def measure_ensemble(address: str, load: tuple[int, int, float]) -> dict[str, Any]:
    """Classify the photos, then apply two closed loops over gRPC.

    Args:
        address: HOST:PORT of the server.
        load: Concurrency, images per request and duration in seconds of the second closed loop.

    Returns:
        Labels of the photos, median latency of single images, and throughput and median latency of the second loop.
    """
    from jpeg_bench.ensemble_requests import prepare_requests
    from jpeg_bench.load import Load
    from jpeg_bench.load_generator import run_load
    from jpeg_bench.photos import read_photos
    from jpeg_client import Client

    concurrency, batch_size, seconds = load
    photos = read_photos(PHOTOS)
    with Client(f"grpc://{address}") as client:
        labels = {
            name: f"{prediction.labels[0]} {prediction.scores[0]:.3f}"
            for name, prediction in zip(photos.names, client.classify(list(photos.data), k=1), strict=True)
        }
    single = run_load(prepare_requests("grpc", address, photos.data), Load(concurrency=1, seconds=seconds / 2))
    requests = prepare_requests("grpc", address, photos.data, batch_size=batch_size)
    batched = run_load(requests, Load(concurrency=concurrency, seconds=seconds))
    return {
        "labels": labels,
        "single_p50_ms": round(single.p50_ms, 2),
        "concurrency": concurrency,
        "batch_size": batch_size,
        "images_per_s": round(batched.images_per_s, 1),
        "p50_ms": round(batched.p50_ms, 2),
    }


def run_jpeg_build(arguments: list[str], repository: Path) -> dict[str, Any] | str:
    """Run jpeg-build, and return its JSON result or its last lines of stderr."""
    command = [sys.executable, "-m", "jpeg_build", *arguments, "--model-repository", str(repository), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return "\n".join(done.stderr.strip().splitlines()[-3:]) or f"exit status {done.returncode}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def report(progress: Progress, found: dict[str, Any]) -> None:
    """Report a result on one line."""
    name = f"{found['backend']} {found['precision']}"
    if "error" in found:
        progress(f"{name} failed: {found['error'].splitlines()[-1][:200]}")
        return
    line = f"{name}: parity {found['parity']['relative_difference']:.2g}, built in {found['build_s']} s"
    if "ensemble" in found:
        ensemble = found["ensemble"]
        line += f", alone {found['alone_images_per_s']} images/s, ensemble {ensemble['images_per_s']} images/s"
        line += f", single image p50 {ensemble['single_p50_ms']} ms"
    progress(line)


if __name__ == "__main__":
    sys.exit(main())
