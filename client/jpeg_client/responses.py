"""The outputs of the ensemble, and the checks that they belong to the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from jpeg_contract.checksum import checksum
from jpeg_contract.tensors import CHECKSUM, ERROR, INDEX, LABEL, SCORE, TIMES
from numpy.typing import NDArray

from jpeg_client.errors import InvalidResponse, JpegClientError


@dataclass(frozen=True)
class EnsembleOutputs:
    """Outputs of the ensemble for N images.

    Attributes:
        labels: BYTES [N, k].
        scores: FP32 [N, k].
        indices: INT32 [N, k], -1 where a threshold leaves the label out, at the end of a row.
        errors: BYTES [N, 1], empty for an image with labels.
        times: FP32 [N, 3], the time of the steps in milliseconds; None from a server that does not measure them.
        others: Of an ensemble over several networks, the outputs of the others, by their names.
    """

    labels: NDArray[np.object_]
    scores: NDArray[np.float32]
    indices: NDArray[np.int32]
    errors: NDArray[np.object_]
    times: NDArray[np.float32] | None = None
    others: Mapping[str, EnsembleOutputs] = field(default_factory=dict)


class InferResult(Protocol):
    """A response as tritonclient reads it, of either protocol."""

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """Return an output; None if the response lacks it."""
        ...

    def get_response(self) -> Any:
        """Return the response: a dict over HTTP, a message over gRPC."""
        ...


def read_outputs(result: InferResult, images: Sequence[bytes], k: int | None, address: str) -> EnsembleOutputs:
    """Read the outputs of a response, and check that they belong to the images of the request.

    Args:
        result: The response.
        images: The N images of the request.
        k: Labels per image of the request; None for the server's default.
        address: URL of the server, for messages.

    Raises:
        InvalidResponse: Shapes or checksums differ from those of the request, or the response cannot be read.
        JpegClientError: The model has other outputs than the ensemble.
    """
    outputs = _read_member(result, images, k, address, "")
    try:
        members = _members(result)
    except Exception as error:  # whatever damaged bytes lead to
        raise unreadable(address, error) from error
    others = {member: _read_member(result, images, k, address, f"{member}_") for member in members}
    return replace(outputs, others=others) if others else outputs


def _members(result: InferResult) -> list[str]:
    """Return the names of the other networks of an ensemble over several."""
    response = result.get_response()
    if isinstance(response, dict):
        names = [str(output.get("name")) for output in response.get("outputs", ())]
    else:
        names = [str(output.name) for output in response.outputs]
    return [name.removesuffix(f"_{LABEL}") for name in names if name.endswith(f"_{LABEL}")]


def _read_member(
    result: InferResult, images: Sequence[bytes], k: int | None, address: str, prefix: str
) -> EnsembleOutputs:
    try:
        found = {name: result.as_numpy(f"{prefix}{name}") for name in (LABEL, SCORE, INDEX, ERROR, CHECKSUM, TIMES)}
    except Exception as error:  # whatever tritonclient's parsers raise for damaged bytes
        raise unreadable(address, error) from error
    # Servers of an earlier version have no checksums and no times.
    checksums, times = found.pop(CHECKSUM), found.pop(TIMES)
    outputs = {name: tensor for name, tensor in found.items() if tensor is not None}
    if missing := sorted(found.keys() - outputs.keys()):
        raise JpegClientError(
            f"the response of {address} has no {', '.join(missing)}: the model must be the ensemble of this project",
            reason="unexpected_response",
        )
    _check_shapes(outputs, len(images), k, address)
    if checksums is not None:
        _check_checksums(checksums, images, address)
    if times is not None and times.shape != (len(images), 3):
        raise InvalidResponse(f"the response of {address} does not fit the request: {TIMES} {list(times.shape)}")
    return EnsembleOutputs(outputs[LABEL], outputs[SCORE], outputs[INDEX], outputs[ERROR], times)


def unreadable(address: str, error: Exception) -> InvalidResponse:
    """Return the error for a response that cannot be parsed."""
    return InvalidResponse(f"the response of {address} cannot be read: {error}")


def _check_shapes(outputs: dict[str, NDArray[Any]], images: int, k: int | None, address: str) -> None:
    shape = outputs[LABEL].shape
    columns = shape[1] if len(shape) == 2 else 0
    wanted = (images, columns if k is None else k)
    shapes = {name: tensor.shape for name, tensor in outputs.items()}
    if shapes != {LABEL: wanted, SCORE: wanted, INDEX: wanted, ERROR: (images, 1)}:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InvalidResponse(
            f"the response of {address} does not fit the request of {images} images"
            f"{'' if k is None else f' with k={k}'}: {listed}"
        )


def _check_checksums(checksums: NDArray[Any], images: Sequence[bytes], address: str) -> None:
    if checksums.tolist() != [[checksum(image)] for image in images]:
        raise InvalidResponse(
            f"the response of {address} belongs to other images than the request (their checksums differ)",
            reason="wrong_checksum",
        )
