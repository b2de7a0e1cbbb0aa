"""Readable summaries of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows in columns: the first column to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (zip(line, widths, strict=True) for line in lines)
    )


def number(value: float | None, digits: int = 1) -> str:
    """Format a number; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def summarize_points(points: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of load points (`LoadPoint.to_json`). An additional key `variant` adds a column."""
    variants = any("variant" in point for point in points)
    rows = []
    for point in points:
        load = str(point["concurrency"]) if "concurrency" in point else f"{point['request_rate']:.1f}/s"
        rows.append(
            [
                point["protocol"],
                *([point.get("variant", "-")] if variants else []),
                str(point["batch_size"]),
                load,
                number(point["images_per_s"]),
                number(point["p50_ms"]),
                number(point["p99_ms"]),
                str(point["failures"]),
                "yes" if point["client_limited"] else "no",
            ]
        )
    header = ["batch size", "concurrency", "images/s", "p50 ms", "p99 ms", "failures", "client-limited"]
    table = text_table(["protocol", *(["variant"] if variants else []), *header], rows)
    return f"{table}\n\n{summarize_sizes(points)}" if any("by_size" in point for point in points) else table


def summarize_sizes(points: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the latency by the size of the photos, of those load points that have several."""
    rows = [
        [
            point["protocol"],
            str(point["concurrency"]) if "concurrency" in point else f"{point['request_rate']:.1f}/s",
            size,
            str(found["requests"]),
            *(number(found[name]) for name in ("p50_ms", "p90_ms", "p99_ms")),
        ]
        for point in points
        for size, found in point.get("by_size", {}).items()
    ]
    return text_table(("protocol", "concurrency", "size", "requests", "p50 ms", "p90 ms", "p99 ms"), rows)


def summarize_shrinking(result: Mapping[str, Any]) -> str:
    """Return tables of `measure_shrinking`: each photo, and how many per second a network takes."""
    photos = [
        [
            each["name"],
            each["size"],
            number(each["whole_bytes"] / 1e3, 0),
            number(each["shrunk_bytes"] / 1e3, 0),
            number(each["shrink_ms"]),
            f"{each['label']} {each['score']:.3f}",
            f"{each['shrunk_label']} {each['shrunk_score']:.3f}",
            number(each["score_difference"], 3),
        ]
        for each in result["photos"]
    ]
    header = ("photo", "size", "kB", "shrunk kB", "ms", "label", "shrunk label", "largest difference")
    uplinks = [
        [f"{each['mbit_per_s']:g} Mbit/s", number(each["whole_per_s"], 2), number(each["shrunk_per_s"], 2)]
        for each in result["uplinks"]
    ]
    difference = result["score_difference"]
    summary = (
        f"{result['labels_changed']} of {result['count']} labels change; the largest difference of a score is "
        f"{difference['max']:.3f}, {difference['mean']:.3f} on average"
    )
    return "\n".join(
        [text_table(header, photos), summary, text_table(("network", "photos/s", "shrunk photos/s"), uplinks)]
    )


def summarize_ceiling(result: Mapping[str, Any]) -> str:
    """Return a table of the fastest arrangements (`Ceiling.to_json`), and the latency of a single image."""
    rows = [
        [part, number(result[part]["images_per_s"]), describe_arrangement(result[part]["fastest"])]
        for part in ("decode", "classifier", "both")
    ]
    single = result["single_image"]
    latency = f"single image: p50 {single['p50_ms']:.2f} ms, p99 {single['p99_ms']:.2f} ms"
    return f"{text_table(('part', 'images/s', 'arrangement'), rows)}\n{latency}"


def describe_arrangement(arrangement: Mapping[str, Any]) -> str:
    """Describe an arrangement of the ceiling on one line."""
    spread = f"{arrangement['processes']} x {arrangement['threads']} " if arrangement["style"] == "workers" else ""
    memory = ", pixels on the GPU" if arrangement["pixels"] == "device" else ""
    return f"{spread}{arrangement['style']}, batch {arrangement['batch']}{memory}"


def summarize_soak(soak: Mapping[str, Any]) -> str:
    """Return a table of the parts of a soak, and their drift (`measure_soak`)."""
    names = [name for name in soak["parts"][0] if name != "from_s"]
    rows = [[f"{part['from_s']:g}", *(number(part[name]) for name in names)] for part in soak["parts"]]
    drifts = [
        f"drift of {name}: slope {number(drift['slope_percent'], 2)} %, halves {number(drift['halves_percent'], 2)} %"
        for name, drift in soak["drift"].items()
    ]
    return "\n".join([text_table(("from s", *names), rows), *drifts, f"failures: {soak['whole']['failures']}"])


def summarize_cross_checks(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the throughput and latency of both load generators."""
    rows = []
    for check in checks:
        load = [check["protocol"], str(check["batch_size"]), str(check["concurrency"])]
        for tool, found in check["results"].items():
            rows.append([tool, *load, *(number(found[name]) for name in ("images_per_s", "p50_ms", "p99_ms"))])
    return text_table(("tool", "protocol", "batch size", "concurrency", "images/s", "p50 ms", "p99 ms"), rows)


def summarize_growth(result: Mapping[str, Any]) -> str:
    """Return a table of `run_growth`."""
    rows = [
        [
            f"{point[dimension]} {dimension}",
            point["protocol"],
            *(number(point[name]) for name in ("images_per_s", "p50_ms", "p99_ms")),
            number(point["cpu_ms_per_image"], 3),
            number(point["pss_mib"]),
            str(point["failures"]),
        ]
        for dimension in ("connections", "instances", "ensembles")
        for point in result[dimension]
    ]
    header = ("", "protocol", "images/s", "p50 ms", "p99 ms", "CPU ms per image", "memory MiB", "failures")
    return text_table(header, rows)


def summarize_capacity(result: Mapping[str, Any]) -> str:
    """Return the model of a server (`measure_capacity`), its checks, and the plans that it makes."""
    model = result["capacity"]
    lines = [
        f"peak: {number(model['peak_images_per_s'])} images/s; u is the part of it that is used",
        *(
            f"{name}: {number(line['base'], 2)} + {number(line['slope'], 2)} u / (1 - u) ms"
            for name, line in (("p50", model["p50_ms"]), ("p99", model["p99_ms"]))
        ),
    ]
    if model["cores"]:
        base, slope = model["cores"]["base"], 1e3 * model["cores"]["slope"]
        lines.append(f"busy cores: {number(base, 3)} + {number(slope, 3)} ms x images/s")
    rows = [
        [
            number(check["utilisation"], 2),
            *(
                f"{number(check['predicted'][name], 2)} / {number(check['measured'][name], 2)}"
                for name in ("p50_ms", "p99_ms", "cores")
            ),
        ]
        for check in result["checks"]
    ]
    if rows:
        lines += ["", text_table(("check at u", "p50 ms predicted / measured", "p99 ms", "cores"), rows)]
    plans = [
        [
            number(each["images_per_s"], 0),
            str(each["servers"]),
            *(number(each[name], 2) for name in ("utilisation", "p50_ms", "p99_ms")),
            number(each["cores"]),
            *(number(each[name], 2) for name in ("gigabits_in", "gigabits_out")),
            str(each["gateways"]),
        ]
        for each in result["plans"]
    ]
    if plans:
        header = ("images/s", "servers", "u", "p50 ms", "p99 ms", "cores", "Gbit/s in", "Gbit/s out", "gateways")
        lines += ["", text_table(header, plans)]
    return "\n".join(lines)
