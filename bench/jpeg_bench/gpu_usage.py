"""Utilisation and memory of the GPUs, sampled with nvidia-smi."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_QUERY = "index,name,utilization.gpu,memory.used"
_INTERVAL_MS = 250


class GpuUsage:
    """The samples of all GPUs; complete when the block of `watch_gpus` ends."""

    def __init__(self) -> None:
        self._output = ""

    def parse(self, output: str) -> None:
        """Set the output of nvidia-smi."""
        self._output = output

    def to_json(self) -> list[dict[str, Any]]:
        """Return mean utilisation and maximum memory of each GPU; empty without a GPU."""
        samples: dict[str, list[list[str]]] = {}
        for line in self._output.splitlines():
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) == 4 and cells[2].isdigit() and cells[3].isdigit():
                samples.setdefault(cells[0], []).append(cells)
        return [
            {
                "gpu": int(index),
                "name": rows[0][1],
                "mean_utilization_percent": round(sum(int(row[2]) for row in rows) / len(rows), 1),
                "max_memory_mib": max(int(row[3]) for row in rows),
            }
            for index, rows in samples.items()
        ]


@contextmanager
def watch_gpus() -> Iterator[GpuUsage]:
    """Sample the GPUs several times per second until the block ends; without nvidia-smi there are no samples."""
    usage = GpuUsage()
    if shutil.which("nvidia-smi") is None:
        yield usage
        return
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", f"--loop-ms={_INTERVAL_MS}"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL)
        try:
            yield usage
        finally:
            process.terminate()
            process.wait()
            output.seek(0)
            usage.parse(output.read())
