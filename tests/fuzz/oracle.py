"""What a response must look like."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jpeg_contract.tensors import CHECKSUM, LABEL
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from fuzz.samples import from_bytes
from fuzz.wire import GrpcRequest, HttpRequest, Outcome, Request

# The classes of findings, the worst first.
DEATH, MIXED, LOST, REFUSED, TRACEBACK, OURS, LEAK, SLOW, SERVER_ERROR = CLASSES = (
    "death",  # a process ended or stopped
    "wrong answer",  # a valid request got another image's labels
    "lost",  # no response within the limit
    "valid refused",  # a valid request got an error
    "traceback",  # an exception of a model, in the log
    "our 5xx",  # a client's mistake is an internal error of a model of this project
    "leak",  # a response shows a path, an address or a traceback
    "slow",  # a response took longer than `SLOW_S`
    "5xx",  # a client's mistake is a server error, by Triton itself
)
# These are faults, whoever sent what; the others are for the record.
GRAVE = frozenset({DEATH, MIXED, LOST, REFUSED, OURS, LEAK})
SLOW_S = 3.0

_OURS = re.compile(r"the server's log says why|Traceback|model\.py")
_LEAKS = re.compile(
    r"Traceback|\.py\b|\b0x[0-9a-f]{6,}|shm_region|jpeg_serve_|(?<![\w.])/(?:tmp|home|usr|root|opt|var|dev|work|proc)/"
)
_LOG_FAULTS = re.compile(
    r"Traceback \(most recent call last\)|not healthy|terminate called|Assertion|corrupted|double free"
    r"|retrying each alone|Signal \(\d+\)|AddressSanitizer|failed to.*shared memory"
)
_FORWARDED = re.compile(r"^in ensemble '[^']*', ")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a response or the log: class and message, in which findings are grouped."""

    kind: str
    message: str


def judge(request: Request, outcome: Outcome) -> list[Problem]:
    """Return what is wrong with the response to any request."""
    problems = []
    # Of a stream with several errors, the worst one.
    errors = sorted(
        filter(None, [outcome.text, *_stream_errors(request, outcome)]), key=lambda each: not _OURS.search(each)
    )
    text = errors[0] if errors else ""
    if outcome.kind == "silent":
        problems.append(Problem(LOST, "no response"))
    if outcome.kind == "server_error":
        problems.append(Problem(OURS if _OURS.search(text) else SERVER_ERROR, f"{outcome.code}: {generalised(text)}"))
    elif _OURS.search(text):
        problems.append(Problem(OURS, generalised(text)))
    leak = _LEAKS.search(text)
    if leak and leak[0].encode() not in _sent(request):
        problems.append(Problem(LEAK, generalised(text[max(0, leak.start() - 40) :])))
    if outcome.seconds > SLOW_S and outcome.kind != "silent":
        problems.append(Problem(SLOW, f"{outcome.kind} {outcome.code} {generalised(text)}"))
    return problems


def judge_valid(outcome: Outcome, labels: Sequence[str] | None, request: Request) -> Problem | None:
    """Return what is wrong with the response to a valid request.

    Args:
        outcome: Of the request.
        labels: The best label of each image; None for a request that has no labels.
        request: What was sent.
    """
    if outcome.kind != "ok" or (errors := list(_stream_errors(request, outcome))):
        if outcome.kind in ("silent", "closed"):
            return None  # judged as such, or by the server's death
        text = outcome.text or errors[0]
        return Problem(REFUSED, f"{outcome.code}: {generalised(text)}")
    if labels is None:
        return None
    answers = read_labels(request, outcome)
    for answer in answers:
        if LABEL in answer and (got := best_labels(answer)) != list(labels):
            return Problem(MIXED, f"labels {got} instead of {list(labels)}")
    if isinstance(request, GrpcRequest) and len(answers) != len(request.messages):
        return Problem(LOST, f"{len(answers)} responses to a stream of {len(request.messages)}")
    return None


def judge_checksums(outcome: Outcome, images: Sequence[bytes], request: Request) -> Problem | None:
    """Compare the checksums that a response names with those of the images that were sent."""
    for answer in read_labels(request, outcome):
        if CHECKSUM in answer:
            got = answer[CHECKSUM].ravel().tolist()
            if got != [zlib.crc32(image) for image in images]:
                return Problem(MIXED, "the checksums are those of other images")
    return None


def judge_log(text: str) -> list[Problem]:
    """Return what the log shows that no request should cause."""
    found = []
    for match in _LOG_FAULTS.finditer(text):
        line = text[match.start() :].split("\n\n", maxsplit=1)[0]
        # Of a traceback, its last line names the exception.
        lines = [each for each in line.splitlines() if each.strip()]
        last = next((each for each in lines[1:] if not each.startswith(" ")), "") if "Traceback" in match[0] else ""
        found.append(Problem(TRACEBACK, generalised(last or lines[0])))
    return found


def generalised(text: str) -> str:
    """Return a message without what differs from request to request."""
    text = _FORWARDED.sub("in ensemble NAME, ", " ".join(_error_member(text).split()))
    text = re.sub(r"(parse the request JSON buffer: ).*", r"\1...", text)
    text = re.sub(r"attempt to (access|get) .*", r"attempt to \1 ...", text)
    text = re.sub(r"(?<!\w)'[^']*'|\"[^\"]*\"|<[^<>]*>", "'...'", text)
    text = re.sub(r"0x[0-9a-fA-F]+|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", "N", text)
    text = re.sub(r"\[[N, -]*\]", "[N]", text)
    return re.sub(r"(\[N\],? ?)+|(N[, ]+)+N", "N", text)[:200]


def read_labels(request: Request, outcome: Outcome) -> list[dict[str, NDArray[Any]]]:
    """Return the outputs of each response, by name."""
    if isinstance(request, HttpRequest):
        return [_http_outputs(outcome)]
    if request.is_stream:
        responses = [pb.ModelStreamInferResponse.FromString(raw).infer_response for raw in outcome.payloads]
    else:
        responses = [pb.ModelInferResponse.FromString(raw) for raw in outcome.payloads]
    return [
        {
            output.name: from_bytes(raw, output.datatype, tuple(output.shape))
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        for response in responses
    ]


def best_labels(outputs: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the best label of each image."""
    first = outputs[LABEL][:, 0].tolist()
    return [label.decode() if isinstance(label, bytes) else label for label in first]


def _http_outputs(outcome: Outcome) -> dict[str, NDArray[Any]]:
    (body,) = outcome.payloads
    lengths = [value for name, value in outcome.headers if name.lower() == "inference-header-content-length"]
    head, rest = (body[: int(lengths[0])], body[int(lengths[0]) :]) if lengths else (body, b"")
    outputs: dict[str, NDArray[Any]] = {}
    for output in json.loads(head)["outputs"]:
        shape = tuple(output["shape"])
        if "data" in output:
            outputs[output["name"]] = np.array(output["data"], dtype=object).reshape(shape)
        else:
            size = output["parameters"]["binary_data_size"]
            outputs[output["name"]] = from_bytes(rest[:size], output["datatype"], shape)
            rest = rest[size:]
    return outputs


def _stream_errors(request: Request, outcome: Outcome) -> list[str]:
    if not isinstance(request, GrpcRequest) or not request.is_stream:
        return []
    messages = [pb.ModelStreamInferResponse.FromString(raw).error_message for raw in outcome.payloads]
    return [message for message in messages if message]


def _sent(request: Request) -> bytes:
    return request.wire if isinstance(request, HttpRequest) else b"".join(request.messages)


def _error_member(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text
