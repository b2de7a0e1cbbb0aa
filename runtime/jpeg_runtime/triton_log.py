"""Python's logging inside Triton's workers, through Triton's own log."""

from __future__ import annotations

import logging
from typing import Any


class TritonLogHandler(logging.Handler):
    """Hands records to Triton's log: one line each, with time, level and file, and its line breaks escaped.

    A worker's stderr is not: what a client sends could stand at the beginning of a line there.

    Args:
        logger: `pb_utils.Logger`.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            text = self.format(record)
            if record.levelno >= logging.ERROR:
                self._logger.log_error(text)
            elif record.levelno >= logging.WARNING:
                self._logger.log_warn(text)
            else:
                self._logger.log_info(text)
        except Exception:
            self.handleError(record)


def log_to_triton(logger: Any) -> None:
    """Let Triton's log have the records of this process from the level warning on.

    Args:
        logger: `pb_utils.Logger`.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, TritonLogHandler) for handler in root.handlers):
        root.addHandler(TritonLogHandler(logger))
    logging.captureWarnings(capture=True)
