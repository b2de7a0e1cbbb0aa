"""The photo whose class a report states and `jpeg-serve probe` compares: Chelsea the cat, reduced (CC0, photos/)."""

from pathlib import Path

PROBE_PHOTO = Path(__file__).with_name("probe.jpg")
