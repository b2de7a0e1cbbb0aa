"""What one client process notes down: when each request was due and done, and what failed."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field

# What is asked in vain so often, one request after the other, is not asked any more.
_GIVE_UP_AFTER = 100
_MESSAGES = 5
_MESSAGE_LENGTH = 300

clock = time.monotonic  # one for all processes of the machine (CLOCK_MONOTONIC)


@dataclass
class Notes:
    """Of one process. due, done: seconds on `clock`, of each request answered rightly that ended after `begin`.

    asks: its number among the asks. answers: the last answer to each ask. cpu_s: of the process, from `begin` to `end`.
    """

    due: array[float] = field(default_factory=lambda: array("d"))
    done: array[float] = field(default_factory=lambda: array("d"))
    asks: array[int] = field(default_factory=lambda: array("H"))
    answers: dict[int, bytes] = field(default_factory=dict)
    failures: int = 0
    held_back: int = 0
    reconnects: int = 0
    messages: list[str] = field(default_factory=list)
    cpu_s: float = 0.0


class Recorder:
    """Notes for the window from `begin` to `end`, in seconds on `clock`."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, end
        self.notes = Notes()
        self._vain = 0

    @property
    def gave_up(self) -> bool:
        """Whether nothing but failures came for so long that there is no sense in asking on."""
        return self._vain >= _GIVE_UP_AFTER

    def answered(self, due: float, done: float, ask: int, answer: bytes) -> None:
        """A right answer."""
        self._vain = 0
        if done < self.begin:
            return
        notes = self.notes
        notes.due.append(due)
        notes.done.append(done)
        notes.asks.append(ask)
        notes.answers[ask] = answer

    def failed(self, done: float, message: str) -> None:
        """An answer that is not right, or none."""
        self._vain += 1
        if done < self.begin and not self.gave_up:
            return
        self.notes.failures += 1
        message = message[:_MESSAGE_LENGTH]
        if len(self.notes.messages) < _MESSAGES and message not in self.notes.messages:
            self.notes.messages.append(message)
