"""The result of a comparison as Markdown tables."""

from __future__ import annotations

from typing import Any

_RATIOS = {
    "served_over_ceiling": "throughput over the ceiling, gRPC, concurrency {concurrency}",
    "served_over_ceiling_http": "the same over HTTP",
    "served_over_ceiling_batches": "throughput over the ceiling, gRPC, requests of {batch_size} images",
    "served_over_ceiling_batches_http": "the same over HTTP",
    "p50_over_one_process": "p50 at concurrency 1, gRPC, over the latency of a single image without a server",
    "p99_over_p50": "p99 over p50, gRPC, concurrency {concurrency}",
    "p99_over_p50_http": "the same over HTTP",
    "over_best_peer": "throughput over the best peer (tuned), HTTP, concurrency {concurrency}",
    "over_best_peer_grpc": "the same, this project over gRPC",
    "p99_over_best_peer": "p99 over that of the best peer, HTTP",
    "own_choice_over_best_peer_default": "throughput of the own choice over the best peer (default), HTTP",
}

SYSTEM_NAMES = {"ours": "this project"}
"""Names of systems in tables and plots; others keep their key."""


def markdown_report(result: dict[str, Any]) -> str:
    """Return a paragraph about the measurement, a table of ratios, and a table of throughput and latency."""
    loads, machine, summary = result["loads"], result["machine"], result["summary"]
    gpus = f", {'; '.join(machine['gpus'])}" if machine["gpus"] else ""
    lines = [
        f"Measured {result['measured'][:10]} on {machine['cores']} cores ({machine['cpu']}{gpus}); "
        f"{result['classifier']}, decoder {result['decoder']}, {result['photos']['count']} photos of "
        f"{result['photos']['mean_bytes'] // 1000} kB on average; {_rounds(len(result['rounds']))} of "
        f"{loads['seconds']:g} s. Medians of the rounds, with minimum and maximum in brackets.",
        "",
        "| ratio | value |",
        "|---|---|",
    ]
    lines += [
        f"| {title.format(**loads)} | {_cell(result['ratios'][name], 2)} |"
        for name, title in _RATIOS.items()
        if result["ratios"].get(name)
    ]
    lines += [
        f"| start to ready, s | {_cell(result['start'], 1)} |",
        f"| memory of the idle server, MiB (PSS of all processes) | {_cell(result['idle'], 0)} |",
        "",
        "| system | load | images/s | p50, ms | p99, ms |",
        "|---|---|---|---|---|",
        f"| ceiling, no server | all CPUs | {_cell(summary['ceiling']['images_per_s'], 1)} | | |",
        f"| one process, no server | single image | | {_cell(summary['ceiling']['p50_ms'], 1)} | |",
    ]
    for system, points in summary.items():
        if system == "ceiling":
            continue
        name = SYSTEM_NAMES.get(system, system)
        for key, point in points.items():
            if key == "failure":
                lines.append(f"| {name} | | failed: {point.splitlines()[0][:200]} | | |")
                continue
            failures = point["failures"] and point["failures"]["max"]
            failed = f" ({failures:g} failures)" if failures else ""
            lines.append(
                f"| {name} | {_load(key, loads)} | {_cell(point['images_per_s'], 1)}{failed} | "
                f"{_cell(point['p50_ms'], 1)} | {_cell(point['p99_ms'], 1)} |"
            )
    return "\n".join(lines) + "\n"


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _load(key: str, loads: dict[str, Any]) -> str:
    protocol, _, name = key.rpartition(" ")
    load = {
        "single": "concurrency 1",
        "concurrent": f"concurrency {loads['concurrency']}",
        "batched": f"requests of {loads['batch_size']} images, concurrency {loads['batch_concurrency']}",
    }[name]
    return f"{protocol or 'http'}, {load}"


def _cell(found: dict[str, Any] | None, digits: int) -> str:
    if found is None:
        return "-"
    median, low, high = (f"{found[name]:.{digits}f}" for name in ("median", "min", "max"))
    return median if median == low == high else f"{median} ({low} to {high})"
