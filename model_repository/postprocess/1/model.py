"""Triton model `postprocess`: logits to the k best labels, with a word for each image that has none."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from jpeg_preprocess import (
    Answer,
    ImageError,
    KError,
    Postprocessor,
    PostprocessSettings,
    Question,
    metrics,
    read_labels,
    request_k,
)
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
        read = [self._read(request, measured) for request in requests]
        questions = [asked for asked, _ in read if isinstance(asked, Question)]
        answers = iter(zip(questions, self._answer(questions), strict=True))
        responses = [_respond(*next(answers), measured) if isinstance(it, Question) else it for it, _ in read]
        measured.observe(metrics.BATCH_IMAGES, [sum(images for _, images in read)])
        self._metrics.add(measured)
        return responses

    def finalize(self) -> None:
        self._metrics.close()

    def _read(
        self, request: pb_utils.InferenceRequest, measured: metrics.Measurements
    ) -> tuple[Question | pb_utils.InferenceResponse, int]:
        """What a request asks, or its refusal, and how many images it has."""
        failures: list[bytes] = []
        try:
            logits = _array(request, "output__0")
            failures = _array(request, "ERROR").ravel().tolist()
            k = request_k(request.parameters, default=self._settings.default_k, classes=self._postprocess.classes)
        except KError as error:
            measured.count(metrics.refused("bad_k"))
            return _refuse(str(error), pb_utils.TritonError.INVALID_ARG), len(failures)
        except Exception as error:
            return _fail(error, measured), len(failures)
        return Question(logits, failures, k), len(failures)

    def _answer(self, questions: list[Question]) -> list[Answer | Exception]:
        """Answer all together; if that fails, each alone: what one request causes, no other one pays for."""
        if not questions:
            return []
        try:
            return list(self._postprocess.answer_all(questions))
        except Exception as error:
            if len(questions) == 1:
                return [error]
            return [answer for question in questions for answer in self._answer([question])]


def _respond(
    question: Question, answer: Answer | Exception, measured: metrics.Measurements
) -> pb_utils.InferenceResponse:
    if isinstance(answer, ImageError):
        measured.answered(question.failures, None)
        measured.count(metrics.refused("no_usable_image"))
        return _refuse(str(answer), pb_utils.TritonError.INTERNAL)
    if isinstance(answer, Exception):
        return _fail(answer, measured)
    measured.answered(question.failures, answer.errors.ravel().tolist())
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("LABEL", answer.labels),
            pb_utils.Tensor("SCORE", answer.scores),
            pb_utils.Tensor("INDEX", answer.indices),
            pb_utils.Tensor("ERROR", answer.errors),
        ]
    )


def _fail(error: Exception, measured: metrics.Measurements) -> pb_utils.InferenceResponse:
    """The refusal for what nobody expected: left to Triton, it would show the client a traceback."""
    log.error("a request could not be answered", exc_info=error)
    measured.count(metrics.refused("internal"))
    return _refuse("postprocess failed on this request; the server's log says why", pb_utils.TritonError.INTERNAL)


def _array(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    assert tensor is not None, "Triton checks the inputs against the config"
    return tensor.as_numpy()


def _refuse(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
