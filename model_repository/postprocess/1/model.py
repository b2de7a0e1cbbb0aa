"""Triton model `postprocess`: logits to the k best labels, with a word for each image that has none."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from jpeg_preprocess import (
    ImageError,
    KError,
    Postprocessor,
    PostprocessSettings,
    read_k,
    read_labels,
    read_parameters,
)
from numpy.typing import NDArray

log = logging.getLogger(__name__)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._settings = PostprocessSettings.from_parameters(read_parameters(args["model_config"]))
        logits = next(tensor for tensor in json.loads(args["model_config"])["input"] if tensor["name"] == "output__0")
        labels_file = Path(args["model_repository"]) / self._settings.labels_file
        self._postprocess = Postprocessor(read_labels(labels_file, classes=int(logits["dims"][0])))

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            k = read_k(_parameters(request), default=self._settings.default_k, classes=self._postprocess.classes)
            answer = self._postprocess(_array(request, "output__0"), _array(request, "ERROR").ravel().tolist(), k)
        except KError as error:
            return _refuse(str(error), pb_utils.TritonError.INVALID_ARG)
        except ImageError as error:
            return _refuse(str(error), pb_utils.TritonError.INTERNAL)
        except Exception:
            # What leaves execute fails every request of the batch, and shows the client a traceback.
            log.exception("a request could not be answered")
            return _refuse(
                "postprocess failed on this request; the server's log says why", pb_utils.TritonError.INTERNAL
            )
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("LABEL", answer.labels),
                pb_utils.Tensor("SCORE", answer.scores),
                pb_utils.Tensor("INDEX", answer.indices),
                pb_utils.Tensor("ERROR", answer.errors),
            ]
        )


def _parameters(request: pb_utils.InferenceRequest) -> dict[str, object]:
    try:
        parameters: dict[str, object] = json.loads(request.parameters() or "{}")
    except ValueError as error:
        raise KError("the parameters of the request, or the headers that become such, are not UTF-8 text") from error
    return parameters


def _array(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    assert tensor is not None, "Triton checks the inputs against the config"
    return tensor.as_numpy()


def _refuse(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
