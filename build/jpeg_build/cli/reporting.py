"""How the commands of `jpeg-build` report: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from jpeg_contract.command_line import Progress, note, progress

COMMAND = "jpeg-build"


@contextlib.contextmanager
def work() -> Iterator[Progress]:
    """Report progress; frameworks report their downloads on stdout, which is the result's."""
    with progress(COMMAND) as step, contextlib.redirect_stdout(sys.stderr):
        yield step


def report_note(message: str) -> None:
    """Print a line for the user."""
    note(COMMAND, message)


def parity_line(parity: dict[str, Any], tolerance: dict[str, Any]) -> str:
    """Return how far an artefact is from its network, in a line."""
    largest, outlier = parity["relative_difference"], ""
    if tolerance.get("outlier_difference") is not None and parity["most_photos_difference"] < largest:
        outlier = f" and {largest:.2g} in the worst 5 % of the photos ({tolerance['outlier_difference']:.2g} allowed)"
        largest = parity["most_photos_difference"]
    return (
        f"logits differ by at most {largest:.2g} of the largest "
        f"({tolerance['relative_difference']:.2g} allowed){outlier}, top-1 equal on {parity['top1_agreement']:.1%} of "
        f"{parity['photos']} photos, in batches of {', '.join(map(str, sorted(set(parity['batches']))))}"
    )
