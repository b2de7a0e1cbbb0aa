"""Valid gRPC calls, and their mutations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from jpeg_contract.tensors import IMAGE
from tritonclient.grpc import service_pb2 as pb

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
    choice,
    flipped,
    mutation,
    mutation_lists,
    resized,
    with_integer,
)
from fuzz.samples import DATATYPES, Model, Sample, broken_images, sample_arrays, sample_labels, to_bytes
from fuzz.wire import GrpcRequest

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass
class GrpcPlan:
    """A call before it is rendered.

    Attributes:
        method: Name in the inference service.
        message: The request; mutations edit it.
        copies: A stream sends it so often, with an id of its own each.
        edits: Changes of the serialised message.
        metadata: Keys and values.
        timeout_s: Deadline that the client sets; None for none of its own.
        cancel_after_s: See `GrpcRequest`.
        compressed: See `GrpcRequest`.
    """

    method: str
    message: Any
    copies: int = 1
    edits: list[Callable[[bytes], bytes]] = field(default_factory=list)
    metadata: list[tuple[str, str]] = field(default_factory=list)
    timeout_s: float | None = None
    cancel_after_s: float | None = None
    compressed: bool = False

    @property
    def infer(self) -> Any:
        """The message of an inference request; of others an empty one, which is not sent."""
        return self.message if isinstance(self.message, pb.ModelInferRequest) else pb.ModelInferRequest()


def render(plan: GrpcPlan) -> GrpcRequest:
    """Turn a plan into bytes."""
    messages = []
    for copy in range(plan.copies):
        if plan.copies > 1:
            plan.infer.id = f"{plan.infer.id}{copy}"[-20:]
        data = plan.message.SerializeToString()
        for edit in plan.edits:
            data = edit(data)
        messages.append(data)
    return GrpcRequest(
        plan.method, tuple(messages), tuple(plan.metadata), plan.timeout_s, plan.cancel_after_s, plan.compressed
    )


# Valid calls.


def infer_plan(
    model: Model, arrays: Sequence[np.ndarray[Any, Any]], *, typed: bool, outputs: Sequence[str], copies: int = 0
) -> GrpcPlan:
    """Make a valid call.

    Args:
        model: Which is asked.
        arrays: One for each input.
        typed: The data are in the typed contents of the inputs, and not raw.
        outputs: Names; empty requests all.
        copies: Length of a stream; 0 for a call that is none.
    """
    message = pb.ModelInferRequest(model_name=model.name)
    for tensor, array in zip(model.inputs, arrays, strict=True):
        described = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        if typed:
            getattr(described.contents, _CONTENTS[tensor.datatype]).extend(array.ravel().tolist())
        else:
            message.raw_input_contents.append(to_bytes(array))
    for name in outputs:
        message.outputs.add(name=name)
    return GrpcPlan("ModelStreamInfer" if copies else "ModelInfer", message, max(copies, 1))


def image_draft(samples: Sequence[Sample], model: Model) -> Draft:
    """Return a valid call for the labels of images."""
    images = np.array([sample.data for sample in samples], dtype=object)[:, None]

    def plan() -> GrpcPlan:
        return infer_plan(model, [images], typed=False, outputs=[])

    return Draft("grpc canary", plan, render, labels=tuple(sample.label for sample in samples))


@st.composite
def _infer_drafts(draw: st.DrawFn, model: Model) -> Draft:
    batch = draw(st.sampled_from((1, 1, 1, 2, 3, 8)))
    seed = draw(st.integers(0, 63))
    flags = draw(st.integers(0, 63))
    threshold = draw(THRESHOLDS)
    arrays = sample_arrays(model, batch, seed)
    names = [tensor.name for tensor in model.outputs]
    outputs = [] if flags & 2 else (names if flags & 4 else [names[seed % len(names)]])
    copies = (1, 2, 5)[seed % 3] if flags & 24 == 0 else 0
    typed = bool(flags & 1)

    def plan() -> GrpcPlan:
        made = infer_plan(model, arrays, typed=typed, outputs=outputs, copies=copies)
        if threshold is not None:
            kind = "string_param" if isinstance(threshold, str) else "double_param"
            _set_parameter(made.infer, "threshold", (kind, threshold))
        return made

    base = f"grpc {model.name} {'stream' if copies else 'typed' if typed else 'raw'}"
    return Draft(base, plan, render, draw(_INFER_MUTATIONS), sample_labels(model, batch, seed))


@st.composite
def _other_drafts(draw: st.DrawFn, names: Sequence[str]) -> Draft:
    """Calls of all other methods; those that need a key are refused."""
    name = draw(st.sampled_from((*names, "", "nothing", "..")))
    number = draw(st.sampled_from(("", "1", "0", "-1", "x", "99999999999999999999")))
    messages: dict[str, Any] = {
        "ServerLive": pb.ServerLiveRequest(),
        "ServerReady": pb.ServerReadyRequest(),
        "ServerMetadata": pb.ServerMetadataRequest(),
        "ModelReady": pb.ModelReadyRequest(name=name, version=number),
        "ModelMetadata": pb.ModelMetadataRequest(name=name, version=number),
        "ModelConfig": pb.ModelConfigRequest(name=name, version=number),
        "ModelStatistics": pb.ModelStatisticsRequest(name=name, version=number),
        "RepositoryIndex": pb.RepositoryIndexRequest(),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name=name),
        "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(name=name),
        "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name=name, key="/x", byte_size=64),
        "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name=name, raw_handle=b"x" * 64, byte_size=64),
        "TraceSetting": pb.TraceSettingRequest(),
        "LogSettings": pb.LogSettingsRequest(),
        "NoSuchMethod": pb.ServerLiveRequest(),
    }
    method = draw(st.sampled_from(tuple(messages)))
    return Draft(
        f"grpc {method}", lambda: GrpcPlan(method, messages[method]), render, draw(_CALL_MUTATIONS), has_response=False
    )


def drafts(models: Sequence[Model]) -> st.SearchStrategy[Draft]:
    """Return a strategy of calls to these models: most to the ensembles, and most of them to infer."""
    ensembles = choice([_infer_drafts(model) for model in models if model.is_ensemble])
    others = [_infer_drafts(model) for model in models if not model.is_ensemble]
    rare = _other_drafts([model.name for model in models])
    return choice([*[ensembles] * len(others), *others, rare])


# Mutations of the message.


def _tensor(plan: GrpcPlan, place: int) -> Any:
    inputs = plan.infer.inputs
    return inputs[place % len(inputs)] if len(inputs) else pb.ModelInferRequest.InferInputTensor()


def _holder(plan: GrpcPlan, place: int) -> Any:
    """The request, an input or an output: what has parameters."""
    holders = [plan.infer, *plan.infer.inputs, *plan.infer.outputs]
    return holders[place % len(holders)]


def _set_parameter(holder: Any, name: str, value: tuple[str, Any]) -> None:
    kind, content = value
    parameter = holder.parameters[name]
    if kind:
        setattr(parameter, kind, content)


def shape(plan: GrpcPlan, place: int, value: list[int]) -> None:
    del _tensor(plan, place).shape[:]
    _tensor(plan, place).shape.extend(value)


def batch(plan: GrpcPlan, change: int) -> None:
    """Give all inputs another batch size than their data has."""
    for tensor in plan.infer.inputs:
        if len(tensor.shape):
            tensor.shape[0] = _signed(tensor.shape[0] + change)


def datatype(plan: GrpcPlan, place: int, value: str) -> None:
    _tensor(plan, place).datatype = value


def name(plan: GrpcPlan, place: int, value: str) -> None:
    holder = _holder(plan, place)
    if isinstance(holder, pb.ModelInferRequest):
        holder.model_name = value
    else:
        holder.name = value


def model_version(plan: GrpcPlan, value: str) -> None:
    plan.infer.model_version = value


def identity(plan: GrpcPlan, value: str) -> None:
    plan.infer.id = value


def parameter(plan: GrpcPlan, place: int, key: str, value: tuple[str, Any]) -> None:
    _set_parameter(_holder(plan, place), key, value)


def classification(plan: GrpcPlan, place: int, count: tuple[str, Any]) -> None:
    """Use the classification extension, on outputs that are no BYTES and on those that are."""
    outputs = plan.infer.outputs
    if len(outputs):
        _set_parameter(outputs[place % len(outputs)], "classification", count)


def shared_memory(plan: GrpcPlan, place: int, region: str, size: int, offset: int, keep: bool) -> None:
    """Refer to a region that is not registered."""
    holder = _holder(plan, place)
    holder.parameters["shared_memory_region"].string_param = region
    holder.parameters["shared_memory_byte_size"].int64_param = _signed(size)
    holder.parameters["shared_memory_offset"].int64_param = _signed(offset)
    if not keep:
        del plan.infer.raw_input_contents[:]


def repeated(plan: GrpcPlan, place: int, kind: str, times: int) -> None:
    """Repeat an input, an output or a block of raw data."""
    members = getattr(plan.infer, kind)
    if len(members):
        members.extend([members[place % len(members)]] * times)


def dropped(plan: GrpcPlan, place: int, kind: str) -> None:
    members = getattr(plan.infer, kind)
    if len(members):
        del members[place % len(members)]


def extra_output(plan: GrpcPlan, value: str) -> None:
    plan.infer.outputs.add(name=value)


def extra_raw(plan: GrpcPlan, data: bytes) -> None:
    plan.infer.raw_input_contents.append(data)


def extra_contents(plan: GrpcPlan, place: int, kind: str, times: int) -> None:
    """Add typed contents, of the wrong type or count, beside what is there."""
    values: dict[str, Any] = {"bytes_contents": b"x", "bool_contents": True, "fp32_contents": float("nan")}
    getattr(_tensor(plan, place).contents, kind).extend([values.get(kind, 1)] * times)


def contents_out_of_range(plan: GrpcPlan, place: int, value: int) -> None:
    """Typed contents are wider than the tensor's elements."""
    contents = _tensor(plan, place).contents.uint_contents
    if len(contents):
        contents[place % len(contents)] = value % 2**32


def cut_contents(plan: GrpcPlan, place: int, kind: str, keep: int) -> None:
    del getattr(_tensor(plan, place).contents, kind)[keep:]


def _change_block(plan: GrpcPlan, place: int, change: Callable[[bytes], bytes]) -> None:
    blocks = plan.infer.raw_input_contents
    if len(blocks):
        blocks[place % len(blocks)] = change(blocks[place % len(blocks)])


def raw_flip(plan: GrpcPlan, block: int, place: int, mask: int) -> None:
    _change_block(plan, block, lambda data: flipped(data, place, mask))


def raw_length(plan: GrpcPlan, block: int, place: int, value: int) -> None:
    """Overwrite the length in front of a BYTES element."""
    _change_block(plan, block, lambda data: with_integer(data, place, value))


def raw_length_off(plan: GrpcPlan, block: int, change: int) -> None:
    _change_block(plan, block, lambda data: with_integer(data, 0, int.from_bytes(data[:4], "little") + change))


def raw_resize(plan: GrpcPlan, block: int, place: int, change: int) -> None:
    _change_block(plan, block, lambda data: resized(data, place, change))


def image(plan: GrpcPlan, place: int, data: bytes) -> None:
    """Send another image, broken or unusual, in its proper form."""
    tensor = _tensor(plan, place)
    if tensor.name != IMAGE:
        return
    if len(tensor.contents.bytes_contents):
        tensor.contents.bytes_contents[0] = data
    elif len(plan.infer.raw_input_contents):
        first = 4 + int.from_bytes(plan.infer.raw_input_contents[0][:4], "little")
        rest = plan.infer.raw_input_contents[0][first:]
        plan.infer.raw_input_contents[0] = len(data).to_bytes(4, "little") + data + rest


def json_in_text(plan: GrpcPlan, place: int, depth: int) -> None:
    """Parameters reach Python models as JSON text."""
    _holder(plan, place).parameters["k"].string_param = json.dumps('"}' + "[" * depth)


# Mutations of the call.


def bytes_flip(plan: GrpcPlan, place: int, mask: int) -> None:
    # Most bytes are tensors, which other mutations change.
    plan.edits.append(lambda data: flipped(data[: 1 + place % 300], place, mask) + data[1 + place % 300 :])


def bytes_resize(plan: GrpcPlan, place: int, change: int) -> None:
    plan.edits.append(lambda data: resized(data, place % 300, change))


def bytes_unknown_field(plan: GrpcPlan, number: int, size: int) -> None:
    """Add a field that no message has, of wire type 2."""
    key = _varint(number << 3 | 2)
    plan.edits.append(lambda data: data + key + _varint(size) + b"x" * size)


def bytes_nested_groups(plan: GrpcPlan, depth: int) -> None:
    """Nest groups of an unknown field."""
    plan.edits.append(lambda data: data + _varint(100 << 3 | 3) * depth + _varint(100 << 3 | 4) * depth)


def metadata(plan: GrpcPlan, key: str, value: str) -> None:
    plan.metadata.append((key, value))


def compressed(plan: GrpcPlan) -> None:
    plan.compressed = True


def deadline(plan: GrpcPlan, seconds: float) -> None:
    plan.timeout_s = seconds


def cancelled(plan: GrpcPlan, seconds: float) -> None:
    plan.cancel_after_s = seconds


def as_stream(plan: GrpcPlan, copies: int) -> None:
    if isinstance(plan.message, pb.ModelInferRequest):
        plan.method, plan.copies = "ModelStreamInfer", copies


def to_other_method(plan: GrpcPlan, value: str) -> None:
    """Send the message to a method that takes another one."""
    plan.method = value


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


_INT64 = ODD_INTEGERS.map(_signed)
_TEXTS = ODD_TEXTS.filter(lambda text: text.isprintable() or text.isascii())
_NAMES = st.sampled_from(("IMAGE", "ERROR", "LABEL", "input__0", "output__0", "PIXELS", "nothing", "", "preprocess"))
_SHAPES = ODD_SHAPES.map(lambda lengths: [_signed(length) for length in lengths])
_PARAMETER_VALUES = st.one_of(
    st.tuples(st.just("int64_param"), _INT64),
    st.tuples(st.just("uint64_param"), ODD_INTEGERS.map(lambda value: value % 2**64)),
    st.tuples(st.just("string_param"), _TEXTS),
    st.tuples(
        st.just("double_param"), st.sampled_from((0.0, 0.5, 1e-320, 1.0, 2.5, -1.0, 1e308, float("nan"), float("inf")))
    ),
    st.tuples(st.just("bool_param"), st.booleans()),
    st.just(("", None)),
)
_KINDS = st.sampled_from(("inputs", "outputs", "raw_input_contents"))
_CONTENT_KINDS = st.sampled_from(tuple(sorted(set(_CONTENTS.values()))))

_MESSAGE_KINDS = [
    mutation(shape, place=FEW_PLACES, value=_SHAPES),
    mutation(shape, place=FEW_PLACES, value=_SHAPES),
    mutation(batch, change=st.sampled_from((-2, -1, 1, 2, 63, 64, 1000))),
    mutation(datatype, place=FEW_PLACES, value=st.sampled_from((*DATATYPES, "", "bytes", "TYPE_STRING", "FP8"))),
    mutation(name, place=FEW_PLACES, value=_NAMES | _TEXTS),
    mutation(model_version, value=st.sampled_from(("1", "0", "-1", "2", "x", "", "1.0", "99999999999999999999", " 1"))),
    mutation(identity, value=_TEXTS),
    mutation(parameter, place=FEW_PLACES, key=PARAMETER_NAMES, value=_PARAMETER_VALUES),
    mutation(parameter, place=st.just(0), key=PARAMETER_NAMES, value=_PARAMETER_VALUES),
    mutation(classification, place=FEW_PLACES, count=_PARAMETER_VALUES | st.tuples(st.just("int64_param"), _INT64)),
    mutation(
        shared_memory, place=FEW_PLACES, region=_TEXTS, size=ODD_INTEGERS, offset=ODD_INTEGERS, keep=st.booleans()
    ),
    mutation(repeated, place=FEW_PLACES, kind=_KINDS, times=st.sampled_from((1, 2, 100))),
    mutation(dropped, place=FEW_PLACES, kind=_KINDS),
    mutation(extra_output, value=_NAMES),
    mutation(extra_raw, data=st.sampled_from((b"", b"\0", b"\0\0\0\0", b"\x01\0\0\0x", bytes(1000)))),
    mutation(extra_contents, place=FEW_PLACES, kind=_CONTENT_KINDS, times=st.sampled_from((1, 2, 8, 5000))),
    mutation(contents_out_of_range, place=FEW_PLACES, value=ODD_INTEGERS),
    mutation(cut_contents, place=FEW_PLACES, kind=_CONTENT_KINDS, keep=st.sampled_from((0, 1, 7))),
    mutation(json_in_text, place=FEW_PLACES, depth=st.sampled_from((1, 100, 5000))),
]
_DATA_KINDS = [
    mutation(raw_flip, block=BLOCKS, place=PLACES, mask=MASKS),
    mutation(raw_length, block=BLOCKS, place=PLACES, value=ODD_INTEGERS),
    mutation(raw_length_off, block=BLOCKS, change=SMALL_CHANGES),
    mutation(raw_resize, block=BLOCKS, place=PLACES, change=SMALL_CHANGES),
    mutation(raw_resize, block=BLOCKS, place=PLACES, change=st.sampled_from((-100_000, 1000, 300_000))),
    mutation(image, place=FEW_PLACES, data=st.sampled_from(tuple(broken_images().values()))),
    mutation(image, place=FEW_PLACES, data=st.sampled_from(tuple(broken_images().values()))),
]
_METADATA = st.sampled_from(
    (
        ("k", "1"),
        ("k", "3"),
        ("k", "0"),
        ("k", "-1"),
        ("k", "99999999999999999999"),
        ("k", ""),
        ("k", "x" * 5000),
        ("k", '3", "a": "'),
        ("threshold", "0.5"),
        ("threshold", "1"),
        ("threshold", "1.0000001"),
        ("threshold", "-0"),
        ("threshold", "nan"),
        ("threshold", "0." + "0" * 5000),
        ("threshold", '0", "a": "'),
        ("admin-key", "wrong"),
        ("triton_grpc_error", "true"),
        ("triton_grpc_error", "x"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("timeout", "1"),
        ("x-long", "y" * 6000),
    )
)
_CALL_KINDS = [
    mutation(bytes_flip, place=PLACES, mask=MASKS),
    mutation(bytes_flip, place=PLACES, mask=MASKS),
    mutation(bytes_resize, place=PLACES, change=SMALL_CHANGES),
    mutation(
        bytes_unknown_field, number=st.sampled_from((20, 1000, 2**29 - 1)), size=st.sampled_from((0, 10, 100_000))
    ),
    mutation(bytes_nested_groups, depth=st.sampled_from((1, 50, 99, 101, 1000))),
    _METADATA.flatmap(lambda pair: mutation(metadata, key=st.just(pair[0]), value=st.just(pair[1]))),
    _METADATA.flatmap(lambda pair: mutation(metadata, key=st.just(pair[0]), value=st.just(pair[1]))),
    mutation(compressed),
    mutation(deadline, seconds=st.sampled_from((0.0005, 0.001, 0.002, 0.005))),
    mutation(cancelled, seconds=st.sampled_from((0.0, 0.0005, 0.001, 0.002, 0.005))),
    mutation(as_stream, copies=st.sampled_from((1, 2, 20))),
    mutation(
        to_other_method,
        value=st.sampled_from(("ModelConfig", "ModelMetadata", "ServerLive", "ModelStatistics", "ModelInfer", "X")),
    ),
]
_CALL_MUTATIONS = mutation_lists(_CALL_KINDS)
_INFER_MUTATIONS = mutation_lists([*_MESSAGE_KINDS, *_DATA_KINDS, *_CALL_KINDS])
