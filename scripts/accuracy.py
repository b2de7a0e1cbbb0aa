"""Measures the accuracy of real networks, in every form and precision that this machine builds (make accuracy).

Usage:
  accuracy.py all [options of run]                         prepare and run, in .accuracy
  accuracy.py prepare FOLDER [--network NAME] [--onnx]     write recipes, networks and labelled photos into FOLDER
  accuracy.py run FOLDER [options]                         build, evaluate, and write FOLDER/summary.md and .json
  accuracy.py table FOLDER                                 print the table of the last run again

Networks and photos come from packages, which tests/networks.md lists, and are never part of this repository. With
--onnx, FOLDER needs no framework of the networks: it can be copied to a machine with a GPU, and run there with the
extras build and tensorrt.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from accuracy_networks import NETWORKS, Network, put_network
from accuracy_photos import SETS, make_set
from accuracy_summary import Measured, NotBuilt, Summary, to_markdown
from jpeg_contract.forms import FORMS
from jpeg_contract.gpus import find_gpus

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".accuracy"

# TF-TRT needs an environment of its own, and the TensorFlow network of a recipe.
CPU_FORMS = ("onnx", "openvino", "torch_tensorrt")
GPU_FORMS = ("onnx", "tensorrt", "torch_tensorrt")


def main(arguments: Sequence[str] | None = None) -> int:
    given = _arguments(arguments)
    folder: Path = given.folder
    if given.command in ("all", "prepare"):
        prepare(folder, given.network, onnx=given.onnx)
    if given.command in ("all", "run"):
        return run(folder, given)
    if given.command == "table":
        print(to_markdown(msgspec.json.decode((folder / "summary.json").read_bytes(), type=Summary)), end="")
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="accuracy.py", description="accuracy of real networks in every form")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("all", "prepare", "run", "table"):
        command = commands.add_parser(name)
        if name == "all":
            command.set_defaults(folder=WORK)
        else:
            command.add_argument("folder", type=Path)
        command.set_defaults(onnx=False, network=[])
        if name == "prepare":
            command.add_argument("--onnx", action="store_true", help="networks as ONNX files, which need no framework")
        if name != "table":
            command.add_argument("--network", action="append", choices=list(NETWORKS), default=[])
        if name in ("all", "run"):
            command.add_argument("--backend", action="append", choices=list(FORMS), default=[])
            command.add_argument("--precision", action="append", choices=("fp32", "fp16", "bf16", "int8"), default=[])
            command.add_argument("--decoder", action="append", choices=("full", "scaled", "gpu"), default=[])
            command.add_argument("--limit", type=int, help="evaluate a sample of so many photos")
            command.add_argument("--rebuild", action="store_true", help="build again what is built already")
    return parser.parse_args(arguments)


def prepare(folder: Path, chosen: Sequence[str], *, onnx: bool) -> None:
    """Write the networks that were chosen, or all, and the photos that they need."""
    networks = [NETWORKS[name] for name in chosen or NETWORKS]
    for name in dict.fromkeys(each for network in networks for each in network.sets):
        progress(f"photos of {name}")
        make_set(name, folder)
    for network in networks:
        progress(f"network {network.name}")
        put_network(network, _network_folder(folder, network), onnx=onnx)
    size = sum(path.stat().st_size for part in ("networks", "sets") for path in (folder / part).rglob("*.*"))
    progress(f"{folder} is prepared: {size / 1e6:.0f} MB")


def run(folder: Path, given: argparse.Namespace) -> int:
    """Build and evaluate what is prepared. Returns 1 if an evaluation failed, or a floor was not reached."""
    networks = [
        NETWORKS[name] for name in given.network or NETWORKS if _network_folder(folder, NETWORKS[name]).is_dir()
    ]
    if not networks:
        progress(f"{folder} holds no network: accuracy.py prepare {folder}")
        return 1
    begun = time.monotonic()
    measured: list[Measured] = []
    not_built: list[NotBuilt] = []
    status = 0
    for network in networks:
        not_built += _build(folder, network, given)
        for name in network.sets:
            found = _evaluate(folder, network, name, given)
            status |= found.status
            measured.append(found)
    summary = Summary(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        seconds=time.monotonic() - begun,
        measured=measured,
        not_built=not_built,
    )
    (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    text = to_markdown(summary)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(text, end="")
    progress(f"took {summary.seconds:.0f} s; the numbers are in {folder / 'summary.json'}")
    return status


def _build(folder: Path, network: Network, given: argparse.Namespace) -> list[NotBuilt]:
    """Build each form and precision as a version of its own; return those that cannot be built here."""
    failed = []
    on_gpu = bool(find_gpus().found)
    for backend in given.backend or (GPU_FORMS if on_gpu else CPU_FORMS):
        for version, precision in enumerate(FORMS[backend].precisions, 1):
            if precision not in (given.precision or FORMS[backend].precisions):
                continue
            if backend == "torch_tensorrt" and precision == "fp16" and not on_gpu:
                continue  # On two CPUs, the check of MobileNetV2 did not end in six minutes.
            if given.rebuild:
                shutil.rmtree(_repository(folder, network) / FORMS[backend].model / str(version), ignore_errors=True)
            options = ["--backend", backend, "--precision", precision, "--version", str(version)]
            options.append("--if-needed")
            options += ["--no-trt"] if backend == "torch_tensorrt" and not on_gpu else []
            if FORMS[backend].from_onnx and _exported(folder, network).exists():
                options.append("--from-onnx")  # It starts no framework, and exports nothing again.
            if network.own_photos:
                calibration = folder / "sets" / network.sets[0] / "calibration"
                options += ["--photos", str(calibration)]
            begun = time.monotonic()
            done = _jpeg_build(folder, network, str(_recipe(folder, network)), *options)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["killed"])[-1]
                reason = re.search(r"\[(\w+)\]$", last)
                failed.append(NotBuilt(network.name, backend, precision, reason[1] if reason else "failed", last))
                progress(f"{network.name} {backend} {precision}: not built: {last}")
            elif "is up to date" not in done.stderr:
                progress(f"{network.name} {backend} {precision}: built in {time.monotonic() - begun:.0f} s")
    return failed


def _evaluate(folder: Path, network: Network, photos: str, given: argparse.Namespace) -> Measured:
    """Evaluate all that is built of a network on a set of photos."""
    results = folder / "results" / f"{network.name}-{photos}"
    repository = _repository(folder, network)
    backends = [name for name in given.backend if any((repository / FORMS[name].model).glob("[0-9]*"))]
    if given.backend and not backends:
        return Measured.of(network.name, photos, {}, labelled=False, seconds=0, status=1)
    options = ["--data", str(folder / "sets" / photos / "photos.csv"), "--results", str(results)]
    for name, values in (("backend", backends), ("decoder", given.decoder)):
        options += [part for value in values for part in (f"--{name}", value)]
    options += ["--limit", str(given.limit)] if given.limit else []
    if floor := network.floors.get(photos):
        options += ["--gate", floor]
    begun = time.monotonic()
    done = _jpeg_build(folder, network, "evaluate", str(_recipe(folder, network)), *options)
    seconds = time.monotonic() - begun
    print(done.stdout, end="", file=sys.stderr)
    if done.returncode:
        progress(done.stderr.strip())
    progress(f"{network.name} on {photos}: {seconds:.0f} s")
    evaluation: dict[str, Any] = {}
    if not done.returncode or "[gate_failed]" in done.stderr:
        evaluation = msgspec.json.decode((results / "evaluation.json").read_bytes())
    labelled = SETS[photos].labelled
    return Measured.of(network.name, photos, evaluation, labelled=labelled, seconds=seconds, status=done.returncode)


def _jpeg_build(folder: Path, network: Network, *arguments: str) -> subprocess.CompletedProcess[str]:
    repository = _repository(folder, network)
    trust = ["--trust-code"] if network.runs_code else []
    command = [sys.executable, "-m", "jpeg_build", *arguments, *trust, "--model-repository", str(repository)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _repository(folder: Path, network: Network) -> Path:
    return folder / "repositories" / network.name


def _exported(folder: Path, network: Network) -> Path:
    """Return where the network lies as an ONNX file in fp32, once that is built."""
    return _repository(folder, network) / FORMS["onnx"].model / "1" / FORMS["onnx"].artefact


def _network_folder(folder: Path, network: Network) -> Path:
    return folder / "networks" / network.name


def _recipe(folder: Path, network: Network) -> Path:
    return _network_folder(folder, network) / f"{network.name}.toml"


def progress(message: str) -> None:
    print(f"accuracy: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("accuracy: interrupted: the same command goes on from there")
