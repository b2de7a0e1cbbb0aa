"""Plots of a comparison as PNG files, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jpeg_bench.plots import import_pyplot, save_figure

from comparison.report import SYSTEM_NAMES

_CEILING, _PEER = "#8a8a8a", "#d4a373"
_COLOURS = {"ours": "#2a6f97", "own choice": "#013a63"}
_WIDTH = 9.0


def plot_comparison(result: dict[str, Any], file: Path) -> None:
    """Plot throughput and p99 under concurrent requests of one image.

    Bars are medians of the rounds, lines reach from the minimum to the maximum.

    Args:
        result: Result of `run_comparison`.
        file: PNG file to write.
    """
    pyplot = import_pyplot()
    rows = _rows(result)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(_WIDTH, 1.2 + 0.32 * len(rows)), sharey=True)
    for axis, name, title in (
        (left, "images_per_s", "images/s (higher is better)"),
        (right, "p99_ms", "p99, ms (lower is better)"),
    ):
        shown = [(position, *row) for position, row in enumerate(rows) if row[2].get(name)]
        spreads = [values[name] for _, _, _, values in shown]
        axis.barh(
            [position for position, *_ in shown],
            [each["median"] for each in spreads],
            xerr=_error_bars(spreads),
            color=[colour for _, _, colour, _ in shown],
            ecolor="#333333",
            capsize=2,
        )
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    left.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    left.invert_yaxis()
    concurrency, cores = result["loads"]["concurrency"], result["machine"]["cores"]
    figure.suptitle(f"concurrency {concurrency}, one image per request, {cores} cores", fontsize=11)
    save_figure(pyplot, figure, file)


def _rows(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return label, colour and values of each bar."""
    summary = result["summary"]
    rows = [("ceiling, no server", _CEILING, {"images_per_s": summary["ceiling"]["images_per_s"]})]
    for system, points in summary.items():
        for key, point in points.items():
            protocol, _, load = key.rpartition(" ")
            if system != "ceiling" and load == "concurrent":
                rows.append(
                    (f"{SYSTEM_NAMES.get(system, system)} {protocol}".strip(), _COLOURS.get(system, _PEER), point)
                )
    return rows


def _error_bars(spreads: Sequence[dict[str, float]]) -> list[list[float]]:
    return [
        [each["median"] - each["min"] for each in spreads],
        [each["max"] - each["median"] for each in spreads],
    ]
