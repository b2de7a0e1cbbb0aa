"""What became of the images: a progress bar meanwhile, a summary at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from jpeg_client.command.rows import Row


class Summary:
    """Counts rows, and shows them on a terminal. For a `with` block.

    Args:
        count: Counts the images that there will be, in a thread; None shows no bar.
    """

    def __init__(self, count: Callable[[], Iterable[object]] | None) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.done_before = 0
        self._count = count
        self._begun = time.monotonic()
        self._stack = ExitStack()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Summary:
        if self._count is not None and sys.stderr.isatty():
            self._bar, self._task = self._open_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def images(self) -> int:
        """Images with a row of this run."""
        return self.answered + self.failed.total()

    def add(self, row: Row) -> None:
        """Count a row."""
        if row.error is None:
            self.answered += 1
        else:
            self.failed[row.reason or "image_refused"] += 1
        self._advance()

    def skip(self) -> None:
        """Count an image that an earlier run has done."""
        self.done_before += 1
        self._advance()

    def line(self, other_files: int) -> str:
        """Return the summary. other_files: files in the folders that have no JPEG's suffix."""
        seconds = time.monotonic() - self._begun
        parts = [f"{self.answered:,} answered"]
        parts += [f"{count:,} {reason}" for reason, count in sorted(self.failed.items())]
        if self.done_before:
            parts.append(f"{self.done_before:,} done before")
        if other_files:
            parts.append(f"{other_files:,} other files skipped")
        rate = self.images / seconds if seconds else 0.0
        return f"{self.images:,} images in {seconds:,.1f} s ({rate:,.0f}/s): {', '.join(parts)}"

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=1, failed=f"{self.failed.total()} failed" if self.failed else "")

    def _open_bar(self) -> tuple[Any, Any]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # lines appear above the bar
        )
        task = bar.add_task("", total=None, failed="", rate="")
        self._stack.enter_context(bar)
        stopped = threading.Event()
        self._stack.callback(stopped.set)
        threading.Thread(target=self._set_total, args=(bar, task, stopped), daemon=True).start()
        threading.Thread(target=self._set_rate, args=(bar, task, stopped), daemon=True).start()
        return bar, task

    def _set_total(self, bar: Any, task: Any, stopped: threading.Event) -> None:
        assert self._count is not None
        total = 0
        for _ in self._count():
            if stopped.is_set():
                return
            total += 1
        bar.update(task, total=total)

    def _set_rate(self, bar: Any, task: Any, stopped: threading.Event) -> None:
        before, then = 0, time.monotonic()
        while not stopped.wait(1.0):
            now = time.monotonic()
            bar.update(task, rate=f"{(self.images - before) / (now - then):,.0f} images/s")
            before, then = self.images, now
