"""Measures the accuracy of the demo network, in several forms, on labelled photos that packages ship (make accuracy).

Usage: accuracy.py [options of jpeg-build evaluate]

The photos are fetched and never redistributed:
- tuxpaint: Debian's package tuxpaint-stamps-default (GPL-2, Bill Kendrick). Cut-out photos whose English name is the
  name of exactly one class of ImageNet, on white.
- foolbox: the 20 photos of ImageNet in the Python package foolbox (the package: MIT; the photos: ImageNet's terms,
  which allow research and not redistribution). Their classes are in their names.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".accuracy"
REPOSITORY = WORK / "model_repository"
RECIPE = "mobilenet_v2"
PACKAGE = "tuxpaint-stamps-default"

# Version, backend, precision.
BUILDS = ((1, "onnx", "fp32"), (2, "onnx", "int8"), (1, "openvino", "fp32"), (2, "openvino", "int8"))

STAMPS = "./usr/share/tuxpaint/stamps/"
# Drawings, and pictures of signs and letters.
NO_PHOTOS = ("cartoon", "symbols/", "flags/", "roadsigns/")
MARGIN = 0.15

# Floors well below what was measured (docs/evaluate.md): a wrong recipe, label file or decoder falls below them.
GATES = {"tuxpaint": "framework: top1 >= 60%", "foolbox": "framework: top1 >= 60%"}


def main(options: list[str]) -> int:
    sets = {"tuxpaint": tuxpaint(WORK / "tuxpaint"), "foolbox": foolbox(WORK / "foolbox")}
    for version, backend, precision in BUILDS:
        made = jpeg_build(
            RECIPE, "--backend", backend, "--precision", precision, "--version", str(version), "--if-needed", quiet=True
        )
        if made:
            return made
    status = 0
    for name, table in sets.items():
        progress(f"{name}: {len(table.read_text(encoding='utf-8').splitlines()) - 1} photos")
        results = ["--results", str(WORK / f"results-{name}")]
        status |= jpeg_build("evaluate", RECIPE, "--data", str(table), *results, "--gate", GATES[name], *options)
    return status


def jpeg_build(*arguments: str, quiet: bool = False) -> int:
    command = [sys.executable, "-m", "jpeg_build", *arguments, "--model-repository", str(REPOSITORY)]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL if quiet else None).returncode


def tuxpaint(folder: Path) -> Path:
    """Make JPEGs of the stamps that are photos of a class of ImageNet, and the table of their classes."""
    table = folder / "photos.csv"
    if table.exists():
        return table
    folder.mkdir(parents=True, exist_ok=True)
    classes = names_of_imagenet()
    rows = []
    for name, label, picture in stamps(download(folder)):
        index = classes.get(label)
        if index is None:
            continue
        file = f"{name.replace('/', '-')}.jpg"
        on_white(picture).save(folder / file, "JPEG", quality=95)
        rows.append((file, index))
    write_table(table, rows)
    return table


def download(folder: Path) -> Path:
    """Download the package with apt, which checks its signature; nothing is installed."""
    found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if not found:
        progress(f"downloading {PACKAGE} (161 MB)")
        subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    return found[-1]


def stamps(package: Path) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield path, English name and picture of each stamp that has a name."""
    names: dict[str, str] = {}
    pictures: dict[str, bytes] = {}
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        for member in archive:
            path = member.name.removeprefix(STAMPS)
            file = archive.extractfile(member) if member.isfile() and member.name.startswith(STAMPS) else None
            if file is None or any(part in path for part in NO_PHOTOS):
                continue
            stem, _, suffix = path.rpartition(".")
            if suffix == "png" and not stem.endswith("_mirror"):
                pictures[stem] = file.read()
            elif suffix == "txt":
                names[stem] = file.readline().decode()
    for stem in sorted(pictures.keys() & names.keys()):
        yield stem, plain(names[stem]), Image.open(io.BytesIO(pictures[stem]))


def plain(text: str) -> str:
    """Return "magpie" of "A magpie."."""
    words = re.sub(r"\(.*?\)|[^a-z -]", " ", text.lower()).split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"], ["some"], ["two"]) else words)


def on_white(picture: Image.Image) -> Image.Image:
    """Put a picture onto a white square with a margin."""
    cut_out = picture.convert("RGBA")
    side = round(max(cut_out.size) * (1 + MARGIN))
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(cut_out, ((side - cut_out.width) // 2, (side - cut_out.height) // 2))
    return square.convert("RGB")


def names_of_imagenet() -> Mapping[str, int]:
    """Return the class of each name of ImageNet-1k that is the name of one class only."""
    from timm.data.imagenet_info import ImageNetInfo

    each = [
        (name.strip().lower(), index)
        for index, text in enumerate(ImageNetInfo().label_descriptions())
        for name in text.split(",")
    ]
    counts = Counter(name for name, _ in each)
    return {name: index for name, index in each if counts[name] == 1}


def foolbox(folder: Path) -> Path:
    """Copy the photos of foolbox, and write the table of their classes."""
    table = folder / "photos.csv"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for each in importlib.metadata.files("foolbox") or []:
        if found := re.fullmatch(r"imagenet_\d+_(\d+)\.jpg", each.name):
            (folder / each.name).write_bytes(Path(str(each.locate())).read_bytes())
            rows.append((each.name, int(found[1])))
    write_table(table, rows)
    return table


def write_table(table: Path, rows: list[tuple[str, int]]) -> None:
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *sorted(rows)])


def progress(message: str) -> None:
    print(f"accuracy: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("accuracy: interrupted")
