"""Plots of results as PNG files, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jpeg_bench.load import Protocol

PROTOCOL_COLOURS: dict[Protocol, str] = {"grpc": "#2a6f97", "http": "#d4a373"}


def plot_sweep(result: dict[str, Any], file: Path) -> None:
    """Plot throughput and latency against concurrency, batch size, image size and instances.

    Args:
        result: Result of `run_sweep`.
        file: PNG file to write.
    """
    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(2, 4, figsize=(14, 6), sharex="col")
    protocols: tuple[Protocol, ...] = ("grpc", "http")
    for protocol in protocols:
        points = [point for point in result["concurrency"] if point["protocol"] == protocol]
        _plot_column(axes[:, 0], [point["concurrency"] for point in points], points, protocol)
    points = result["batch_size"]
    _plot_column(axes[:, 1], [point["batch_size"] for point in points], points)
    points = result["image_size"]
    _plot_column(axes[:, 2], [point["megapixels"] for point in points], points)
    points = result["instances"]
    _plot_column(axes[:, 3], [point["instances"] for point in points], [point["concurrent"] for point in points])
    titles = ("concurrency", "images per request", "megapixels per image", "instances per model")
    for column, title in enumerate(titles):
        _label_positions(axes[1, column], title, digits=2, is_linear=title == "instances per model")
    axes[0, 0].set_ylabel("images/s")
    axes[1, 0].set_ylabel("latency, ms")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 1.08 * max(max(line.get_ydata()) for line in axis.get_lines()))
    axes[0, 0].legend()
    axes[1, 0].legend()
    save_figure(pyplot, figure, file)


def plot_growth(result: dict[str, Any], file: Path) -> None:
    """Plot throughput, latency and the CPU time per image against connections, instances and ensembles.

    Args:
        result: Result of `run_growth`.
        file: PNG file to write.
    """
    pyplot = import_pyplot()
    dimensions = ("connections", "instances", "ensembles")
    figure, axes = pyplot.subplots(3, len(dimensions), figsize=(11, 8), sharex="col")
    protocols: tuple[Protocol, ...] = ("grpc", "http")
    for column, dimension in enumerate(dimensions):
        for protocol in protocols:
            points = [point for point in result[dimension] if point["protocol"] == protocol]
            if not points:
                continue
            positions = [point[dimension] for point in points]
            _plot_column(axes[:2, column], positions, points, protocol)
            costs = [point["cpu_ms_per_image"] for point in points]
            axes[2, column].plot(positions, costs, marker="o", color=PROTOCOL_COLOURS[protocol], label=protocol)
        _label_positions(axes[2, column], dimension, digits=4, is_linear=dimension == "instances")
    for row, title in enumerate(("images/s", "latency, ms", "CPU time per image, ms")):
        axes[row, 0].set_ylabel(title)
        axes[row, 0].legend()
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_ylim(0)
    save_figure(pyplot, figure, file)


def import_pyplot() -> Any:
    """Import matplotlib.pyplot for use without a display. Raises ModuleNotFoundError if it is not installed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(pyplot: Any, figure: Any, file: Path) -> None:
    """Write a figure atomically, and close it.

    Args:
        pyplot: From `import_pyplot`.
        figure: The figure.
        file: PNG file to write.
    """
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.part.png")
    # Without matplotlib's version: equal results give equal files.
    figure.savefig(temporary, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    temporary.replace(file)


def _label_positions(axis: Any, title: str, *, digits: int, is_linear: bool) -> None:
    """Label each position of an axis that has points, on a logarithmic scale unless it is linear."""
    axis.set_xlabel(title)
    ticks = sorted({float(x) for line in axis.get_lines() for x in line.get_xdata()})
    if not is_linear:
        axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:.{digits}g}" for tick in ticks])


def _plot_column(
    axes: Any, positions: Sequence[float], points: Sequence[dict[str, Any]], protocol: Protocol = "grpc"
) -> None:
    upper, lower = axes
    colour = PROTOCOL_COLOURS[protocol]
    upper.plot(positions, [point["images_per_s"] for point in points], marker="o", color=colour, label=protocol)
    for name, style in (("p50", {"marker": "o"}), ("p99", {"marker": "^", "ls": "--"})):
        values = [point[f"{name}_ms"] for point in points]
        lower.plot(positions, values, color=colour, label=f"{protocol} {name}", **style)
