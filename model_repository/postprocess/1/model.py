"""Triton model `postprocess`: logits to the k best labels, with an error for each image that has none."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils
from jpeg_contract.image_errors import ImageError
from jpeg_contract.inside import inside
from jpeg_contract.labels import read_labels
from jpeg_contract.settings import PostprocessSettings
from jpeg_contract.tensors import CHECKSUM, ERROR, INDEX, LABEL, OUTPUT, SCORE, TIMES
from jpeg_postprocess import InvalidParameter, InvalidThreshold, Postprocessor, TopKRequest, TopKResponse, read_wanted
from jpeg_runtime import metrics
from jpeg_runtime.batching import NoBatchDimension, check_batched, run_batch
from jpeg_runtime.client_errors import answers_every_request, failed
from jpeg_runtime.step_times import NO_STAMPS, StepTimes, read_stamps
from jpeg_runtime.triton_log import log_to_triton
from jpeg_runtime.worker import Worker
from numpy.typing import NDArray

log = logging.getLogger(__name__)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        log_to_triton(pb_utils.Logger)
        self._settings = PostprocessSettings.from_config(args["model_config"])
        logits = next(tensor for tensor in json.loads(args["model_config"])["input"] if tensor["name"] == OUTPUT)
        labels_file = inside(Path(args["model_repository"]), self._settings.labels_file)
        labels = read_labels(labels_file, classes=int(logits["dims"][0]))
        self._postprocessor = Postprocessor(labels, self._settings.output)
        self._metrics = metrics.Metrics(pb_utils.MetricFamily, metrics.POSTPROCESS_SERIES, args)
        self._worker = Worker(args["model_name"], "postprocess")

    @answers_every_request
    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        with self._worker.batch():
            return self._respond(requests)

    def finalize(self) -> None:
        self._worker.close()
        self._metrics.close()

    def _respond(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        measured, begun_ns = metrics.Measurements(), time.monotonic_ns()
        read = [self._read(request) for request in requests]
        outcomes = run_batch(self._postprocessor.run, [each.request for each in read])
        images = sum(len(each.decode_errors) for each in read)
        self._worker.take(images)
        measured.observe(metrics.BATCH_IMAGES, [images])
        steps = read_stamps([each.stamps for each in read], begun_ns, time.monotonic_ns())
        responses = [
            _respond(outcome, each.decode_errors, taken, measured)
            for outcome, each, taken in zip(outcomes, read, steps, strict=True)
        ]
        self._metrics.add(measured)
        return responses

    def _read(self, request: pb_utils.InferenceRequest) -> _Read:
        decode_errors: list[bytes] = []
        try:
            logits, stamps = _array(request, OUTPUT), _array(request, CHECKSUM)
            check_batched(OUTPUT, logits.shape, 1)
            decode_errors = _array(request, ERROR).ravel().tolist()
            wanted = read_wanted(
                request.parameters,
                k=self._settings.default_k,
                threshold=self._settings.threshold,
                classes=self._postprocessor.classes,
            )
        except Exception as error:
            return _Read(error, decode_errors, NO_STAMPS)
        return _Read(TopKRequest(logits, decode_errors, *wanted), decode_errors, stamps)


class _Read(NamedTuple):
    """A request, or the exception that says what is wrong with it; and its images' decode errors and stamps."""

    request: TopKRequest | Exception
    decode_errors: list[bytes]
    stamps: NDArray[np.uint32]


def _respond(
    outcome: TopKResponse | Exception, decode_errors: list[bytes], steps: StepTimes, measured: metrics.Measurements
) -> pb_utils.InferenceResponse:
    if isinstance(outcome, TopKResponse):
        measured.answered(decode_errors, outcome.errors.ravel().tolist(), steps.seconds)
        tensors = {LABEL: outcome.labels, SCORE: outcome.scores, INDEX: outcome.indices, ERROR: outcome.errors}
        tensors[CHECKSUM], tensors[TIMES] = steps.checksums, steps.times
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
    if isinstance(outcome, InvalidParameter):
        measured.count(metrics.refused("bad_threshold" if isinstance(outcome, InvalidThreshold) else "bad_k"))
        return _refuse(outcome.with_code(), pb_utils.TritonError.INVALID_ARG)
    if isinstance(outcome, NoBatchDimension):
        measured.count(metrics.refused("bad_shape"))
        return _refuse(str(outcome), pb_utils.TritonError.INVALID_ARG)
    if isinstance(outcome, ImageError):
        measured.answered(decode_errors, None)
        measured.count(metrics.refused("no_usable_image"))
        return _refuse(outcome.with_code(), pb_utils.TritonError.INTERNAL)
    # An exception that leaves execute fails every request of the batch, and shows the client a traceback.
    log.error("a request failed", exc_info=outcome)
    measured.count(metrics.refused("internal"))
    return _refuse(failed("postprocess"), pb_utils.TritonError.INTERNAL)


def _array(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    assert tensor is not None, "Triton checks the inputs against the config"
    return tensor.as_numpy()


def _refuse(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
