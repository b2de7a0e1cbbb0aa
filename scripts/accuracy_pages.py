"""Draws pages of text, as scanners and cameras see them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = ("Sans", "Sans-Bold", "Serif", "Serif-Italic", "SansMono")
# Words of the licence of this repository: it does not change.
WORDS = (Path(__file__).resolve().parent.parent / "LICENSE").read_text(encoding="utf-8").split()


def drawn_page(chance: random.Random) -> Image.Image:
    """Draw an upright page: its fonts, columns, tables, paper, ink, skew, blur and noise are random.

    Args:
        chance: Decides all of them; the same seed draws the same page.
    """
    width, height = chance.choice([(620, 877), (877, 620), (700, 700), (500, 900)])
    paper = tuple(chance.randint(200, 255) for _ in range(3))
    ink = tuple(chance.randint(0, 110) for _ in range(3))
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    margin, size = chance.randint(20, 90), chance.randint(9, 30)
    columns = chance.choice([1, 1, 2])
    column = (width - 2 * margin - 20 * (columns - 1)) // columns
    # Some pages are full, some have a few lines only.
    bottom = chance.choice([height - margin, height - margin, height // 2, height // 3])
    for number in range(columns):
        left, top = margin + number * (column + 20), margin
        while top < bottom - size:
            top = _paragraph(draw, chance, (left, top, left + column, bottom), size, ink) + size
    page = page.rotate(chance.uniform(-4, 4), Image.Resampling.BICUBIC, fillcolor=paper)
    part = chance.uniform(0.3, 1)  # of the resolution: the network sees 256 pixels of the shorter side
    page = page.resize((round(width * part), round(height * part)), Image.Resampling.BICUBIC)
    if chance.random() < 0.5:
        page = page.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 1.6)))
    noise = np.random.default_rng(chance.randrange(1 << 32)).normal(
        0, chance.uniform(0, 6), (page.height, page.width, 1)
    )
    return Image.fromarray((np.asarray(page) + noise).round().clip(0, 255).astype(np.uint8))


def _paragraph(
    draw: ImageDraw.ImageDraw, chance: random.Random, box: tuple[int, int, int, int], size: int, ink: tuple[int, ...]
) -> int:
    """Write a heading, some lines of words, or a column of numbers into a box; return where it ends."""
    left, top, right, bottom = box
    kind = chance.choice(["text", "text", "text", "heading", "numbers"])
    scale = 1.6 if kind == "heading" else 1.0
    font = _font(chance.choice(FONTS), round(size * scale))
    step = round(size * scale * 1.3)
    for _ in range(1 if kind == "heading" else chance.randint(2, 9)):
        if top > bottom - step:
            break
        if kind == "numbers":
            line = "    ".join(f"{chance.uniform(0, 9999):.2f}" for _ in range(3))
        else:
            line = chance.choice(WORDS)
            while draw.textlength(line, font) < (right - left) * chance.uniform(0.7, 0.95):
                line += f" {chance.choice(WORDS)}"
        draw.text((left, top), line, ink, font)
        top += step
    return top


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a DejaVu font of matplotlib, which is locked: fonts of the system differ."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVu{name}.ttf"
    return ImageFont.truetype(str(file), size)
