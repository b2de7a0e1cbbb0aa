"""The page of the metrics: the series of the models, of the router, and of `jpeg-serve`."""

from __future__ import annotations

import re
from typing import get_args

from jpeg_contract.image_errors import Reason
from jpeg_contract.reason_codes import all_codes
from jpeg_runtime.metrics import POSTPROCESS_SERIES, PREPROCESS_SERIES, REFUSALS, ROUTER_SERIES, Series
from jpeg_serve.metrics_page import render

from reference.raised import raised
from reference.text import code, head, table

_INTRODUCTION = (
    "`jpeg-serve` serves the metrics of all its servers at `http://HOST:8002/metrics`: those below, and [Triton's own]"
    "(https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html). "
    "[Monitoring](../monitoring.md) says how to read them, and has the alerts."
)


def page() -> str:
    """Return the page."""
    models = {
        "preprocess": PREPROCESS_SERIES,
        "postprocess": POSTPROCESS_SERIES,
        "router": ROUTER_SERIES,
    }
    return (
        "".join(
            (
                head("Metrics", _INTRODUCTION),
                "## Of the models\n\nAll have the labels `model` and `version`, and start at zero. "
                "With several servers, each series has the label `server`, too.\n\n",
                _series(models),
                "### `reason` of `jpeg_images_rejected_total`\n\n",
                table(
                    ("reason", "meaning"), [(_link(reason), all_codes()[reason].meaning) for reason in get_args(Reason)]
                ),
                "### `reason` of `jpeg_requests_refused_total`\n\n",
                table(("reason", "meaning"), [(code(reason), meaning) for reason, meaning in REFUSALS.items()]),
                "## Of `jpeg-serve`\n\n",
                table(("metric", "kind", "labels", "meaning"), _of_the_supervisor()),
                "### `reason` of `jpeg_server_replaced_total`\n\n",
                table(("reason", "meaning"), [(_link(reason), all_codes()[reason].meaning) for reason in _faults()]),
            )
        ).rstrip()
        + "\n"
    )


def _series(models: dict[str, tuple[Series, ...]]) -> str:
    rows: dict[str, tuple[Series, list[str]]] = {}
    for model, series in models.items():
        for each in series:
            users = rows.setdefault(each.name, (each, []))[1]
            if model not in users:
                users.append(model)
    return table(
        ("metric", "kind", "models", "labels", "meaning"),
        [
            (
                code(name),
                "histogram" if one.buckets else "counter",
                ", ".join(map(code, users)),
                "`reason`" if one.reason else "",
                one.description
                + (f". Buckets: {', '.join(f'{bound:.10g}' for bound in one.buckets)}" * bool(one.buckets)),
            )
            for name, (one, users) in rows.items()
        ],
    )


def _of_the_supervisor() -> list[tuple[str, str, str, str]]:
    text = render([])
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels = {"jpeg_server_up": "`server`", "jpeg_server_replaced_total": "`server`, `reason`"}
    described = re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE)
    return [(code(name), kinds[name], labels[name], meaning) for name, meaning in described]


def _faults() -> list[str]:
    """Return the reasons for which `jpeg-serve` replaces a server."""
    return sorted({each.code for each in raised() if each.maker == "Fault"})


def _link(reason: str) -> str:
    return f"[`{reason}`](reason-codes.md#{reason})"
