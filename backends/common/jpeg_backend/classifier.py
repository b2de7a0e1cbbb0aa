"""The shared base of the backends: Triton's requests in, one run of the network, Triton's responses out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import triton_python_backend_utils as pb_utils

from jpeg_backend.batching import Run, run_batched
from jpeg_backend.model_config import ModelConfig


class ClassifierModel(ABC):
    """Subclass it as `TritonPythonModel`; `load` is all that a backend adds.

    default_filename: the artefact's name if the config has no `default_model_filename`; the native backend's.
    """

    default_filename: str

    @staticmethod
    @abstractmethod
    def load(config: ModelConfig) -> Run:
        """Load the artefact; returns what turns (N, H, W, 3) uint8 pixels into (N, classes) float32 logits.

        Raises BackendConfigError, which keeps the model from loading, if it cannot be served.
        """

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once for each instance."""
        self._config = ModelConfig.from_triton(args, default_filename=self.default_filename)
        self._run = self.load(self._config)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Called by Triton with the requests of one batch."""
        inputs = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, self._config.input_name)
            assert tensor is not None, "Triton checks the inputs against the config"
            inputs.append(tensor.as_numpy())
        responses = []
        for outcome in run_batched(self._run, inputs):
            if isinstance(outcome, Exception):
                # What went wrong may name files and addresses: it is in the log, not in the answer.
                message = f"{self._config.name} failed on this request; the server's log says why"
                error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL)
                responses.append(pb_utils.InferenceResponse(error=error))
            else:
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(self._config.output_name, outcome)]))
        return responses
