"""Answers of one classifier, kept in a file as they come, so that an interrupted evaluation goes on where it stopped.

JSON Lines, appended batch by batch. A row belongs to a photo by the SHA-256 of its bytes: another photo under the same
name is another photo. What else decides an answer is in the name of the file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from jpeg_contract.settings import Head
from numpy.typing import NDArray

from jpeg_build.evaluate.measures import NO_ANSWER
from jpeg_build.recipe.outputs import to_scores

RANKS = 5


class Answer(msgspec.Struct, frozen=True, tag="answer", tag_field="row"):
    """The answer to one photo.

    Attributes:
        photo: SHA-256 of its bytes.
        best: Classes, best first; none if the outputs are not finite.
        scores: Of these classes; for a sigmoid, of all labels in their order.
    """

    photo: str
    best: list[int]
    scores: list[float]


class Timing(msgspec.Struct, frozen=True, tag="timing", tag_field="row"):
    """How long a batch took. images: its size."""

    images: int
    decode_s: float
    classify_s: float


_ROW = msgspec.json.Decoder(Answer | Timing)


def answers_of(logits: NDArray[np.float32], photos: Sequence[str], head: Head) -> list[Answer]:
    """Rank the classes of each photo as the server does: by falling score, equal ones in the order of the classes.

    Args:
        logits: (N, classes) float32.
        photos: SHA-256 of each.
        head: How logits become scores.
    """
    finite = np.isfinite(logits).all(axis=1)
    scores = to_scores(np.where(finite[:, None], logits, 0), head)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :RANKS]
    return [
        Answer(
            photo,
            best[row].tolist() if finite[row] else [],
            (scores[row] if head == "sigmoid" else scores[row, best[row]]).tolist() if finite[row] else [],
        )
        for row, photo in enumerate(photos)
    ]


class AnswerFile:
    """The answers that a file holds, and those to come.

    Args:
        path: The file, made if it is not there. Rows that were cut off or damaged are dropped.
    """

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, Answer] = {}
        self.timings: list[Timing] = []
        self._path = path
        self._file: IO[bytes] | None = None
        if path.exists():
            self._read()

    def missing(self, photos: Sequence[str]) -> list[int]:
        """Return the places of the photos without an answer."""
        return [place for place, photo in enumerate(photos) if photo not in self.answers]

    def add(self, answers: Sequence[Answer], timing: Timing) -> None:
        """Append the answers of a batch."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        # One write: an interrupt leaves whole batches, and a full disk at most one row that is cut off.
        self._file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in (*answers, timing)))
        self._file.flush()
        self._keep([*answers, timing])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _keep(self, rows: Sequence[Answer | Timing]) -> None:
        for row in rows:
            if isinstance(row, Answer):
                self.answers[row.photo] = row
            else:
                self.timings.append(row)

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole: list[bytes] = []
        for line in content.splitlines(keepends=True):
            try:
                row = _ROW.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if line.endswith(b"\n"):
                self._keep([row])
                whole.append(line)
        kept = b"".join(whole)
        if kept != content:
            replace_file(self._path, kept)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file aside and rename it to its place, so that nobody reads a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        # mkstemp makes files that nobody else reads.
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Answers:
    """The answers of a classifier to N photos.

    Attributes:
        ranked: (N, ranks) classes, best first; NO_ANSWER where outputs are not finite.
        confidence: (N,) score of the first; 0 where there is none.
        scores: (N, labels) of a sigmoid; None for a softmax.
    """

    ranked: NDArray[np.int64]
    confidence: NDArray[np.float64]
    scores: NDArray[np.float64] | None


def collect(found: Mapping[str, Answer], photos: Sequence[str], classes: int, head: Head) -> Answers:
    """Return the answers to photos as arrays.

    Args:
        found: By photo.
        photos: SHA-256 of each.
        classes: How many there are.
        head: How logits became scores.
    """
    ranks = min(RANKS, classes)
    ranked = np.full((len(photos), ranks), NO_ANSWER, np.int64)
    confidence = np.zeros(len(photos))
    scores = np.zeros((len(photos), classes)) if head == "sigmoid" else None
    for row, photo in enumerate(photos):
        answer = found[photo]
        if not answer.best:
            continue
        ranked[row] = answer.best[:ranks]
        if scores is None:
            confidence[row] = answer.scores[0]
        else:
            scores[row] = answer.scores
            confidence[row] = answer.scores[answer.best[0]]
    return Answers(ranked, confidence, scores)
