"""Requests to this project's ensemble, and whether its answers are right."""

from __future__ import annotations

import http.client
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpeg_bench.asks import INFER, Ask, Protocol
from jpeg_bench.errors import BenchError
from jpeg_bench.http_answer import headers_and_body
from jpeg_bench.photos import batches

MODEL = "jpeg_classifier"
OUTPUTS = ("LABEL", "SCORE", "INDEX", "ERROR")
_HEADER_LENGTH = "Inference-Header-Content-Length"
_ANSWER_S = 60.0


def make_asks(
    protocol: Protocol, address: str, photos: Sequence[bytes], *, images: int = 1, model: str = MODEL
) -> list[Ask]:
    """One ask for each photo, of so many images: the same bytes that tritonclient sends, k left to the server."""
    make = _grpc if protocol == "grpc" else _http
    return [
        make(address, model, batch, name=f"request of {images} beginning with photo {first}")
        for first, batch in enumerate(batches(photos, images))
    ]


def check_answers(asks: Sequence[Ask]) -> None:
    """Ask each once, and read every answer. Raises BenchError if one is refused, or an image of it has no label."""
    for ask in asks:
        check_answer(ask, _once(ask))


def check_answer(ask: Ask, answer: bytes) -> None:
    """Read an answer of the ensemble as `load.Samples` keeps it. Raises BenchError if an image of it has no label."""
    tensors = _of_grpc(answer) if ask.protocol == "grpc" else _of_http(answer)
    missing = [name for name in OUTPUTS if name not in tensors]
    if missing:
        raise BenchError(f"{_where(ask)}: the answer has no {', '.join(missing)}: is that this project's ensemble?")
    errors = [error for error in tensors["ERROR"].ravel().tolist() if error]
    if errors:
        said = errors[0].decode(errors="replace")
        raise BenchError(f"{_where(ask)}: {len(errors)} of {ask.images} images have no label: {said}")
    scores = tensors["SCORE"]
    if len(scores) != ask.images or not np.isfinite(scores).all() or not all(tensors["LABEL"].ravel().tolist()):
        raise BenchError(f"{_where(ask)}: {len(scores)} answers for {ask.images} images, or scores that are no numbers")


def _grpc(address: str, model: str, images: Sequence[bytes], name: str) -> Ask:
    import tritonclient.grpc as module

    request = module.service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[len(images), 1])
    for output in OUTPUTS:
        request.outputs.add(name=output)
    # BYTES: each element behind its length, 4 bytes, least significant first (protocol extension_binary_data).
    request.raw_input_contents.append(b"".join(struct.pack("<I", len(image)) + image for image in images))
    return Ask("grpc", address, INFER, (), request.SerializeToString(), len(images), name)


def _http(address: str, model: str, images: Sequence[bytes], name: str) -> Ask:
    import tritonclient.http as module

    tensor = module.InferInput("IMAGE", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
    outputs = [module.InferRequestedOutput(output) for output in OUTPUTS]
    body, length = module.InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    headers = (("Content-Type", "application/octet-stream"), (_HEADER_LENGTH, str(length)))
    return Ask("http", address, f"/v2/models/{model}/infer", headers, bytes(body), len(images), name)


def _once(ask: Ask) -> bytes:
    if ask.protocol == "grpc":
        from jpeg_bench.grpc_load import ask_once

        try:
            return ask_once(ask, _ANSWER_S)
        except BenchError as error:
            raise BenchError(f"{_where(ask)}: {error}") from error
    connection = http.client.HTTPConnection(ask.address, timeout=_ANSWER_S)
    try:
        connection.request("POST", ask.path, ask.body, dict(ask.headers))
        said = connection.getresponse()
        body = said.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{_where(ask)}: no answer ({error}): is it running, and is that the right port?") from error
    finally:
        connection.close()
    if said.status != 200:
        raise BenchError(f"{_where(ask)}: HTTP {said.status}: {body.decode(errors='replace')[:300]}")
    return f"HTTP/1.1 200 OK\r\n{_HEADER_LENGTH}: {said.headers.get(_HEADER_LENGTH, '')}\r\n\r\n".encode() + body


def _of_grpc(answer: bytes) -> dict[str, NDArray[Any]]:
    import tritonclient.grpc as module

    result = module.InferResult(module.service_pb2.ModelInferResponse.FromString(answer))
    return {name: array for name in OUTPUTS if (array := result.as_numpy(name)) is not None}


def _of_http(answer: bytes) -> dict[str, NDArray[Any]]:
    import tritonclient.http as module

    headers, body = headers_and_body(answer)
    length = headers.get(_HEADER_LENGTH.lower(), "")
    client = module.InferenceServerClient
    result = client.parse_response_body(body, header_length=int(length) if length.isdigit() else None)
    return {name: array for name in OUTPUTS if (array := result.as_numpy(name)) is not None}


def _where(ask: Ask) -> str:
    return f"{ask.protocol}://{ask.address}, {ask.name or ask.path}"
