"""The opset of an ONNX file, and its conversion to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx.defs
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from onnx import helper

from jpeg_build.graphs.onnx_graph import STANDARD, replace

# ONNX's converter touches no operator of another domain.
_ASIDE = "aside"


def opset(model: Any) -> int:
    """Return the version of ONNX's standard operator set that a model uses."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in STANDARD)


def with_opset(model: Any, version: int) -> Any:
    """Convert a model to another opset.

    ONNX's converter does most of it. Towards an older opset it lacks two things, which are done here: an operator that
    is newer than that opset becomes the operators that ONNX defines it by (Gelu, Mish), and Pad and Split stay as they
    are, where the older operator means the same.

    Raises:
        ValueError: ONNX cannot convert it.
    """
    try:
        if version < opset(model):
            model = _set_aside(_with_operators_of(model, version), version)
        converted = onnx.version_converter.convert_version(model, version)
    except Exception as error:
        # ONNX writes the place in its code and the assertion in front of the cause.
        raise ValueError((str(error).splitlines() or [""])[0].rpartition(" failed: ")[2][:200]) from error
    for node in converted.graph.node:
        if node.domain == _ASIDE:
            node.domain = ""
        # The converter keeps an attribute that operators before opset 18 do not have.
        if version < 18 and node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            _drop(node, "noop_with_empty_axes")
    replace(converted.opset_import, [entry for entry in converted.opset_import if entry.domain != _ASIDE])
    del converted.graph.value_info[:]
    try:
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:
        raise ValueError(str(error).splitlines()[0][:200]) from error
    return converted


def _with_operators_of(model: Any, version: int) -> Any:
    """Replace the operators that an opset does not have by those that ONNX defines them by; return a copy."""
    newer = {node.op_type for node in model.graph.node if node.domain in STANDARD and _is_newer(node.op_type, version)}
    typed = onnx.shape_inference.infer_shapes(model)
    if not newer:
        return typed
    known = {item.name for item in (*typed.graph.value_info, *typed.graph.input)}
    for tensor in typed.graph.initializer:  # The inliner asks for the types of all that such an operator reads.
        if tensor.name not in known:
            typed.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inlined = onnx.inliner.inline_selected_functions(
        typed, [("", operator) for operator in sorted(newer)], inline_schema_functions=True
    )
    return _with_casts(onnx.shape_inference.infer_shapes(inlined))


def _is_newer(operator: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(operator, version)
    except onnx.defs.SchemaError:
        return True
    return False


def _with_casts(model: Any) -> Any:
    """Put Cast in place of CastLike, which a definition uses and few parsers read; return the same model."""
    graph = model.graph
    types = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "CastLike" and types.get(node.input[1]):
            node.op_type = "Cast"
            node.attribute.append(helper.make_attribute("to", types[node.input[1]]))
            del node.input[1]
    return model


def _set_aside(model: Any, version: int) -> Any:
    """Move what the converter refuses, though the older operator means the same, into a domain of its own."""
    if not 13 <= version < 18:  # between them, Pad and Split are as in the older opset
        return model
    graph = model.graph
    shapes = {item.name: item.type.tensor_type.shape.dim for item in (*graph.value_info, *graph.input)}
    for node in graph.node:
        if node.domain in STANDARD and _means_the_same(node, shapes):
            _drop(node, "num_outputs")
            node.domain = _ASIDE
    model.opset_import.append(helper.make_opsetid(_ASIDE, 1))
    return model


def _means_the_same(node: Any, shapes: Mapping[str, Any]) -> bool:
    """Whether a node is a Pad or Split of opset 18 or later that means what it means in 13 to 17."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Pad":
        return len([name for name in node.input if name]) < 4 and attributes.get("mode") != b"wrap"
    if node.op_type == "Split":
        # Before opset 18, the number of outputs says into how many equal parts.
        dims = shapes.get(node.input[0], [])
        axis = attributes.get("axis", 0)
        size = dims[axis].dim_value if -len(dims) <= axis < len(dims) else 0
        return len(node.input) > 1 or (size > 0 and size % len(node.output) == 0)
    return False


def _drop(node: Any, name: str) -> None:
    replace(node.attribute, [attribute for attribute in node.attribute if attribute.name != name])
