"""The lane that keeps one worker of a model free of large requests, so that small ones pass them."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path


class LargeLane:
    """Lets all workers of a model but one take large requests at the same time.

    Each worker has one. They share lock files, which the system releases when a worker ends.

    Args:
        folder: The run folder; without one, every worker takes large requests.
        model: Name of the model.
        workers: Number of the model's workers. A single one takes large requests, too.
    """

    def __init__(self, folder: Path | None, model: str, workers: int) -> None:
        self._places: list[int] = []
        self._held: int | None = None
        self._is_open = folder is None or workers == 1
        if folder is not None:
            self._places = [
                os.open(folder / f"large-{model}-{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                for place in range(workers - 1)
            ]

    def enter(self) -> bool:
        """Take a place, until `leave`. Returns False if the others have them all."""
        if self._is_open or self._held is not None:
            return True
        for place in self._places:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            self._held = place
            return True
        return False

    def leave(self) -> None:
        """Give the place back, if one was taken."""
        if self._held is not None:
            fcntl.flock(self._held, fcntl.LOCK_UN)
            self._held = None

    def close(self) -> None:
        """Close the lock files."""
        for place in self._places:
            os.close(place)
        self._places, self._held = [], None


def count_workers(model_config: str) -> int:
    """Return the number of instances of a model.

    Args:
        model_config: The JSON that Triton hands to a Python model.
    """
    groups = json.loads(model_config).get("instance_group", [])
    return max(1, sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups))
