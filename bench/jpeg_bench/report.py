"""A result of a comparison as a Markdown table."""

from __future__ import annotations

from typing import Any

_RATIOS = {
    "served_over_ceiling": "served over the ceiling, gRPC, {many} in flight",
    "served_over_ceiling_http": "the same over HTTP",
    "served_over_ceiling_batches": "served over the ceiling, gRPC, requests of {batch}",
    "served_over_ceiling_batches_http": "requests of {batch} over HTTP",
    "p50_over_one_process": "p50 of one request in flight, gRPC, over one process without a server",
    "p99_over_p50": "p99 over p50, gRPC, {many} in flight",
    "p99_over_p50_http": "the same over HTTP",
    "over_best_peer": "images/s over the best peer (tuned), HTTP, {many} in flight",
    "over_best_peer_grpc": "the same, ours over gRPC",
    "p99_over_best_peer": "p99 over that of the best peer, HTTP",
    "own_choice_over_best_peer_default": "our own choice over the best peer's default, HTTP",
}


def table(result: dict[str, Any]) -> str:
    """Ratios, then images/s and latencies of all; medians of the rounds, the smallest and largest in brackets."""
    loads, machine = result["loads"], result["machine"]
    gpus = f", {'; '.join(machine['gpus'])}" if machine["gpus"] else ""
    lines = [
        f"Measured {result['measured'][:10]} on {machine['cores']} cores ({machine['cpu']}{gpus}); "
        f"{result['classifier']}, decoder {result['decoder']}, {result['photos']['count']} photos of "
        f"{result['photos']['mean_bytes'] // 1000} kB on average; {len(result['rounds'])} rounds of "
        f"{loads['seconds']:g} s. Medians of the rounds, smallest to largest in brackets.",
        "",
        "| ratio | value |",
        "|---|---|",
    ]
    for name, words in _RATIOS.items():
        if result["ratios"].get(name):
            lines.append(f"| {words.format(**loads)} | {_cell(result['ratios'][name], 2)} |")
    lines += [
        f"| start to ready, s | {_cell(result['start'], 1)} |",
        f"| idle server, MiB (PSS of all its processes) | {_cell(result['idle'], 0)} |",
        "",
        "| | load | images/s | p50, ms | p99, ms |",
        "|---|---|---|---|---|",
    ]
    summary = result["summary"]
    ceiling = summary["ceiling"]
    lines.append(f"| the ceiling, no server | all CPUs | {_cell(ceiling['images_per_s'], 1)} | | |")
    lines.append(f"| one process, no server | one image at a time | | {_cell(ceiling['p50_ms'], 1)} | |")
    for who, points in summary.items():
        if who == "ceiling":
            continue
        for key, point in points.items():
            if key == "failure":
                lines.append(f"| {who} | | failed: {point.splitlines()[0][:200]} | | |")
                continue
            failed = f" ({point['failures']['max']:g} failed)" if point["failures"] and point["failures"]["max"] else ""
            lines.append(
                f"| {who} | {_load(key, loads)} | {_cell(point['images_per_s'], 1)}{failed} | "
                f"{_cell(point['p50_ms'], 1)} | {_cell(point['p99_ms'], 1)} |"
            )
    return "\n".join(lines) + "\n"


def _load(key: str, loads: dict[str, Any]) -> str:
    protocol, _, kind = key.rpartition(" ")
    words = {
        "one": "1 in flight",
        "many": f"{loads['many']} in flight",
        "batches": f"requests of {loads['batch']}, {loads['batches']} in flight",
    }[kind]
    return f"{protocol or 'http'}, {words}"


def _cell(found: dict[str, Any] | None, digits: int) -> str:
    if found is None:
        return "-"
    values = [f"{found[name]:.{digits}f}" for name in ("median", "min", "max")]
    return values[0] if len(set(values)) == 1 else f"{values[0]} ({values[1]} to {values[2]})"
