"""The computation of every peer: this project's decoding, scores and labels, and the same ONNX file.

The peers differ only in queueing, batching and responses. The environment variable `PEER` holds the `Setup` as JSON; it
is set by comparison.running_peer.
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
from jpeg_contract.image_errors import ImageError
from jpeg_contract.labels import read_labels
from jpeg_contract.settings import PostprocessSettings, PreprocessSettings
from jpeg_contract.tensors import INPUT, OUTPUT
from jpeg_postprocess import Postprocessor, TopKRequest
from jpeg_preprocess import Preprocessor

__all__ = ["ImageError", "Pipeline", "Setup"]


@dataclass(frozen=True)
class Setup:
    """The setup of a peer.

    Attributes:
        model: ONNX file.
        labels: Label file.
        preprocess: Parameters of the model `preprocess`, as in its config.pbtxt.
        postprocess: Those of the model `postprocess`: softmax or sigmoid, labels per image, threshold.
        port: Port to listen on.
        folder: Folder for files of the peer.
        host: Address to listen on.
        workers: Processes that hold the network.
        runtime_threads: ONNX Runtime threads per process; 0 is its default.
        decode_threads: Decoder threads per process.
        max_batch: Maximum batch size; 1 disables batching.
        batch_wait_ms: Time that a batch waits for more requests.
        extra: Options of one peer only.
    """

    model: str
    labels: str
    preprocess: dict[str, str]
    postprocess: dict[str, str]
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
        """Read the setup from the environment."""
        return cls(**json.loads(os.environ["PEER"]))


class Pipeline:
    """Decodes, classifies and labels images. It has threads: open it in the process that uses it.

    Args:
        setup: The setup of the peer.
    """

    def __init__(self, setup: Setup) -> None:
        parameters = {**setup.preprocess, "threads": str(setup.decode_threads)}
        self._preprocess = Preprocessor(PreprocessSettings.from_parameters(parameters))
        options = ort.SessionOptions()
        options.intra_op_num_threads = setup.runtime_threads
        self._session = ort.InferenceSession(setup.model, options, providers=["CPUExecutionProvider"])
        labels, wanted = read_labels(Path(setup.labels)), PostprocessSettings.from_parameters(setup.postprocess)
        self._postprocess = Postprocessor(labels, wanted.output)
        self._k, self._threshold = min(wanted.default_k, len(labels)), wanted.threshold

    def classify(self, images: Sequence[bytes]) -> list[dict[str, Any] | ImageError]:
        """Classify encoded images.

        Returns:
            For each image its labels and scores, as many as the server returns by default, or its error.
        """
        pixels, errors = self._preprocess(images)
        decoded = [index for index, error in enumerate(errors) if error is None]
        results: list[dict[str, Any] | ImageError] = [error or {} for error in errors]
        if decoded:
            batch = pixels if len(decoded) == len(errors) else pixels[decoded]
            (logits,) = self._session.run([OUTPUT], {INPUT: batch})
            response = self._postprocess(TopKRequest(logits, [b""] * len(decoded), self._k, self._threshold))
            for row, index in enumerate(decoded):
                results[index] = {
                    "labels": [label.decode() for label in response.labels[row]],
                    "scores": response.scores[row].tolist(),
                }
        return results

    def classify_one(self, image: bytes) -> dict[str, Any]:
        """Classify one encoded image. Raises ImageError."""
        (result,) = self.classify([image])
        if isinstance(result, ImageError):
            raise result
        return result


def main() -> None:
    """Print the expected responses for the JPEG files in sys.argv as JSON."""
    pipeline = Pipeline(Setup.read())
    json.dump([pipeline.classify_one(Path(name).read_bytes()) for name in sys.argv[1:]], sys.stdout)


if __name__ == "__main__":
    main()
