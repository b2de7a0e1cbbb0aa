"""Errors of the bench. Each has a stable reason code in `reason`."""

from __future__ import annotations

from jpeg_contract.errors import ReasonedError


class BenchError(ReasonedError):
    """The measurement failed, or its result would be meaningless."""

    reason = "measurement_failed"


class InvalidOption(ReasonedError, ValueError):
    """An option has an unusable value."""

    reason = "invalid_option"
