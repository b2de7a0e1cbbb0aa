"""Builds the demo classifier if necessary, serves it, and classifies real photos over gRPC and HTTP.

Usage: demo.py [RECIPE]     (make demo runs it; without RECIPE: the recipe that was built last, else mobilenet_v2)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jpeg_client import Client, JpegClientError, Prediction
from jpeg_serve import ServeError, ServerOptions, TritonServer

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"
LABELS = 3
DEFAULT_RECIPE = "mobilenet_v2"


def main(recipe: str | None) -> int:
    begun = time.monotonic()
    held = recipe_in_repository()
    if recipe is None and held not in (None, DEFAULT_RECIPE):
        progress(f"model_repository holds {held}: using that; to go back, .venv/bin/jpeg-build {DEFAULT_RECIPE}")
    else:
        wanted = recipe or DEFAULT_RECIPE
        build = [sys.executable, "-m", "jpeg_build", wanted, "--if-needed", "--model-repository", str(REPOSITORY)]
        if subprocess.run(build, stdout=subprocess.DEVNULL, check=False).returncode:
            return 1
    photos = sorted((ROOT / "photos").glob("*.jpg"))
    with tempfile.TemporaryFile() as log:
        progress("starting tritonserver on free ports of 127.0.0.1")
        server = TritonServer(
            ServerOptions(model_repository=REPOSITORY, http_port=0, grpc_port=0, metrics_port=0), log=log
        )
        try:
            with server:
                progress(f"ready (pid {server.pid}, gRPC {server.grpc_address}, HTTP {server.http_address})")
                rows = classify(server, photos)
                progress("stopping the server")
        except (ServeError, JpegClientError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    print_table(rows)
    progress(
        f"done in {time.monotonic() - begun:.1f} s; now: make serve, and in another terminal {classify_line(photos[0])}"
    )
    return 0


def recipe_in_repository() -> str | None:
    """Return the recipe of the classifier that was built last, None if there is none."""
    try:
        report = json.loads((REPOSITORY / "classifier_onnx" / "1" / "model.json").read_text(encoding="utf-8"))
        return str(report["recipe"])
    except (OSError, ValueError, KeyError):
        return None


def classify(server: TritonServer, photos: list[Path]) -> list[tuple[str, Prediction, float, float]]:
    """Classify each photo over gRPC and HTTP, after one warm-up request of each; times in milliseconds."""
    rows = []
    # Both clients close before the server stops: it waits for open connections.
    with Client(f"grpc://{server.grpc_address}") as grpc, Client(f"http://{server.http_address}") as http:
        for client in (grpc, http):
            client.classify(photos[:1])
        for photo in photos:
            data = photo.read_bytes()
            (by_grpc,), grpc_ms = timed(grpc, data)
            (by_http,), http_ms = timed(http, data)
            if by_grpc != by_http:
                raise JpegClientError(f"gRPC and HTTP disagree on {photo.name}: {by_grpc} and {by_http}")
            rows.append((photo.name, by_grpc, grpc_ms, http_ms))
    return rows


def timed(client: Client, data: bytes) -> tuple[list[Prediction], float]:
    begun = time.perf_counter()
    predictions = client.classify([data])
    return predictions, (time.perf_counter() - begun) * 1e3


def print_table(rows: list[tuple[str, Prediction, float, float]]) -> None:
    head = ("photo", f"top {LABELS} labels and scores", "gRPC", "HTTP")
    lines = [head] + [
        (
            name,
            prediction.error
            or ", ".join(
                f"{label} {score:.3f}"
                for label, score in list(zip(prediction.labels, prediction.scores, strict=True))[:LABELS]
            ),
            f"{grpc_ms:.1f} ms",
            f"{http_ms:.1f} ms",
        )
        for name, prediction, grpc_ms, http_ms in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for number, line in enumerate(lines):
        print(f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]:>{widths[2]}}  {line[3]:>{widths[3]}}")
        if number == 0:
            print("  ".join("-" * width for width in widths))
    sys.stdout.flush()


def classify_line(photo: Path) -> str:
    return f".venv/bin/jpeg-classify {photo.relative_to(ROOT)}"


def progress(message: str) -> None:
    print(f"demo: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
