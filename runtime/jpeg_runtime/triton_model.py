"""The model class of every Python-based backend: requests in, one run of the network, responses out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import triton_python_backend_utils as pb_utils

from jpeg_runtime.batching import Array, NoBatchDimension, check_batched, run_batch
from jpeg_runtime.client_errors import answers_every_request, failed
from jpeg_runtime.deadline import PASSED, has_passed
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ServingConfig
from jpeg_runtime.triton_log import log_to_triton
from jpeg_runtime.worker import Worker

log = logging.getLogger(__name__)


class _Late(Exception):  # no fault
    """Nobody waits for the request any more."""


class TritonPythonModel:
    """Opens the artefact that the config names, by the loader of its classifier form.

    Pixels that lie on a GPU stay there if the config has the parameter FORCE_CPU_ONLY_INPUT_TENSORS with the value
    "no": the Python backend copies them to the CPU otherwise.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artefact. Called by Triton once for each instance."""
        log_to_triton(pb_utils.Logger)
        self._config = ServingConfig.from_triton(args)
        self._classifier = open_classifier(self._config)
        self._worker = Worker(self._config.name, "classifier")

    @answers_every_request
    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Run one batch. Called by Triton.

        The logits are returned in host memory, also where the network runs on a GPU: they are 4 kB for each image, what
        reads them next (a client, the ensemble's postprocess) is on the CPU, and the Python backend hands tensors on a
        GPU over in a second round trip between its processes.
        """
        with self._worker.batch():
            return self._respond(requests)

    def finalize(self) -> None:
        """Withdraw from the run folder. Called by Triton when it unloads the model."""
        self._worker.close()

    def _respond(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        tensors: list[pb_utils.Tensor | _Late | NoBatchDimension] = []
        now = time.time()
        for request in requests:
            if has_passed(request.parameters, now):
                tensors.append(_Late(PASSED))
                continue
            tensor = pb_utils.get_input_tensor_by_name(request, self._config.input_name)
            assert tensor is not None, "Triton checks the inputs against the config"
            try:
                check_batched(self._config.input_name, tensor.shape(), len(self._config.input_dims))
            except NoBatchDimension as refusal:
                tensors.append(refusal)
            else:
                tensors.append(tensor)
        self._worker.take(sum(tensor.shape()[0] for tensor in tensors if not isinstance(tensor, Exception)))
        responses = []
        for outcome in run_batch(self._run, tensors):
            if isinstance(outcome, _Late):
                error = pb_utils.TritonError(str(outcome), pb_utils.TritonError.UNAVAILABLE)
                responses.append(pb_utils.InferenceResponse(error=error))
            elif isinstance(outcome, NoBatchDimension):
                error = pb_utils.TritonError(str(outcome), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
            elif isinstance(outcome, Exception):
                # The exception may name files and addresses: it goes to the log, not to the client.
                log.error("%s failed on a request", self._config.name, exc_info=outcome)
                error = pb_utils.TritonError(failed(self._config.name), pb_utils.TritonError.INTERNAL)
                responses.append(pb_utils.InferenceResponse(error=error))
            else:
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(self._config.output_name, outcome)]))
        return responses

    def _run(self, tensors: Sequence[pb_utils.Tensor]) -> Sequence[Array]:
        classifier = self._classifier
        if not classifier.takes_device_tensors:
            return classifier.run_each([tensor.as_numpy() for tensor in tensors])
        return classifier.run_each(
            [
                tensor.as_numpy() if tensor.is_cpu() else classifier.from_capsule(tensor.to_dlpack())
                for tensor in tensors
            ]
        )
