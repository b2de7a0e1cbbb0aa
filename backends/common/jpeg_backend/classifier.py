"""The shared base of the backends: Triton's requests in, one run of the network, Triton's responses out."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

import triton_python_backend_utils as pb_utils
from jpeg_preprocess.together import run_together

from jpeg_backend.batching import Array, Run, RunEach, concatenated
from jpeg_backend.device_batches import DeviceRunner
from jpeg_backend.model_config import ModelConfig

log = logging.getLogger(__name__)


class _TritonModel(ABC):
    """What Triton calls.

    default_filename: the artefact's name if the config has no `default_model_filename`; the native backend's.
    """

    default_filename: str

    @abstractmethod
    def _open(self, config: ModelConfig) -> RunEach[pb_utils.Tensor]:
        """Load the artefact; returns what runs the input tensors of several requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once for each instance."""
        self._config = ModelConfig.from_triton(args, default_filename=self.default_filename)
        self._run = self._open(self._config)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Called by Triton with the requests of one batch.

        The answers are in host memory, also where the network runs on a GPU: they are 4 kB for each image, what
        reads them next (a client, the ensemble's postprocess) is on the CPU, and the Python backend hands tensors on
        a GPU over in a second round trip between its processes.
        """
        tensors = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, self._config.input_name)
            assert tensor is not None, "Triton checks the inputs against the config"
            tensors.append(tensor)
        responses = []
        for outcome in run_together(self._run, tensors):
            if isinstance(outcome, Exception):
                # What went wrong may name files and addresses: it is in the log, not in the answer.
                log.error("%s failed on a request", self._config.name, exc_info=outcome)
                message = f"{self._config.name} failed on this request; the server's log says why"
                error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL)
                responses.append(pb_utils.InferenceResponse(error=error))
            else:
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(self._config.output_name, outcome)]))
        return responses


class ClassifierModel(_TritonModel):
    """For networks that take NumPy arrays: subclass it as `TritonPythonModel`; `load` is all that a backend adds."""

    @staticmethod
    @abstractmethod
    def load(config: ModelConfig) -> Run:
        """Load the artefact; returns what turns (N, H, W, 3) uint8 pixels into (N, classes) float32 logits.

        Raises BackendConfigError, which keeps the model from loading, if it cannot be served.
        """

    def _open(self, config: ModelConfig) -> RunEach[pb_utils.Tensor]:
        return _on_host(self.load(config))


class DeviceClassifierModel(_TritonModel):
    """For networks that may run on a GPU: pixels that arrive there stay there.

    They do only if the config has the parameter FORCE_CPU_ONLY_INPUT_TENSORS with the value "no": the Python
    backend copies them to the CPU otherwise.
    """

    @staticmethod
    @abstractmethod
    def load(config: ModelConfig) -> Run | DeviceRunner:
        """Load the artefact onto the instance's GPU, or, if the backend can, onto the CPU, as `ClassifierModel.load`.

        Raises BackendConfigError, which keeps the model from loading, if it cannot be served.
        """

    def _open(self, config: ModelConfig) -> RunEach[pb_utils.Tensor]:
        loaded = self.load(config)
        return _on_device(loaded) if isinstance(loaded, DeviceRunner) else _on_host(loaded)


def _on_host(run: Run) -> RunEach[pb_utils.Tensor]:
    run_arrays = concatenated(run)

    def run_tensors(tensors: Sequence[pb_utils.Tensor]) -> Sequence[Array]:
        return run_arrays([tensor.as_numpy() for tensor in tensors])

    return run_tensors


def _on_device(run: DeviceRunner) -> RunEach[pb_utils.Tensor]:
    def run_tensors(tensors: Sequence[pb_utils.Tensor]) -> Sequence[Array]:
        return run(
            [tensor.as_numpy() if tensor.is_cpu() else run.from_capsule(tensor.to_dlpack()) for tensor in tensors]
        )

    return run_tensors
