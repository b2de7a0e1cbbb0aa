"""The results of a run, as files."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fuzz.campaign import Campaign, Finding, Statistics
from fuzz.known import known_fault
from fuzz.oracle import CLASSES


def write(campaign: Campaign, folder: Path, *, seed: int) -> str:
    """Write each finding and the summary (JSON and Markdown), and return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    findings = sorted(campaign.findings.values(), key=lambda each: (CLASSES.index(each.problem.kind), each.at_s))
    for number, finding in enumerate(findings, 1):
        (folder / f"finding-{number:03}.json").write_text(json.dumps(finding.to_json(), indent=2) + "\n")
    summary = _summary(campaign.statistics, findings, seed)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    text = _markdown(summary)
    (folder / "summary.md").write_text(text)
    return text


def _summary(statistics: Statistics, findings: Iterable[Finding], seed: int) -> dict[str, Any]:
    kinds: collections.Counter[str] = collections.Counter()
    by_target: dict[str, dict[str, int]] = {}
    for (base, kind), count in sorted(statistics.outcomes.items()):
        kinds[kind] += count
        target = by_target.setdefault(base, {})
        target[kind] = target.get(kind, 0) + count
    return {
        "seed": seed,
        "seconds": round(statistics.seconds, 1),
        "requests": statistics.requests,
        "valid_requests_beside": statistics.canaries,
        "requests_per_second": round((statistics.requests + statistics.canaries) / max(statistics.seconds, 1e-9), 1),
        "server_starts": statistics.starts,
        "outcomes": dict(kinds.most_common()),
        "codes": dict(statistics.codes.most_common()),
        "outcomes_by_request": by_target,
        "not_sent": dict(statistics.skipped.most_common()),
        "memory": _growth(statistics.resources),
        "resources": statistics.resources,
        "findings": [
            {
                "file": f"finding-{number:03}.json",
                "class": finding.problem.kind,
                "message": finding.problem.message,
                "count": finding.count,
                "known": fault.reason
                if (fault := known_fault(finding.problem.kind, finding.problem.message))
                else None,
                "reproduced": finding.reproduced,
                "request": " ".join(
                    [finding.drafts[0].base, *map(str, finding.drafts[0].mutations)] if finding.drafts else []
                )[:300],
            }
            for number, finding in enumerate(findings, 1)
        ],
    }


def _growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """Compare the first sample after half of the longest life of a server, when all is warm, with its last one."""
    lives: dict[float, list[dict[str, float]]] = {}
    for sample in samples:
        lives.setdefault(sample["start"], []).append(sample)
    if not lives:
        return {}
    longest = max(lives.values(), key=len)
    warm, last = longest[len(longest) // 2], longest[-1]
    growth = {f"{name}_{which}": round(each[name], 1) for which, each in (("half", warm), ("end", last)) for name in
              ("server_mb", "workers_mb", "descriptors", "threads")}  # fmt: skip
    return {"from_s": warm["at_s"], "to_s": last["at_s"], **growth}


def _markdown(summary: dict[str, Any]) -> str:
    total = max(1, summary["requests"])
    lines = [
        "# Fuzzed requests",
        "",
        f"Seed {summary['seed']}: {summary['requests']:,} requests and {summary['valid_requests_beside']:,} valid ones "
        f"beside them in {summary['seconds']:.0f} s, {summary['requests_per_second']:.0f} a second; "
        f"the server was started {summary['server_starts']} times.",
        "",
        "| outcome | share |",
        "|---|---|",
        *(f"| {kind} | {count / total:.1%} |" for kind, count in summary["outcomes"].items()),
        "",
        "Not sent: " + (", ".join(f"{name}: {count}" for name, count in summary["not_sent"].items()) or "none") + ".",
        "",
        f"Memory, descriptors and threads in the longest life of a server: {json.dumps(summary['memory'])}.",
        "",
        "| class | count | reproduced | message | known | request | file |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in summary["findings"]:
        names = ("class", "count", "reproduced", "message", "known", "request", "file")
        cells = [str(finding[name] or "") for name in names]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
