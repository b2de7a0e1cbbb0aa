"""What can go wrong in a measurement, as sentences."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement cannot be made, or means nothing; the message says why and what to do."""
