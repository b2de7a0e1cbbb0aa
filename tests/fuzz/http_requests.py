"""Valid HTTP requests, and their mutations."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from jpeg_contract.tensors import IMAGE

from fuzz.drafts import (
    BLOCKS,
    FEW_PLACES,
    MASKS,
    ODD_INTEGERS,
    ODD_SHAPES,
    ODD_TEXTS,
    PARAMETER_NAMES,
    PLACES,
    SMALL_CHANGES,
    THRESHOLDS,
    Draft,
    Mutation,
    choice,
    flipped,
    mutation,
    mutation_lists,
    resized,
    with_integer,
)
from fuzz.samples import DATATYPES, Model, Sample, broken_images, colour_samples, sample_arrays, sample_labels, to_bytes
from fuzz.wire import HttpRequest

HEAD_LENGTH = "Inference-Header-Content-Length"
_LENGTH = "Content-Length"


@dataclass
class HttpPlan:
    """An HTTP request before it is rendered.

    Attributes:
        path: With a leading slash.
        method: In the request line, as `version`.
        document: The JSON head; None for none.
        binary: Blocks behind the head.
        headers: Further headers; these replace computed ones of the same name.
        head_length: The header about the length of the head is sent.
        edits: Changes of the head as text.
        body_edits: Changes of the whole body.
        wire_edits: Changes of all that is sent.
        chunk: Length of a chunk; 0 sends the body with its length instead.
        may_starve: A mutation may keep the server waiting.
        hang_up: The client closes without reading.
    """

    path: str
    method: str = "POST"
    version: str = "HTTP/1.1"
    document: Any = None
    binary: list[bytes] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    head_length: bool = False
    edits: list[Callable[[bytes], bytes]] = field(default_factory=list)
    body_edits: list[Callable[[bytes], bytes]] = field(default_factory=list)
    wire_edits: list[Callable[[bytes], bytes]] = field(default_factory=list)
    chunk: int = 0
    may_starve: bool = False
    hang_up: bool = False


def render(plan: HttpPlan) -> HttpRequest:
    """Turn a plan into bytes."""
    head = b"" if plan.document is None else json.dumps(plan.document).encode()
    for edit in plan.edits:
        head = edit(head)
    body = head + b"".join(plan.binary)
    for edit in plan.body_edits:
        body = edit(body)
    names = {name.lower() for name, _ in plan.headers}
    computed = [("Host", "127.0.0.1")]
    if plan.head_length:
        computed.append((HEAD_LENGTH, str(len(head))))
    if plan.chunk:
        step = max(1, plan.chunk)
        chunks = [body[start : start + step] for start in range(0, len(body), step)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        computed.append(("Transfer-Encoding", "chunked"))
    elif body or plan.method == "POST":
        computed.append((_LENGTH, str(len(body))))
    headers = [*((name, value) for name, value in computed if name.lower() not in names), *plan.headers]
    lines = [f"{plan.method} {plan.path} {plan.version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    wire = "\r\n".join(lines).encode("utf-8", "surrogateescape") + body
    for edit in plan.wire_edits:
        wire = edit(wire)
    return HttpRequest(wire, plan.may_starve, plan.hang_up)


# Valid requests.


def infer_plan(
    model: Model,
    arrays: Sequence[np.ndarray[Any, Any]],
    *,
    in_json: Sequence[bool],
    outputs: Sequence[str] | None,
    binary_outputs: bool,
) -> HttpPlan:
    """Make a valid inference request.

    Args:
        model: Which is asked.
        arrays: One for each input.
        in_json: Whether each array is in the JSON head.
        outputs: Names; None omits the member, which requests all.
        binary_outputs: The outputs are wanted as binary data.
    """
    plan = HttpPlan(f"/v2/models/{model.name}/infer")
    inputs: list[dict[str, Any]] = []
    for tensor, array, textual in zip(model.inputs, arrays, in_json, strict=True):
        described: dict[str, Any] = {"name": tensor.name, "shape": list(array.shape), "datatype": tensor.datatype}
        if textual:
            data = array if array.dtype != object else np.vectorize(lambda raw: raw.decode("latin-1"), "O")(array)
            described["data"] = data.tolist()
        else:
            raw = to_bytes(array)
            described["parameters"] = {"binary_data_size": len(raw)}
            plan.binary.append(raw)
        inputs.append(described)
    plan.document = {"inputs": inputs}
    if outputs is not None:
        plan.document["outputs"] = [
            {"name": name, **({"parameters": {"binary_data": True}} if binary_outputs else {})} for name in outputs
        ]
    elif binary_outputs:
        plan.document["parameters"] = {"binary_data_output": True}
    plan.head_length = bool(plan.binary)
    return plan


def image_draft(samples: Sequence[Sample], model: Model) -> Draft:
    """Return a valid request for the labels of images, with JSON outputs."""
    images = np.array([sample.data for sample in samples], dtype=object)[:, None]

    def plan() -> HttpPlan:
        return infer_plan(model, [images], in_json=[False], outputs=None, binary_outputs=False)

    return Draft("http canary", plan, render, labels=tuple(sample.label for sample in samples))


@st.composite
def _infer_drafts(draw: st.DrawFn, model: Model) -> Draft:
    batch = draw(st.sampled_from((1, 1, 1, 2, 3, 8)))
    seed = draw(st.integers(0, 63))
    threshold = draw(THRESHOLDS)
    arrays = sample_arrays(model, batch, seed)
    flags = draw(st.integers(0, 63))
    # A JPEG is no text: only other inputs go as JSON, and small ones, since the rest of the mutations is in the head.
    in_json = [
        tensor.name != IMAGE and bool(flags & 1) and array.size < 4000
        for tensor, array in zip(model.inputs, arrays, strict=True)
    ]
    names = [tensor.name for tensor in model.outputs]
    outputs = None if flags & 2 else (names if flags & 4 else [names[seed % len(names)]])
    binary = bool(flags & 8)

    def plan() -> HttpPlan:
        made = infer_plan(model, arrays, in_json=in_json, outputs=outputs, binary_outputs=binary)
        if threshold is not None:
            _parameters(made.document)["threshold"] = threshold
        return made

    base = f"http {model.name} {'json' if any(in_json) else 'binary'}"
    return Draft(base, plan, render, draw(_INFER_MUTATIONS), sample_labels(model, batch, seed))


@st.composite
def _raw_drafts(draw: st.DrawFn, model: Model) -> Draft:
    sample = draw(st.sampled_from(colour_samples(model.formats)))
    threshold = draw(THRESHOLDS)

    def plan() -> HttpPlan:
        headers = [(HEAD_LENGTH, "0"), ("Content-Type", "application/octet-stream")]
        if threshold is not None:
            headers.append(("threshold", str(threshold)))
        return HttpPlan(f"/v2/models/{model.name}/infer", binary=[sample.data], headers=headers)

    labels = (sample.label,) if model.is_ensemble else None
    return Draft(f"http {model.name} raw", plan, render, draw(_RAW_MUTATIONS), labels)


@st.composite
def _generate_drafts(draw: st.DrawFn, model: Model) -> Draft:
    values: dict[str, Any] = {}
    for tensor, array in zip(model.inputs, sample_arrays(model, 1, 0), strict=True):
        data = array if array.dtype != object else np.vectorize(lambda raw: raw[:40].decode("latin-1"), "O")(array)
        values[tensor.name] = data.ravel().tolist()[:64] if draw(st.booleans()) else data.ravel().tolist()[0]
    values.update(
        draw(
            st.sampled_from(
                ({}, {"k": 2}, {"threshold": 0.5}, {"stream": False}, {"id": "x"}, {"parameters": {"k": 1}})
            )
        )
    )
    suffix = draw(st.sampled_from(("generate", "generate", "generate_stream")))

    def plan() -> HttpPlan:
        return HttpPlan(f"/v2/models/{model.name}/{suffix}", document=dict(values))

    return Draft(f"http {model.name} {suffix}", plan, render, draw(_TEXT_MUTATIONS), has_response=False)


def _other_drafts(models: Sequence[Model]) -> st.SearchStrategy[Draft]:
    paths = ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"]
    for model in models:
        of_model = f"/v2/models/{model.name}"
        paths += [of_model + rest for rest in ("", "/ready", "/config", "/stats", "/versions/1", "/versions/1/stats")]
    need_a_key = [
        ("POST", "/v2/repository/index"),
        ("POST", f"/v2/repository/models/{models[0].name}/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("POST", "/v2/cudasharedmemory/region/x/register"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/logging"),
    ]

    def draft(method: str, path: str, mutations: tuple[Mutation, ...], has_response: bool) -> Draft:
        document: dict[str, Any] | None = {} if method == "POST" else None
        return Draft(
            f"http {method} {re.sub(r'models/[^/]+', 'models/NAME', path)}",
            lambda: HttpPlan(path, method, document=document),
            render,
            mutations,
            has_response=has_response,
        )

    allowed = st.builds(draft, st.just("GET"), st.sampled_from(paths), _FRAME_MUTATIONS, st.just(True))
    refused = st.builds(
        lambda pair, mutations: draft(pair[0], pair[1], mutations, False), st.sampled_from(need_a_key), _FRAME_MUTATIONS
    )
    return choice([allowed, allowed, refused])


def drafts(models: Sequence[Model]) -> st.SearchStrategy[Draft]:
    """Return a strategy of requests to these models: most to the ensembles, and most of them to infer."""
    others = [model for model in models if not model.is_ensemble]
    takes_images = [model for model in models if [tensor.name for tensor in model.inputs] == [IMAGE]]
    to_ensembles = choice([_infer_drafts(model) for model in models if model.is_ensemble])
    to_others = [_infer_drafts(model) for model in others]
    raw = choice([_raw_drafts(model) for model in takes_images])
    generate = choice([_generate_drafts(model) for model in models])
    rare = choice([raw, raw, generate, _other_drafts(models)])
    return choice([*[to_ensembles] * len(to_others), *to_others, rare])


# Mutations of the JSON head.

JSON_VALUES = st.one_of(
    ODD_INTEGERS,
    ODD_TEXTS,
    st.sampled_from((None, True, False, 0.5, 1e308, -0.0, float("nan"), float("inf"), [], [1], ["x"], {}, {"a": 1}))
    | st.sampled_from(([[[]]], [None], [1, "x"], {"binary_data_size": 1}, [{}], {"name": "LABEL"})),
)


def _members(plan: HttpPlan, kinds: Iterable[str] = ("inputs", "outputs")) -> list[dict[str, Any]]:
    """Return the inputs and outputs of the head that are still objects."""
    document = plan.document if isinstance(plan.document, dict) else {}
    lists = [document.get(kind) for kind in kinds]
    return [each for members in lists if isinstance(members, list) for each in members if isinstance(each, dict)]


def _member(plan: HttpPlan, place: int, kinds: Iterable[str] = ("inputs", "outputs")) -> dict[str, Any]:
    members = _members(plan, kinds)
    return members[place % len(members)] if members else {}


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(holder.get("parameters"), dict):
        holder["parameters"] = {}
    parameters: dict[str, Any] = holder["parameters"]
    return parameters


def _document(plan: HttpPlan) -> dict[str, Any]:
    return plan.document if isinstance(plan.document, dict) else {}


def json_shape(plan: HttpPlan, place: int, shape: Any) -> None:
    _member(plan, place, ["inputs"])["shape"] = shape


def json_datatype(plan: HttpPlan, place: int, datatype: Any) -> None:
    _member(plan, place, ["inputs"])["datatype"] = datatype


def json_batch(plan: HttpPlan, change: int) -> None:
    """Give all inputs another batch size than their data has."""
    for member in _members(plan, ["inputs"]):
        if isinstance(member.get("shape"), list) and member["shape"] and isinstance(member["shape"][0], int):
            member["shape"] = [member["shape"][0] + change, *member["shape"][1:]]


def json_field(plan: HttpPlan, place: int, name: str, value: Any) -> None:
    _member(plan, place)[name] = value


def json_missing(plan: HttpPlan, place: int, name: str) -> None:
    _member(plan, place).pop(name, None)


def json_top_field(plan: HttpPlan, name: str, value: Any) -> None:
    _document(plan)[name] = value


def json_top_missing(plan: HttpPlan, name: str) -> None:
    _document(plan).pop(name, None)


def json_document(plan: HttpPlan, value: Any) -> None:
    plan.document = value


def json_binary_size(plan: HttpPlan, place: int, size: Any) -> None:
    _parameters(_member(plan, place, ["inputs"]))["binary_data_size"] = size


def json_binary_size_off(plan: HttpPlan, place: int, change: int) -> None:
    parameters = _parameters(_member(plan, place, ["inputs"]))
    if isinstance(parameters.get("binary_data_size"), int):
        parameters["binary_data_size"] += change


def json_parameter(plan: HttpPlan, place: int, name: str, value: Any) -> None:
    """Set a parameter of the request, of an input or of an output."""
    holders = [_document(plan), *_members(plan)]
    _parameters(holders[place % len(holders)])[name] = value


def json_shared_memory(plan: HttpPlan, place: int, region: Any, size: Any, offset: Any, keep: bool) -> None:
    """Refer to a region that is not registered."""
    member = _member(plan, place)
    parameters = _parameters(member)
    if not keep:
        parameters.clear()
    parameters |= {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}


def json_classification(plan: HttpPlan, place: int, count: Any) -> None:
    """Use the classification extension, on outputs that are no BYTES and on those that are."""
    member = _member(plan, place, ["outputs"])
    if member:
        _parameters(member)["classification"] = count


def json_repeated(plan: HttpPlan, place: int, kind: str, times: int) -> None:
    """Repeat an input or an output."""
    members = _document(plan).get(kind)
    if isinstance(members, list) and members:
        members += [members[place % len(members)]] * times


def json_extra(plan: HttpPlan, kind: str, name: str) -> None:
    """Add an input or an output that may be unknown, or known to another model."""
    members = _document(plan).setdefault(kind, [])
    if isinstance(members, list):
        extra = {"name": name, "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}
        members.append(extra if kind == "inputs" else {"name": name})


def json_dropped(plan: HttpPlan, place: int, kind: str) -> None:
    members = _document(plan).get(kind)
    if isinstance(members, list) and members:
        members.pop(place % len(members))


def json_reversed(plan: HttpPlan, kind: str) -> None:
    members = _document(plan).get(kind)
    if isinstance(members, list):
        members.reverse()


def json_data(plan: HttpPlan, place: int, data: Any) -> None:
    """Give an input JSON data, beside its binary data if it has that."""
    _member(plan, place, ["inputs"])["data"] = data


def json_data_nested(plan: HttpPlan, place: int, depth: int) -> None:
    member = _member(plan, place, ["inputs"])
    value = member.get("data", "x")
    for _ in range(depth):
        value = [value]
    member["data"] = value


def json_data_cut(plan: HttpPlan, place: int, keep: int) -> None:
    member = _member(plan, place, ["inputs"])
    if isinstance(member.get("data"), list):
        flat = np.array(member["data"], dtype=object).ravel().tolist()
        member["data"] = flat[:keep]


# Mutations of the head as text.


def text_flip(plan: HttpPlan, place: int, mask: int) -> None:
    plan.edits.append(lambda text: flipped(text, place, mask))


def text_resize(plan: HttpPlan, place: int, change: int) -> None:
    plan.edits.append(lambda text: resized(text, place, change))


def text_number(plan: HttpPlan, place: int, literal: bytes) -> None:
    """Write another literal in the place of a number."""

    def edit(text: bytes) -> bytes:
        numbers = list(re.finditer(rb"(?<=[\[ ,:])-?\d+(?:\.\d+)?(?=[\],} ])", text))
        if not numbers:
            return text
        match = numbers[place % len(numbers)]
        return text[: match.start()] + literal + text[match.end() :]

    plan.edits.append(edit)


def text_repeated_member(plan: HttpPlan, place: int, value: bytes) -> None:
    """Write a member a second time in the same object, with another value."""

    def edit(text: bytes) -> bytes:
        names = list(re.finditer(rb'[{,] ?("\w+"):', text))
        if not names:
            return text
        match = names[place % len(names)]
        return text[: match.start() + 1] + match[1] + b":" + value + b"," + text[match.start() + 1 :]

    plan.edits.append(edit)


def text_unknown_member(plan: HttpPlan, place: int, depth: int, opening: bytes) -> None:
    """Add a member that nests deeply, but less than is known to end a server."""
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    value = opening * depth + b"1" + closing * depth

    def edit(text: bytes) -> bytes:
        starts = [match.start() + 1 for match in re.finditer(rb"\{", text)]
        if not starts:
            return text
        start = starts[place % len(starts)]
        return text[:start] + b'"unknown":' + value + b"," + text[start:]

    plan.edits.append(edit)


def text_around(plan: HttpPlan, before: bytes, after: bytes) -> None:
    plan.edits.append(lambda text: before + text + after)


# Mutations of the binary data.


def _change_block(plan: HttpPlan, place: int, change: Callable[[bytes], bytes], *, tell: bool) -> None:
    """Change a block of binary data. tell: the head knows of its new length."""
    if not plan.binary:
        return
    place %= len(plan.binary)
    plan.binary[place] = change(plan.binary[place])
    if tell:
        sized = [
            member
            for member in _members(plan, ["inputs"])
            if isinstance(member.get("parameters"), dict) and "binary_data_size" in member["parameters"]
        ]
        if place < len(sized):
            sized[place]["parameters"]["binary_data_size"] = len(plan.binary[place])


def binary_flip(plan: HttpPlan, block: int, place: int, mask: int) -> None:
    _change_block(plan, block, lambda data: flipped(data, place, mask), tell=True)


def binary_length(plan: HttpPlan, block: int, place: int, value: int) -> None:
    """Overwrite the length in front of a BYTES element."""
    _change_block(plan, block, lambda data: with_integer(data, place, value), tell=True)


def binary_length_off(plan: HttpPlan, block: int, change: int) -> None:
    def edit(data: bytes) -> bytes:
        return with_integer(data, 0, int.from_bytes(data[:4], "little") + change)

    _change_block(plan, block, edit, tell=True)


def binary_resize(plan: HttpPlan, block: int, place: int, change: int, tell: bool) -> None:
    _change_block(plan, block, lambda data: resized(data, place, change), tell=tell)


def binary_image(plan: HttpPlan, block: int, image: bytes) -> None:
    """Send another image, broken or unusual, in its proper form."""
    framed = len(image).to_bytes(4, "little") + image if plan.head_length else image
    _change_block(plan, block, lambda _: framed, tell=True)


# Mutations of the frame.


def header(plan: HttpPlan, name: str, value: str) -> None:
    plan.headers.append((name, value))


def header_k(plan: HttpPlan, name: str, value: str) -> None:
    plan.headers.append((name, value))


def header_threshold(plan: HttpPlan, name: str, value: str) -> None:
    plan.headers.append((name, value))


def header_head_length(plan: HttpPlan, value: Any) -> None:
    """Lie about the length of the head."""
    plan.headers = [pair for pair in plan.headers if pair[0] != HEAD_LENGTH]
    plan.headers.append((HEAD_LENGTH, str(value)))


def header_content_length(plan: HttpPlan, value: Any) -> None:
    plan.headers.append((_LENGTH, str(value)))
    plan.may_starve = True


def encoded(plan: HttpPlan, encoding: str, honest: str, cut: int) -> None:
    """Compress the body, as its header says or not."""
    plan.headers.append(("Content-Encoding", encoding))

    def edit(body: bytes) -> bytes:
        packed = gzip.compress(body) if honest == "gzip" else zlib.compress(body)
        return packed[: len(packed) - cut] if cut else packed

    plan.body_edits.append(edit)


def encoded_bomb(plan: HttpPlan, size: int) -> None:
    """Append white space that compresses well."""
    plan.headers.append(("Content-Encoding", "gzip"))
    plan.body_edits.append(lambda body: gzip.compress(body + b" " * size, compresslevel=1))


def encoded_only_in_name(plan: HttpPlan, encoding: str) -> None:
    plan.headers.append(("Content-Encoding", encoding))


def chunked(plan: HttpPlan, size: int) -> None:
    plan.chunk = size


def chunks_and_length(plan: HttpPlan, size: int) -> None:
    plan.chunk = size
    plan.headers.append((_LENGTH, "5"))
    plan.may_starve = True


def method(plan: HttpPlan, name: str) -> None:
    plan.method = name
    plan.may_starve = True  # HEAD


def path(plan: HttpPlan, old: str, new: str) -> None:
    plan.path = re.sub(old, new.replace("\\", r"\\"), plan.path, count=1)


def version(plan: HttpPlan, text: str) -> None:
    plan.version = text
    plan.may_starve = True


def wire_flip(plan: HttpPlan, place: int, mask: int) -> None:
    # Most bytes are binary data, which other mutations change.
    plan.wire_edits.append(lambda wire: flipped(wire[: place % 1500], place, mask) + wire[place % 1500 :])
    plan.may_starve = True


def wire_resize(plan: HttpPlan, place: int, change: int) -> None:
    plan.wire_edits.append(lambda wire: resized(wire, place % 1500, change))
    plan.may_starve = True


def wire_cut(plan: HttpPlan, place: int) -> None:
    """Stop in the middle, and close."""
    plan.wire_edits.append(lambda wire: wire[: place % len(wire)] if wire else wire)
    plan.hang_up = True


def wire_twice(plan: HttpPlan) -> None:
    """Send the request twice over one connection, without waiting."""
    plan.wire_edits.append(lambda wire: wire + wire)


def hang_up(plan: HttpPlan) -> None:
    """Send all, and close without reading a response."""
    plan.hang_up = True


_MEMBER_NAMES = st.sampled_from(("name", "shape", "datatype", "data", "parameters"))
_KINDS = st.sampled_from(("inputs", "outputs"))
_TENSOR_NAMES = st.sampled_from(("IMAGE", "ERROR", "LABEL", "input__0", "output__0", "PIXELS", "nothing", ""))
_DEPTHS = st.sampled_from((2, 10, 100, 500, 900))
_TEXT_DEPTHS = st.sampled_from((10, 100, 1000, 5000, 20_000))
_THRESHOLD_VALUES = st.sampled_from(
    (
        *(
            "0",
            "1",
            "0.5",
            ".5",
            "5e-1",
            "1.0000001",
            "-0",
            "+0.5",
            "",
            " 0.5 ",
            "nan",
            "inf",
            "1e999",
            "0x1p-1",
            "0,5",
        ),
        "0." + "0" * 5000,
        "\u0663",
        '0", "k": "',
    )
)
_K_VALUES = st.sampled_from(
    (
        "1",
        "3",
        "8",
        "9",
        "0",
        "-1",
        "",
        " 3 ",
        "x",
        "1.5",
        "1e1",
        "99999999999999999999",
        "3,3",
        "٣",
        "\x80",
        "x" * 9000,
    )
)

_JSON_KINDS = [
    mutation(json_shape, place=FEW_PLACES, shape=ODD_SHAPES),
    mutation(json_shape, place=FEW_PLACES, shape=ODD_SHAPES | JSON_VALUES),
    mutation(json_datatype, place=FEW_PLACES, datatype=st.sampled_from(DATATYPES)),
    mutation(json_datatype, place=FEW_PLACES, datatype=st.sampled_from(("", "bytes", "TYPE_STRING", 1, None, "FP8"))),
    mutation(json_batch, change=st.sampled_from((-2, -1, 1, 2, 63, 64, 1000))),
    mutation(json_field, place=FEW_PLACES, name=_MEMBER_NAMES, value=JSON_VALUES),
    mutation(json_missing, place=FEW_PLACES, name=_MEMBER_NAMES),
    mutation(json_top_field, name=st.sampled_from(("id", "id", "inputs", "outputs", "parameters")), value=JSON_VALUES),
    mutation(json_top_missing, name=st.sampled_from(("inputs", "outputs"))),
    mutation(json_document, value=JSON_VALUES),
    mutation(json_binary_size, place=FEW_PLACES, size=ODD_INTEGERS),
    mutation(json_binary_size, place=FEW_PLACES, size=JSON_VALUES),
    mutation(json_binary_size_off, place=FEW_PLACES, change=SMALL_CHANGES),
    mutation(json_parameter, place=FEW_PLACES, name=PARAMETER_NAMES, value=JSON_VALUES),
    mutation(json_parameter, place=FEW_PLACES, name=PARAMETER_NAMES, value=ODD_INTEGERS),
    mutation(json_parameter, place=st.just(0), name=PARAMETER_NAMES, value=JSON_VALUES),
    mutation(
        json_shared_memory,
        place=FEW_PLACES,
        region=ODD_TEXTS,
        size=ODD_INTEGERS,
        offset=ODD_INTEGERS,
        keep=st.booleans(),
    ),
    mutation(json_classification, place=FEW_PLACES, count=ODD_INTEGERS),
    mutation(json_repeated, place=FEW_PLACES, kind=_KINDS, times=st.sampled_from((1, 2, 100))),
    mutation(json_extra, kind=_KINDS, name=_TENSOR_NAMES),
    mutation(json_dropped, place=FEW_PLACES, kind=_KINDS),
    mutation(json_reversed, kind=_KINDS),
    mutation(json_data, place=FEW_PLACES, data=JSON_VALUES),
    mutation(json_data, place=FEW_PLACES, data=st.lists(JSON_VALUES, max_size=4)),
    mutation(json_data_nested, place=FEW_PLACES, depth=_DEPTHS),
    mutation(json_data_cut, place=FEW_PLACES, keep=st.sampled_from((0, 1, 2, 7, 100))),
]
_TEXT_KINDS = [
    mutation(text_flip, place=PLACES, mask=MASKS),
    mutation(text_resize, place=PLACES, change=SMALL_CHANGES),
    mutation(
        text_number,
        place=FEW_PLACES,
        literal=st.sampled_from(
            (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1.0", b"01", b"0x10", b"9" * 400, b"1e-400", b"1e18")
        ),
    ),
    mutation(
        text_repeated_member,
        place=FEW_PLACES,
        value=st.sampled_from((b"1", b"[]", b"{}", b'"x"', b"null", b"[1,1]", b"-1", b'"BYTES"', b'"IMAGE"')),
    ),
    mutation(text_unknown_member, place=FEW_PLACES, depth=_TEXT_DEPTHS, opening=st.sampled_from((b"[", b'{"a":'))),
    mutation(
        text_around,
        before=st.sampled_from((b"", b"", b"\xef\xbb\xbf", b" \n\t", b"\0", b"//\n", b"[", b"\xff\xfe")),
        after=st.sampled_from((b"", b" ", b"}", b"{}", b"\0", b"x", b" " * 10_000)),
    ),
]
_BINARY_KINDS = [
    mutation(binary_flip, block=BLOCKS, place=PLACES, mask=MASKS),
    mutation(binary_length, block=BLOCKS, place=PLACES, value=ODD_INTEGERS),
    mutation(binary_length_off, block=BLOCKS, change=SMALL_CHANGES),
    mutation(binary_resize, block=BLOCKS, place=PLACES, change=SMALL_CHANGES, tell=st.booleans()),
    mutation(
        binary_resize,
        block=BLOCKS,
        place=PLACES,
        change=st.sampled_from((-100_000, 1000, 300_000)),
        tell=st.booleans(),
    ),
    mutation(binary_image, block=BLOCKS, image=st.sampled_from(tuple(broken_images().values()))),
]
_HEADERS = st.sampled_from(
    (
        ("Content-Type", "application/json"),
        ("Content-Type", "application/octet-stream"),
        ("Content-Type", "text/plain; charset=utf-16"),
        ("Content-Type", "multipart/form-data; boundary=x"),
        ("Content-Type", ""),
        ("Accept-Encoding", "gzip"),
        ("Accept-Encoding", "deflate, gzip;q=0"),
        ("Accept-Encoding", "br;q=1.0, *;q=0.1"),
        ("Accept-Encoding", "x" * 5000),
        ("Accept", "text/event-stream"),
        ("Connection", "close"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Expect", "100-continue"),
        ("Expect", "nothing"),
        ("Host", ""),
        ("Host", "a" * 3000),
        ("Cookie", "k=3"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("traceparent", "nothing"),
        ("endpoint-load-metrics-format", "json"),
        ("endpoint-load-metrics-format", "text"),
        ("endpoint-load-metrics-format", "x"),
        ("admin-key", "wrong"),
        ("timeout", "1"),
        ("triton-request-timeout", "0"),
        ("sequence_id", "5"),
        ("X-Long", "y" * 20_000),
        ("X\0Nul", "a"),
        ("X-Fold", "a\r\n b"),
        ("", "no name"),
        ("Range", "bytes=0-10"),
        ("Transfer-Encoding", "identity"),
    )
)
_FRAME_KINDS = [
    _HEADERS.flatmap(lambda pair: mutation(header, name=st.just(pair[0]), value=st.just(pair[1]))),
    mutation(header_k, name=st.sampled_from(("k", "K", " k", "k ")), value=_K_VALUES),
    mutation(header_threshold, name=st.sampled_from(("threshold", "THRESHOLD", "threshold ")), value=_THRESHOLD_VALUES),
    mutation(encoded, encoding=st.just("gzip"), honest=st.just("gzip"), cut=st.sampled_from((0, 0, 1, 8, 20))),
    mutation(encoded, encoding=st.just("deflate"), honest=st.just("deflate"), cut=st.sampled_from((0, 0, 4))),
    mutation(encoded, encoding=st.sampled_from(("gzip", "deflate", "br")), honest=st.just("deflate"), cut=st.just(0)),
    mutation(encoded_only_in_name, encoding=st.sampled_from(("gzip", "deflate", "br", "identity", ""))),
    mutation(chunked, size=st.sampled_from((1, 3, 100, 1000, 100_000))),
    mutation(
        path,
        old=st.sampled_from(("/infer$", "/[^/]*$", "^/v2")),
        new=st.sampled_from(
            (
                "/versions/1/infer",
                "/versions/0/infer",
                "/versions/-1/infer",
                "/versions/99999999999999999999/infer",
                "/versions/x/infer",
                "/versions//infer",
                "/infer/",
                "//infer",
                "/infer?k=3",
                "/infer#x",
                "/%00",
                "/%2e%2e",
                "/infer%20",
                "/generate",
                "/generate_stream",
                "/ready",
                "/../../v2",
                "/" + "a" * 9000,
                "/ÿ",
                "",
            )
        ),
    ),
    mutation(path, old=st.just("models/[^/]*"), new=st.sampled_from(("models/", "models/nothing", "models/%s", "x"))),
]
# These keep the server, or this program, busy or waiting: one for many of the others.
_SLOW_KINDS = [
    mutation(header_content_length, value=ODD_INTEGERS | st.sampled_from(("", "x", "+5", "0x5", "5, 5"))),
    mutation(encoded_bomb, size=st.sampled_from((100_000, 3_000_000, 30_000_000))),
    mutation(chunks_and_length, size=st.sampled_from((1, 1000))),
    mutation(
        method, name=st.sampled_from(("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "X"))
    ),
    mutation(version, text=st.sampled_from(("HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "", "X"))),
    mutation(wire_flip, place=PLACES, mask=MASKS),
    mutation(wire_resize, place=PLACES, change=SMALL_CHANGES),
    mutation(wire_cut, place=PLACES),
    mutation(wire_twice),
    mutation(hang_up),
]
_HEAD_LENGTHS = mutation(
    header_head_length, value=ODD_INTEGERS | st.sampled_from(("", "x", "1.5", " 5", "0x10", "5, 5", "1e2", "+7"))
)
_SLOW = choice(_SLOW_KINDS)

_FRAME_MUTATIONS = mutation_lists([*_FRAME_KINDS, _HEAD_LENGTHS, _SLOW])
_RAW_MUTATIONS = mutation_lists([*_BINARY_KINDS, *_BINARY_KINDS, *_FRAME_KINDS, _HEAD_LENGTHS, _SLOW])
_TEXT_MUTATIONS = mutation_lists([*_TEXT_KINDS, *_FRAME_KINDS, _HEAD_LENGTHS, _SLOW])
_INFER_MUTATIONS = mutation_lists(
    [*_JSON_KINDS, *_BINARY_KINDS, *_TEXT_KINDS, *_BINARY_KINDS, *_FRAME_KINDS, _HEAD_LENGTHS, _SLOW]
)
