"""Draws docs/answer.png: a photo and the labels that a running server returns for it.

Usage: draw_answer.py [PHOTO]     (with `make serve` running; needs the packages of `make setup-dev`)
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from jpeg_client import Client
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of the renderer

ROOT = Path(__file__).resolve().parents[1]
LABELS = 5


def main(photo: Path) -> None:
    with Client("grpc://localhost:8001") as client:
        (prediction,) = client.classify([photo], k=LABELS)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.4), width_ratios=(1, 1.25))
    left.imshow(Image.open(photo))
    left.set_axis_off()
    left.set_title(photo.name, fontsize=10, family="monospace")
    places = range(len(prediction.labels))
    right.barh(places, prediction.scores, color="#76b900")
    right.set_yticks(places, prediction.labels, fontsize=10)
    right.invert_yaxis()
    right.set_xlim(0, 1.12)
    right.set_xticks([])
    for place, score in zip(places, prediction.scores, strict=True):
        right.text(score + 0.02, place, f"{score:.3f}", va="center", fontsize=9)
    for side in ("top", "right", "bottom"):
        right.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "answer.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "photos" / "chelsea.jpg")
