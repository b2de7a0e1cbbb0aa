"""How busy the GPUs are, by nvidia-smi, while something runs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ASKED = "index,name,utilization.gpu,memory.used"
_EVERY_MS = 250


class GpuUse:
    """What was seen so far: `to_json` has, for each GPU, mean use in percent and the largest memory in MiB."""

    def __init__(self) -> None:
        self._text = ""

    def read(self, text: str) -> None:
        """Take what nvidia-smi printed."""
        self._text = text

    def to_json(self) -> list[dict[str, Any]]:
        """Empty where there is no GPU."""
        rows: dict[str, list[list[str]]] = {}
        for line in self._text.splitlines():
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) == 4 and cells[2].isdigit() and cells[3].isdigit():
                rows.setdefault(cells[0], []).append(cells)
        return [
            {
                "gpu": int(index),
                "name": cells[0][1],
                "mean_use_percent": round(sum(int(cell[2]) for cell in cells) / len(cells), 1),
                "memory_mib": max(int(cell[3]) for cell in cells),
            }
            for index, cells in rows.items()
        ]


@contextmanager
def watched_gpus() -> Iterator[GpuUse]:
    """Ask nvidia-smi several times a second until the block ends, where there is one."""
    use = GpuUse()
    if shutil.which("nvidia-smi") is None:
        yield use
        return
    command = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits", f"--loop-ms={_EVERY_MS}"]
    with tempfile.TemporaryFile("w+") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.DEVNULL)
        try:
            yield use
        finally:
            process.terminate()
            process.wait()
            sink.seek(0)
            use.read(sink.read())
