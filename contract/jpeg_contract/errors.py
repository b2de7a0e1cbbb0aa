"""The base of this project's errors: a message for people, and a reason code for programs."""

from __future__ import annotations


class ReasonedError(Exception):
    """An error with a stable reason code.

    Args:
        message: The fault and its remedy, without the code.
        reason: The code in snake_case, such as "port_taken"; None takes the class's own.
    """

    reason = "failed"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
