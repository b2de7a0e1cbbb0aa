"""Requests to the ensemble of this project, and checks of its responses."""

from __future__ import annotations

import http.client
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jpeg_contract.tensors import ENSEMBLE, ERROR, IMAGE, LABEL, RESPONSE_TENSORS, SCORE
from numpy.typing import NDArray

from jpeg_bench.errors import BenchError
from jpeg_bench.http_response import headers_and_body
from jpeg_bench.load import MODEL_INFER, PreparedRequest, Protocol
from jpeg_bench.photos import rotate_batches

OUTPUTS = tuple(tensor.name for tensor in RESPONSE_TENSORS)
_HEADER_LENGTH = "Inference-Header-Content-Length"
_TIMEOUT_S = 60.0


def prepare_requests(
    protocol: Protocol, address: str, photos: Sequence[bytes], *, batch_size: int = 1, model: str = ENSEMBLE
) -> list[PreparedRequest]:
    """Serialise one request per photo, with the bytes that tritonclient sends. k is the server's default.

    Args:
        protocol: Protocol of the requests.
        address: HOST:PORT of the server.
        photos: Encoded images.
        batch_size: Images per request.
        model: Name of the ensemble.
    """
    prepare = _prepare_grpc if protocol == "grpc" else _prepare_http
    return [
        prepare(address, model, batch, name=f"request {number} of {batch_size} images")
        for number, batch in enumerate(rotate_batches(photos, batch_size))
    ]


def check_server(requests: Sequence[PreparedRequest]) -> None:
    """Send each request once, and check its response.

    Raises:
        BenchError: No server responds, a request fails, or an image has no label.
    """
    for request in requests:
        check_response(request, _send_once(request))


def best_labels(requests: Sequence[PreparedRequest]) -> list[bytes]:
    """Send each request once, check its response, and return the best label of each image, request by request.

    Raises:
        BenchError: No server responds, a request fails, or an image has no label.
    """
    labels = []
    for request in requests:
        response = _send_once(request)
        check_response(request, response)
        tensors = _parse_grpc(response) if request.protocol == "grpc" else _parse_http(response)
        labels += [bytes(row[0]) for row in tensors[LABEL].reshape(request.images, -1)]
    return labels


def check_responses(requests: Sequence[PreparedRequest], responses: Mapping[int, Sequence[bytes]]) -> None:
    """Check responses of the ensemble.

    Args:
        requests: The requests.
        responses: Of some requests, by their index.

    Raises:
        BenchError: An image has no label.
    """
    for index, each in responses.items():
        for response in each:
            check_response(requests[index], response)


def check_response(request: PreparedRequest, response: bytes) -> None:
    """Check a response of the ensemble.

    Args:
        request: Its request.
        response: The gRPC message or the whole HTTP response.

    Raises:
        BenchError: An image has no label.
    """
    tensors = _parse_grpc(response) if request.protocol == "grpc" else _parse_http(response)
    missing = [name for name in OUTPUTS if name not in tensors]
    if missing:
        raise _invalid(request, f"the response has no {', '.join(missing)}: --model must name the ensemble")
    errors = [error for error in tensors[ERROR].ravel().tolist() if error]
    if errors:
        detail = errors[0].decode(errors="replace")
        raise _invalid(request, f"{len(errors)} of {request.images} images have no label: {detail}")
    scores = tensors[SCORE]
    if len(scores) != request.images:
        raise _invalid(request, f"{len(scores)} results for {request.images} images")
    if not np.isfinite(scores).all() or not all(tensors[LABEL].ravel().tolist()):
        raise _invalid(request, "scores are not finite, or labels are empty")


def _prepare_grpc(address: str, model: str, images: Sequence[bytes], name: str) -> PreparedRequest:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name=IMAGE, datatype="BYTES", shape=[len(images), 1])
    for output in OUTPUTS:
        message.outputs.add(name=output)
    message.raw_input_contents.append(serialize_bytes_tensor(images))
    return PreparedRequest("grpc", address, MODEL_INFER, (), message.SerializeToString(), len(images), name)


def _prepare_http(address: str, model: str, images: Sequence[bytes], name: str) -> PreparedRequest:
    import tritonclient.http as module

    tensor = module.InferInput(IMAGE, [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
    outputs = [module.InferRequestedOutput(output) for output in OUTPUTS]
    body, length = module.InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    headers = (("Content-Type", "application/octet-stream"), (_HEADER_LENGTH, str(length)))
    return PreparedRequest("http", address, f"/v2/models/{model}/infer", headers, bytes(body), len(images), name)


def serialize_bytes_tensor(elements: Sequence[bytes]) -> bytes:
    """Serialise a BYTES tensor (protocol extension_binary_data): each element after its length, 4 bytes, LSB first."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def _send_once(request: PreparedRequest) -> bytes:
    if request.protocol == "grpc":
        from jpeg_bench.grpc_sender import send_once

        try:
            return send_once(request, _TIMEOUT_S)
        except BenchError as error:
            raise BenchError(f"{_subject(request)}: {error}", reason=error.reason) from error
    connection = http.client.HTTPConnection(request.address, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(
            f"{_subject(request)}: no server responds ({error}): check that it runs, and its port",
            reason="server_unreachable",
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        detail = body.decode(errors="replace")[:300]
        raise BenchError(f"{_subject(request)}: HTTP {response.status}: {detail}", reason="request_failed")
    length = response.headers.get(_HEADER_LENGTH, "")
    return f"HTTP/1.1 200 OK\r\n{_HEADER_LENGTH}: {length}\r\n\r\n".encode() + body


def _parse_grpc(response: bytes) -> dict[str, NDArray[Any]]:
    import tritonclient.grpc as module

    return _tensors(module.InferResult(module.service_pb2.ModelInferResponse.FromString(response)))


def _parse_http(response: bytes) -> dict[str, NDArray[Any]]:
    import tritonclient.http as module

    headers, body = headers_and_body(response)
    length = headers.get(_HEADER_LENGTH.lower(), "")
    header_length = int(length) if length.isdigit() else None
    return _tensors(module.InferenceServerClient.parse_response_body(body, header_length=header_length))


def _tensors(result: Any) -> dict[str, NDArray[Any]]:
    arrays: Mapping[str, NDArray[Any] | None] = {name: result.as_numpy(name) for name in OUTPUTS}
    return {name: array for name, array in arrays.items() if array is not None}


def _invalid(request: PreparedRequest, problem: str) -> BenchError:
    return BenchError(f"{_subject(request)}: {problem}", reason="invalid_response")


def _subject(request: PreparedRequest) -> str:
    return f"{request.protocol}://{request.address}, {request.name or request.path}"
