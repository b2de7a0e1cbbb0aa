"""Triton model `postprocess`: logits to the k best labels, with a word for each image that has none."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from jpeg_preprocess import ImageError, KError, PostprocessSettings, metrics, read_labels, request_k
from jpeg_preprocess.postprocessor import Answer, Postprocessor, Question
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
        read = [self._read(request) for request in requests]
        answers = self._postprocess.answer_all([question for question, _ in read])
        measured.observe(metrics.BATCH_IMAGES, [sum(len(failures) for _, failures in read)])
        responses = [_respond(answer, failures, measured) for answer, (_, failures) in zip(answers, read, strict=True)]
        self._metrics.add(measured)
        return responses

    def finalize(self) -> None:
        self._metrics.close()

    def _read(self, request: pb_utils.InferenceRequest) -> tuple[Question | Exception, list[bytes]]:
        """What a request asks, or what is wrong with it, and a message for each of its images."""
        failures: list[bytes] = []
        try:
            logits = _array(request, "output__0")
            failures = _array(request, "ERROR").ravel().tolist()
            k = request_k(request.parameters, default=self._settings.default_k, classes=self._postprocess.classes)
        except Exception as error:
            return error, failures
        return Question(logits, failures, k), failures


def _respond(
    answer: Answer | Exception, failures: list[bytes], measured: metrics.Measurements
) -> pb_utils.InferenceResponse:
    if isinstance(answer, Answer):
        measured.answered(failures, answer.errors.ravel().tolist())
        names = {"LABEL": answer.labels, "SCORE": answer.scores, "INDEX": answer.indices, "ERROR": answer.errors}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in names.items()])
    if isinstance(answer, KError):
        measured.count(metrics.refused("bad_k"))
        return _refuse(str(answer), pb_utils.TritonError.INVALID_ARG)
    if isinstance(answer, ImageError):
        measured.answered(failures, None)
        measured.count(metrics.refused("no_usable_image"))
        return _refuse(str(answer), pb_utils.TritonError.INTERNAL)
    # What leaves execute fails every request of the batch, and shows the client a traceback.
    log.error("a request could not be answered", exc_info=answer)
    measured.count(metrics.refused("internal"))
    return _refuse("postprocess failed on this request; the server's log says why", pb_utils.TritonError.INTERNAL)


def _array(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    assert tensor is not None, "Triton checks the inputs against the config"
    return tensor.as_numpy()


def _refuse(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
