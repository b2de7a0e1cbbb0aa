"""What every peer does with images: this project's own decoding, the same ONNX file, this project's own top five.

The peers differ in how they queue, batch and answer, and in nothing else. `PEER`, an environment variable that
jpeg_bench.peers sets, holds the `Setup` as JSON. Nothing here knows a peer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort
from jpeg_preprocess import ImageError, Postprocessor, Preprocessor, PreprocessSettings, read_labels

K = 5


@dataclass(frozen=True)
class Setup:
    """What one peer is started with.

    model, labels: files. preprocess: the parameters of the model `preprocess`, as in its config.pbtxt. workers:
    processes that hold the network. runtime_threads: of ONNX Runtime in each, 0 is its own choice. decode_threads: of
    each. max_batch: images put together at most; 1 is no batching. batch_wait_ms: that a batch waits to be filled.
    host, port: where to listen. folder: for what the peer writes. extra: what only one peer understands.
    """

    model: str
    labels: str
    preprocess: dict[str, str]
    port: int
    folder: str
    host: str = "127.0.0.1"
    workers: int = 1
    runtime_threads: int = 0
    decode_threads: int = 1
    max_batch: int = 1
    batch_wait_ms: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Setup:
        """The one in the environment."""
        return cls(**json.loads(os.environ["PEER"]))


class Pipeline:
    """Decode, classify, name. Load it in the process that answers: it has threads."""

    def __init__(self, setup: Setup) -> None:
        parameters = {**setup.preprocess, "threads": str(setup.decode_threads)}
        self._preprocess = Preprocessor(PreprocessSettings.from_parameters(parameters))
        options = ort.SessionOptions()
        options.intra_op_num_threads = setup.runtime_threads
        self._session = ort.InferenceSession(setup.model, options, providers=["CPUExecutionProvider"])
        self._postprocess = Postprocessor(read_labels(Path(setup.labels)))

    def classify(self, images: Sequence[bytes]) -> list[dict[str, Any] | ImageError]:
        """For each JPEG its five best labels and scores, or why it has none."""
        pixels, errors = self._preprocess(images)
        good = [index for index, error in enumerate(errors) if error is None]
        answers: list[dict[str, Any] | ImageError] = [error or {} for error in errors]
        if good:
            (logits,) = self._session.run(
                ["output__0"], {"input__0": pixels if len(good) == len(errors) else pixels[good]}
            )
            answer = self._postprocess(logits, [b""] * len(good), K)
            for row, index in enumerate(good):
                answers[index] = {
                    "labels": [label.decode() for label in answer.labels[row]],
                    "scores": answer.scores[row].tolist(),
                }
        return answers

    def classify_one(self, image: bytes) -> dict[str, Any]:
        """One JPEG's labels and scores. Raises ImageError."""
        (answer,) = self.classify([image])
        if isinstance(answer, ImageError):
            raise answer
        return answer


def main() -> None:
    """Print, as JSON, what a peer must answer for the JPEG files that are named: its labels and scores."""
    pipeline = Pipeline(Setup.read())
    json.dump([pipeline.classify_one(Path(name).read_bytes()) for name in sys.argv[1:]], sys.stdout)


if __name__ == "__main__":
    main()
