"""The gRPC calls of those who send pixels: to the classifier, and to the step that makes labels of its logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tritonclient.grpc
from jpeg_contract.checksum import checksum
from jpeg_contract.keys import GRPC_KEY_HEADER, SHARED_MEMORY_KEY
from jpeg_contract.tensors import CHECKSUM, ERROR, INPUT, OUTPUT, STAMP_LENGTH
from numpy.typing import NDArray

from jpeg_client.address import Address
from jpeg_client.credentials import Credentials
from jpeg_client.errors import InvalidResponse, JpegClientError, ServerTimeout
from jpeg_client.grpc_transport import GrpcTransport
from jpeg_client.responses import EnsembleOutputs, read_outputs
from jpeg_client.shared_memory import CudaRegion, Region, SharedMemoryError
from jpeg_client.top_k import TopK

_KEY_HEADER = f"{GRPC_KEY_HEADER}{SHARED_MEMORY_KEY}"

# Triton's messages.
_RESTRICTED = "protocol is restricted"
_IN_USE = "currently in use"
_UNKNOWN_REGION = "Unable to find shared memory region"


class UnknownRegion(SharedMemoryError):
    """The server does not know the region: it was started again, or is another one at the same address."""

    reason = "unknown_region"


class PixelTransport(GrpcTransport):
    """See the module.

    Args:
        address: Address of the server.
        credentials: For it.
        shared_memory_key: Key of the server for shared memory, None without.
    """

    def __init__(self, address: Address, credentials: Credentials, shared_memory_key: str | None) -> None:
        super().__init__(address, credentials)
        self._has_memory_key = shared_memory_key is not None
        self._memory_headers = {**self._headers, **({_KEY_HEADER: shared_memory_key} if shared_memory_key else {})}

    def logits(
        self, classifier: str, pixels: NDArray[np.uint8] | tuple[Region, tuple[int, ...]], timeout_s: float
    ) -> NDArray[np.float32]:
        """Run a classifier in one attempt.

        Args:
            classifier: Name of the model.
            pixels: (N, H, W, 3) uint8; or a region that holds them, and their shape.
            timeout_s: Time limit in seconds.

        Returns:
            (N, classes) float32.

        Raises:
            UnknownRegion: The server does not know the region.
            JpegClientError: The request fails.
        """
        shape = pixels[1] if isinstance(pixels, tuple) else pixels.shape
        tensor = tritonclient.grpc.InferInput(INPUT, list(shape), "UINT8")
        if isinstance(pixels, tuple):
            tensor.set_shared_memory(pixels[0].name, int(np.prod(shape)))
        else:
            tensor.set_data_from_numpy(pixels)
        with self._attempt(timeout_s) as connection:
            result = self._send_inference(connection, classifier, {"inputs": [tensor]}, timeout_s)
            logits = result.as_numpy(OUTPUT)
            if logits is None or logits.ndim != 2 or len(logits) != shape[0]:
                raise InvalidResponse(f"the response of {self._address} does not fit the request of {shape[0]} images")
            return logits

    def labels(self, postprocess: str, logits: NDArray[np.float32], top_k: TopK, timeout_s: float) -> EnsembleOutputs:
        """Make labels of logits in one attempt, by the server's own step.

        Args:
            postprocess: Name of the model.
            logits: (N, classes) float32.
            top_k: Which labels of each image.
            timeout_s: Time limit in seconds.

        Raises:
            JpegClientError: The request fails, or the response does not fit it.
        """
        rows = [row.tobytes() for row in logits]
        stamps = np.zeros((len(rows), STAMP_LENGTH), np.uint32)  # without the clock of `preprocess`
        stamps[:, 0] = [checksum(row) for row in rows]
        data = {
            OUTPUT: (logits, "FP32"),
            ERROR: (np.full((len(rows), 1), b"", dtype=object), "BYTES"),
            CHECKSUM: (stamps, "UINT32"),
        }
        inputs = []
        for name, (array, datatype) in data.items():
            tensor = tritonclient.grpc.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        options: dict[str, Any] = {"inputs": inputs, "parameters": top_k.parameters}
        with self._attempt(timeout_s) as connection:
            result = self._send_inference(connection, postprocess, options, timeout_s)
            return replace(read_outputs(result, rows, top_k.k, str(self._address)), times=None)

    def register(self, region: Region, timeout_s: float) -> None:
        """Let the server open a region. Raises SharedMemoryError, JpegClientError."""
        name, size = region.name, region.capacity
        options = {"headers": dict(self._memory_headers), "client_timeout": timeout_s}
        with self._attempt(timeout_s) as connection:
            if isinstance(region, CudaRegion):
                connection.register_cuda_shared_memory(name, region.handle, region.device, size, **options)
            else:
                connection.register_system_shared_memory(name, f"/{name}", size, **options)
        region.is_registered = True

    def unregister(self, name: str, timeout_s: float) -> bool:
        """Let the server forget a region of either kind. Returns whether it does: not while it reads it."""
        options = {"headers": dict(self._memory_headers), "client_timeout": timeout_s}
        try:
            with self._attempt(timeout_s) as connection:
                connection.unregister_system_shared_memory(name, **options)
                connection.unregister_cuda_shared_memory(name, **options)
        except JpegClientError as error:
            return not isinstance(error, ServerTimeout) and _IN_USE not in str(error)
        return True

    def _client_error(self, error: Exception, timeout_s: float) -> JpegClientError:
        message = error.message() if isinstance(error, tritonclient.grpc.InferenceServerException) else ""
        if _RESTRICTED in message:
            fault = (
                "refuses this key for shared memory" if self._has_memory_key else "opens shared memory with a key only"
            )
            return SharedMemoryError(
                f"{self._address} {fault}: start it with --shared-memory-key-file FILE, and pass the content of that "
                "file as shared_memory_key",
                reason="shared_memory_refused",
            )
        if _UNKNOWN_REGION in message:
            return UnknownRegion(f"{self._address} does not know the region of the request")
        return super()._client_error(error, timeout_s)
