"""The results as pictures (PNG). Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_OURS, _CEILING, _PEER, _OWN = "#2a6f97", "#8a8a8a", "#d4a373", "#013a63"
_WIDTH = 9.0


def plot_comparison(result: dict[str, Any], file: Path) -> None:
    """Images/s and p99 with many requests in flight: ours, the ceiling, the peers. Bars are medians of the rounds,
    lines reach from the smallest to the largest."""
    plt = _pyplot()
    many = result["loads"]["many"]
    rows = list(_rows(result))
    figure, (left, right) = plt.subplots(1, 2, figsize=(_WIDTH, 1.2 + 0.32 * len(rows)), sharey=True)
    for axis, value, words in (
        (left, "images_per_s", "images/s (more is better)"),
        (right, "p99_ms", "p99, ms (less is better)"),
    ):
        shown = [(place, row) for place, row in enumerate(rows) if row[2].get(value)]
        axis.barh(
            [place for place, _ in shown],
            [row[2][value]["median"] for _, row in shown],
            xerr=_errors([row[2][value] for _, row in shown]),
            color=[row[1] for _, row in shown],
            ecolor="#333333",
            capsize=2,
        )
        axis.set_xlabel(words)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    left.set_yticks(range(len(rows)), [row[0] for row in rows])
    left.invert_yaxis()
    figure.suptitle(f"{many} requests of one image in flight, {result['machine']['cores']} cores", fontsize=11)
    _save(plt, figure, file)


def plot_sweep(result: dict[str, Any], file: Path) -> None:
    """Throughput and latency against requests in flight, images of a request, image size and instances."""
    plt = _pyplot()
    figure, axes = plt.subplots(2, 4, figsize=(14, 6), sharex="col")
    by_protocol = {
        protocol: [point for point in result["in_flight"] if point["protocol"] == protocol]
        for protocol in ("grpc", "http")
    }
    for protocol, points in by_protocol.items():
        _lines(axes[:, 0], points, lambda point: point["in_flight"], protocol)
    _lines(axes[:, 1], result["batch"], lambda point: point["images_a_request"], "grpc")
    _lines(axes[:, 2], result["image_size"], lambda point: point["megapixels"], "grpc")
    _lines(
        axes[:, 3],
        [{**each["many"], "x": each["instances"]} for each in result["instances"]],
        lambda point: point["x"],
        "grpc",
    )
    words = ("requests in flight", "images of a request", "megapixels of an image", "instances of each step")
    for place, name in enumerate(words):
        lower = axes[1, place]
        lower.set_xlabel(name)
        marks = sorted({float(x) for line in lower.get_lines() for x in line.get_xdata()})
        if place < 3:
            lower.set_xscale("log", base=2)
        lower.set_xticks(marks, [f"{mark:.2g}" for mark in marks])
    axes[0, 0].set_ylabel("images/s")
    axes[1, 0].set_ylabel("latency, ms")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 1.08 * max(max(line.get_ydata()) for line in axis.get_lines()))
    axes[0, 0].legend()
    axes[1, 0].legend()
    _save(plt, figure, file)


def require_matplotlib() -> None:
    """Raises ModuleNotFoundError at once, and not after a measurement of many minutes."""
    _pyplot()


def _rows(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Label, colour and values of each bar."""
    rows = [("ceiling, no server", _CEILING, {"images_per_s": result["summary"]["ceiling"]["images_per_s"]})]
    for who, points in result["summary"].items():
        colour = {"ours": _OURS, "own choice": _OWN}.get(who, _PEER)
        for key, point in points.items():
            if who != "ceiling" and key.split()[-1] == "many":
                rows.append((f"{who} {key.removesuffix('many').strip()}".strip(), colour, point))
    return rows


def _errors(found: Sequence[dict[str, float]]) -> list[list[float]]:
    return [
        [each["median"] - each["min"] for each in found],
        [each["max"] - each["median"] for each in found],
    ]


def _lines(axes: Any, points: Sequence[dict[str, Any]], place: Callable[[dict[str, Any]], float], name: str) -> None:
    upper, lower = axes
    places = [place(point) for point in points]
    colour = _OURS if name == "grpc" else _PEER
    upper.plot(places, [point["images_per_s"] for point in points], marker="o", color=colour, label=name)
    lower.plot(places, [point["p50_ms"] for point in points], marker="o", color=colour, label=f"{name} p50")
    lower.plot(places, [point["p99_ms"] for point in points], marker="^", ls="--", color=colour, label=f"{name} p99")


def _save(plt: Any, figure: Any, file: Path) -> None:
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.stem}.part.png")
    # Without the date and the version of matplotlib, so that the same numbers are the same file.
    figure.savefig(aside, dpi=110, metadata={"Software": None})
    plt.close(figure)
    aside.replace(file)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")  # no display
    import matplotlib.pyplot as plt

    return plt
