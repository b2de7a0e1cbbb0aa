"""Triton model `postprocess`: logits to the k best labels, with a word for each image that has none."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from jpeg_preprocess import ImageError, KError, Postprocessor, PostprocessSettings, metrics, read_labels, request_k
from numpy.typing import NDArray

log = logging.getLogger(__name__)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._settings = PostprocessSettings.from_config(args["model_config"])
        logits = next(tensor for tensor in json.loads(args["model_config"])["input"] if tensor["name"] == "output__0")
        labels_file = Path(args["model_repository"]) / self._settings.labels_file
        self._postprocess = Postprocessor(read_labels(labels_file, classes=int(logits["dims"][0])))
        self._metrics = metrics.Metrics(pb_utils.MetricFamily, metrics.POSTPROCESS_SERIES, args)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        measured = metrics.Measurements()
        batches = [self._answer(request, measured) for request in requests]
        measured.observe(metrics.BATCH_IMAGES, [sum(images for _, images in batches)])
        self._metrics.add(measured)
        return [response for response, _ in batches]

    def finalize(self) -> None:
        self._metrics.close()

    def _answer(
        self, request: pb_utils.InferenceRequest, measured: metrics.Measurements
    ) -> tuple[pb_utils.InferenceResponse, int]:
        """The response, and how many images the request has."""
        failures: list[bytes] = []
        try:
            logits = _array(request, "output__0")
            failures = _array(request, "ERROR").ravel().tolist()
            k = request_k(request.parameters, default=self._settings.default_k, classes=self._postprocess.classes)
            answer = self._postprocess(logits, failures, k)
        except KError as error:
            measured.count(metrics.refused("bad_k"))
            return _refuse(str(error), pb_utils.TritonError.INVALID_ARG), len(failures)
        except ImageError as error:
            measured.answered(failures, None)
            measured.count(metrics.refused("no_usable_image"))
            return _refuse(str(error), pb_utils.TritonError.INTERNAL), len(failures)
        except Exception:
            # What leaves execute fails every request of the batch, and shows the client a traceback.
            log.exception("a request could not be answered")
            measured.count(metrics.refused("internal"))
            message = "postprocess failed on this request; the server's log says why"
            return _refuse(message, pb_utils.TritonError.INTERNAL), len(failures)
        measured.answered(failures, answer.errors.ravel().tolist())
        response = pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("LABEL", answer.labels),
                pb_utils.Tensor("SCORE", answer.scores),
                pb_utils.Tensor("INDEX", answer.indices),
                pb_utils.Tensor("ERROR", answer.errors),
            ]
        )
        return response, len(failures)


def _array(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    assert tensor is not None, "Triton checks the inputs against the config"
    return tensor.as_numpy()


def _refuse(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
