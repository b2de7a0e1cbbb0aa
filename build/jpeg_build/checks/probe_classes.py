"""The classes that a network may give the probe's photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jpeg_contract.report import KnownClass
from jpeg_contract.settings import Head

from jpeg_build.emitters import Logits
from jpeg_build.recipe.outputs import to_scores

# More classes than these for one photo say that the network does not know.
_MOST_PROBE_CLASSES = 5


def known_classes(logits: Logits, labels: Sequence[str], tie: float, *, head: Head = "softmax") -> list[KnownClass]:
    """Return the classes that may be best for a photo, best first; none if the network does not know.

    Args:
        logits: (rows, classes) of the photo, decoded and batched in several ways.
        labels: Of the classes.
        tie: Classes nearer to the best than this may take its place.
        head: How logits become scores.
    """
    possible = (logits >= logits.max(axis=1, keepdims=True) - tie).any(axis=0)
    scores = to_scores(logits, head).mean(axis=0)
    best = sorted(np.flatnonzero(possible).tolist(), key=lambda index: -scores[index])
    if len(best) > _MOST_PROBE_CLASSES:
        return []
    return [KnownClass(index=index, label=labels[index], score=round(float(scores[index]), 4)) for index in best]
