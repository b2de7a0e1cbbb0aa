"""fp16 and int8 files compute what the fp32 file computes, in ONNX Runtime and in OpenVINO, and keep the contract."""

import logging
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
from jpeg_build.checks.parity import check, measure, run_in_batches
from jpeg_build.emitters import Job, Options
from jpeg_build.emitters.precision import write_onnx
from jpeg_build.errors import NetworkError
from jpeg_build.graphs import int8_forms as forms_module
from jpeg_build.graphs.bias_correction import Means
from jpeg_build.graphs.half import to_half
from jpeg_build.graphs.int8_forms import int8_forms
from jpeg_build.graphs.onnx_values import image_part, prepared
from jpeg_build.graphs.planes import normalise_planes
from jpeg_build.graphs.quantise import Dialect
from jpeg_build.networks.onnx_network import OnnxNetwork
from jpeg_build.photos import load_photos
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support import PHOTOS

SIZE = 16
CLASSES = 10
FLOATS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
DIALECTS: list[Dialect] = ["onnxruntime", "openvino", "tensorrt"]

RECIPE = """\
classes = 10
labels = "labels.txt"
[geometry]
resize_size = 16
crop_size = 16
[normalisation]
mean = [0.5, 0.4, 0.3]
std = [0.2, 0.25, 0.3]
[source]
kind = "onnx"
file = "net.onnx"
output = "{output}"
"""


class Graph:
    """A network to be built node by node from the tensor "image", with random weights."""

    def __init__(self, *, kind="float32", opset=17, layout="NCHW"):
        self.kind, self.opset, self.layout = kind, opset, layout
        self.random = np.random.default_rng(0)
        self.nodes, self.weights = [], []

    def constant(self, values):
        array = np.asarray(values)
        array = array.astype(self.kind) if array.dtype.kind == "f" else array
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def node(self, operator, *inputs, **attributes):
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}/out"], name=name, **attributes))
        return f"{name}/out"

    def conv(self, tensor, ins, outs, *, size=3, gain=1.0, bias=True, group=1):
        weights = self.random.normal(0, gain * np.sqrt(2 / (ins // group * size**2)), (outs, ins // group, size, size))
        more = [self.constant(self.random.normal(0, 0.1, outs))] if bias else []
        return self.node("Conv", tensor, self.constant(weights), *more, pads=[size // 2] * 4, group=group)

    def relu6(self, tensor):
        return self.node("Clip", tensor, self.constant(0.0), self.constant(6.0))

    def image(self):
        return self.node("Transpose", "image", perm=[0, 3, 1, 2]) if self.layout == "NHWC" else "image"

    def flat(self, tensor):
        return self.node("Flatten", self.node("GlobalAveragePool", tensor))

    def dense(self, tensor, channels, *, head="Gemm"):
        weights = self.random.normal(0, 2 / np.sqrt(channels), (channels, CLASSES))
        if head == "MatMul":
            return self.node("MatMul", tensor, self.constant(weights))
        return self.node("Gemm", tensor, self.constant(weights.T), self.constant(np.zeros(CLASSES)), transB=1)

    def save(self, path):
        self.nodes[-1].output[0] = "scores"
        shape: list[str | int] = ["N", 3, SIZE, SIZE] if self.layout == "NCHW" else ["N", SIZE, SIZE, 3]
        element = FLOATS[self.kind]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", element, shape)],
            [helper.make_tensor_value_info("scores", element, ["N", CLASSES])],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8), path)


def mobile(graph, *, head="Gemm"):
    """Depthwise and pointwise convolutions, relu6, a linear bottleneck with a residual connection."""
    tensor = graph.relu6(graph.conv(graph.image(), 3, 16))
    first = graph.conv(graph.relu6(graph.conv(tensor, 16, 16, group=16)), 16, 8, size=1, bias=False)
    wide = graph.relu6(graph.conv(first, 8, 48, size=1))
    second = graph.conv(graph.relu6(graph.conv(wide, 48, 48, group=48)), 48, 8, size=1)
    tensor = graph.relu6(graph.conv(graph.node("Add", second, first), 8, 64, size=1))
    graph.dense(graph.flat(tensor), 64, head=head)


def residual(graph):
    """A block of a ResNet behind its stem, with batch normalisation that is not folded."""
    tensor = graph.node("Relu", graph.conv(graph.image(), 3, 16))
    tensor = graph.node("MaxPool", tensor, kernel_shape=[2, 2], strides=[2, 2])
    numbers = [graph.constant(graph.random.uniform(0.5, 1.5, 16)) for _ in range(4)]
    inner = graph.node("BatchNormalization", graph.conv(tensor, 16, 16, bias=False), *numbers)
    inner = graph.conv(graph.node("Relu", inner), 16, 16)
    tensor = graph.node("Relu", graph.node("Add", inner, tensor))
    tensor = graph.node("Relu", graph.conv(tensor, 16, 32))
    graph.dense(graph.flat(tensor), 32)


def shortcut(graph):
    """A sum of two convolutions, as where a ResNet halves its images."""
    tensor = graph.node("Relu", graph.conv(graph.image(), 3, 16))
    inner = graph.conv(graph.node("Relu", graph.conv(tensor, 16, 16)), 16, 24)
    tensor = graph.node("Relu", graph.node("Add", inner, graph.conv(tensor, 16, 24, size=1)))
    graph.dense(graph.flat(graph.node("Relu", graph.conv(tensor, 24, 32))), 32)


def overflowing(graph):
    """Two layers whose values exceed 65504 by far, between two of ordinary range."""
    tensor = graph.node("Relu", graph.conv(graph.image(), 3, 8))
    tensor = graph.node("Relu", graph.conv(tensor, 8, 8, size=1, gain=2e5))
    tensor = graph.node("Relu", graph.conv(tensor, 8, 8, size=1, gain=5e-6))
    graph.dense(graph.flat(graph.node("Relu", graph.conv(tensor, 8, 16))), 16)


@pytest.fixture
def photos():
    """Smooth images like photos: noise in a few large fields."""
    fields = np.random.default_rng(5).integers(0, 256, (24, 4, 4, 3))
    large = np.kron(fields, np.ones((1, SIZE // 4, SIZE // 4, 1)))
    return (large + np.random.default_rng(6).normal(0, 8, large.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def job(tmp_path, photos):
    def make(graph, precision, *, output="logits", calibration=None):
        graph.save(tmp_path / "net.onnx")
        (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
        (tmp_path / "mine.toml").write_text(RECIPE.format(output=output))
        recipe = load_recipe(tmp_path / "mine.toml")
        images = photos if calibration is None else calibration
        return Job(recipe, OnnxNetwork(recipe), precision, tmp_path, photos, lambda: images, Options(), lambda _: None)

    return make


def in_onnxruntime(path, pixels):
    (logits,) = ort.InferenceSession(str(path)).run(["output__0"], {"input__0": pixels})
    assert logits.dtype == np.float32
    return logits


def in_openvino(path, pixels):
    core = ov.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled({"input__0": pixels})["output__0"])


def difference(logits, expected):
    """Return the largest and the mean difference, as parts of the largest logit."""
    difference = np.abs(logits - expected) / np.abs(expected).max()
    return difference.max(), difference.mean()


def contract(path):
    """Load a file, and check its input and output."""
    model = onnx.load(str(path))
    (image,), (output,) = model.graph.input, model.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("input__0", TensorProto.UINT8)
    assert (output.name, output.type.tensor_type.elem_type) == ("output__0", TensorProto.FLOAT)
    return model


def types(model):
    """Return the type of every tensor, as strongly typed TensorRT reads it."""
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    found = {item.name: item.type.tensor_type.elem_type for item in (*model.graph.value_info, *model.graph.input)}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


# fp16


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("build", [mobile, residual])
def test_fp16_computes_the_same_with_the_network_in_half(job, tmp_path, photos, build, dialect):
    graph = Graph(opset=17)
    build(graph)
    made = job(graph, "fp16")
    written = write_onnx(made, tmp_path / "half.onnx", dialect=dialect)
    assert written.details["kept_in_fp32"] == 0
    model = contract(written.path)
    kinds = types(model)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert {kinds[name] for node in layers for name in node.input} == {TensorProto.FLOAT16}
    assert {kinds[name] for node in model.graph.node if node.op_type in ("Sub", "Mul") for name in node.input} == {1}
    expected = made.network.reference(photos)
    for run in (in_onnxruntime, in_openvino):
        assert difference(run(written.path, photos), expected)[0] < 5e-3
    (truly_half,) = ReferenceEvaluator(model).run(None, {"input__0": photos[:4]})
    assert difference(truly_half, expected[:4])[0] < 2e-2


def test_layers_that_overflow_float16_stay_in_float32(job, tmp_path, photos):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = Graph()
    overflowing(graph)
    made = job(graph, "fp16")
    expected = made.network.reference(photos[:4])
    made.network.export_onnx(tmp_path / "single.onnx")
    plain = convert_float_to_float16(onnx.load(str(tmp_path / "single.onnx")), keep_io_types=True)
    with np.errstate(all="ignore"):
        (broken,) = ReferenceEvaluator(plain).run(None, {"input__0": photos[:4]})
    assert not np.isfinite(broken).all()

    written = write_onnx(made, tmp_path / "half.onnx", dialect="tensorrt")
    (logits,) = ReferenceEvaluator(contract(written.path)).run(None, {"input__0": photos[:4]})
    assert difference(logits, expected)[0] < 2e-2
    # The two layers with the Relu between them; the Relu behind the second is in range.
    assert written.details["kept_in_fp32"] == 3
    assert written.details["in_fp16"] == 8
    model = onnx.load(str(written.path))
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    # Into the network, out of float16 and back, and behind the logits; the contract's own have other names.
    assert len([node for node in casts if node.name.startswith("cast/")]) == 4


def test_small_probabilities_survive_fp16(job, tmp_path, photos):
    graph = Graph()
    tensor = graph.node("Relu", graph.conv(graph.image(), 3, 16))
    scaled = graph.node("Mul", graph.dense(graph.flat(tensor), 16), graph.constant(20.0))
    graph.node("Softmax", scaled, axis=1)
    made = job(graph, "fp16", output="probabilities")
    written = write_onnx(made, tmp_path / "half.onnx", dialect="onnxruntime")
    expected = made.network.reference(photos)
    assert expected.min() < np.log(2.0**-24)  # zero in float16
    (logits,) = ReferenceEvaluator(contract(written.path)).run(None, {"input__0": photos})
    assert difference(logits, expected)[0] < 2e-2


@pytest.mark.parametrize("kind", ["float16", "float64"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_files_of_other_types(job, tmp_path, photos, kind, precision):
    graph = Graph(kind=kind)
    if kind == "float16":
        residual(graph)
    else:  # ONNX Runtime has no convolution in float64
        graph.dense(graph.node("ReduceMean", "image", axes=[2, 3], keepdims=0), 3, head="MatMul")
    made = job(graph, precision)
    written = write_onnx(made, tmp_path / "made.onnx", dialect="onnxruntime")
    assert TensorProto.DOUBLE not in types(contract(written.path)).values()
    assert difference(in_onnxruntime(written.path, photos), made.network.reference(photos))[0] < 0.1


def test_inputs_that_must_be_float_and_branches_stay_float(photos):
    """Scales of Resize are float32 by definition; a branch reads tensors of the graph around it."""
    graph = Graph()
    tensor = graph.node("Relu", graph.conv("pixels", 3, 8))
    tensor = graph.node("Resize", tensor, "", graph.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    tensor = graph.conv(tensor, 8, 8)
    inner = [
        helper.make_graph(
            [helper.make_node(operator, [tensor], [f"{operator}/inner"])],
            operator,
            [],
            [helper.make_tensor_value_info(f"{operator}/inner", TensorProto.FLOAT, None)],
        )
        for operator in ("Relu", "Neg")
    ]
    size = graph.node("Size", "input__0")
    large = graph.node("Greater", size, graph.constant(np.array(1000)))
    tensor = graph.node("If", large, then_branch=inner[0], else_branch=inner[1])
    graph.dense(graph.flat(tensor), 8)
    graph.nodes[-1].output[0] = "output__0"
    before = [
        helper.make_node("Cast", ["input__0"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", graph.constant(1 / 255)], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["pixels"], perm=[0, 3, 1, 2]),
    ]
    model = helper.make_model(
        helper.make_graph(
            before + graph.nodes,
            "net",
            [helper.make_tensor_value_info("input__0", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
            [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, ["N", CLASSES])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    half = to_half(model, photos)
    onnx.checker.check_model(half.model, full_check=True)
    assert half.converted >= 4
    single, made = (ort.InferenceSession(each.SerializeToString()) for each in (model, half.model))
    for batch in (1, 4):  # one branch, and the other
        pixels = {"input__0": photos[:batch]}
        assert difference(made.run(None, pixels)[0], single.run(None, pixels)[0])[0] < 5e-3


# int8


@pytest.mark.parametrize("build", [mobile, residual])
@pytest.mark.parametrize(
    ("dialect", "layout", "opset"),
    [("onnxruntime", "NHWC", 13), ("openvino", "NCHW", 11), ("tensorrt", "NHWC", 11), ("tensorrt", "NCHW", 20)],
)
def test_int8_stays_close(job, tmp_path, photos, build, dialect, layout, opset):
    graph = Graph(layout=layout, opset=opset)
    build(graph)
    made = job(graph, "int8")
    written = write_onnx(made, tmp_path / "int8.onnx", dialect=dialect)
    layers = sum(node.op_type in ("Conv", "Gemm") for node in graph.nodes)
    assert written.details["in_int8"] + written.details["kept_in_fp32"] == layers
    assert written.details["in_int8"] >= layers - 5
    expected = made.network.reference(photos)
    for run in (in_onnxruntime, in_openvino):
        logits = run(written.path, photos)
        assert difference(logits, expected)[1] < 0.02, run
        for batch in (1, 3):
            assert np.allclose(run(written.path, photos[:batch]), logits[:batch], atol=0.1 * np.abs(expected).max())


def test_a_last_layer_that_is_a_product_without_bias(job, tmp_path, photos):
    graph = Graph()
    mobile(graph, head="MatMul")
    made = job(graph, "int8")
    for dialect in DIALECTS:
        written = write_onnx(made, tmp_path / f"{dialect}.onnx", dialect=dialect)
        model = contract(written.path)
        assert "MatMul" in {node.op_type for node in model.graph.node}
        assert difference(in_onnxruntime(written.path, photos), made.network.reference(photos))[1] < 0.02


def scale_and_zero(model, kind="QuantizeLinear"):
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [
        (node, constants[node.input[1]], constants[node.input[2]]) for node in model.graph.node if node.op_type == kind
    ]


def test_the_form_of_int8_for_tensorrt(job, tmp_path, monkeypatch):
    monkeypatch.setattr(forms_module, "KEPT_LAYERS", (0,))
    graph = Graph(opset=20)
    mobile(graph)
    written = write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect="tensorrt")
    model = contract(written.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        for _, scale, zero in scale_and_zero(model, kind):
            assert scale.dtype == np.float32
            assert zero.dtype == np.int8
            assert not zero.any()
    producers = {node.output[0]: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in (node for node in model.graph.node if node.op_type in ("Conv", "Gemm")):
        for name in layer.input[:2]:
            assert producers[name].op_type == "DequantizeLinear"
            assert producers[producers[name].input[0]].op_type == "QuantizeLinear"
        assert constants[layer.input[2]].data_type == TensorProto.FLOAT
        scale = constants[producers[layer.input[1]].input[1]]
        assert len(scale.dims) == 1  # one for each channel
        assert scale.dims[0] > 1
    (add,) = (node for node in model.graph.node if node.op_type == "Add")
    assert sorted(producers[name].op_type for name in add.input) == ["Conv", "DequantizeLinear"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_finds_the_size_of_kernels_that_are_computed(job, tmp_path, precision):
    """Its parser needs the attribute, which ONNX makes optional, where the kernel is not a constant."""
    graph = Graph()
    mobile(graph)
    written = write_onnx(job(graph, precision), tmp_path / "made.onnx", dialect="tensorrt")
    stated = [
        {attribute.name: list(attribute.ints) for attribute in node.attribute}["kernel_shape"]
        for node in contract(written.path).graph.node
        if node.op_type == "Conv"
    ]
    assert stated == [[3, 3], [3, 3], [1, 1], [1, 1], [3, 3], [1, 1], [1, 1]]


def test_cpus_run_all_layers_in_integers(job, tmp_path, monkeypatch):
    monkeypatch.setattr(forms_module, "KEPT_LAYERS", (0,))
    graph = Graph()
    mobile(graph)
    written = write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect="onnxruntime")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(written.path), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert operators.count("QLinearConv") == 7
    assert operators.count("QLinearAdd") == 1
    assert "Conv" not in operators
    assert {zero.dtype for _, _, zero in scale_and_zero(contract(written.path))} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_normalisation_stays_in_float32(job, tmp_path, dialect):
    graph = Graph()
    residual(graph)
    model = contract(write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect=dialect).path)
    names = image_part(prepared(model).graph)
    assert {"Cast", "Sub", "Mul", "Transpose"} <= {node.op_type for node in model.graph.node}
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Sub", "Mul"):
            read = {name.split("/planes/")[0] for name in constants.intersection(node.input)}
            assert read <= {"pixels/mean", "pixels/scale"}
    assert names


@pytest.mark.parametrize("build", [mobile, residual, shortcut])
def test_one_side_of_every_sum_is_quantised_for_tensorrt(job, tmp_path, build):
    graph = Graph()
    build(graph)
    model = contract(write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect="tensorrt").path)
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    sums = [[producers.get(name) for name in node.input] for node in model.graph.node if node.op_type == "Add"]
    assert sums
    assert all("DequantizeLinear" in sides for sides in sums)


@pytest.mark.parametrize("dialect", ["onnxruntime", "openvino"])
def test_cpus_normalise_in_nchw(job, tmp_path, photos, dialect):
    graph = Graph()
    residual(graph)
    made = job(graph, "fp32")
    made.network.export_onnx(tmp_path / "exported.onnx")
    model = contract(write_onnx(made, tmp_path / "fp32.onnx", dialect=dialect).path)
    assert [node.op_type for node in model.graph.node[:4]] == ["Cast", "Transpose", "Sub", "Mul"]
    before = ort.InferenceSession(str(tmp_path / "exported.onnx"), providers=["CPUExecutionProvider"])
    after = ort.InferenceSession(str(tmp_path / "fp32.onnx"), providers=["CPUExecutionProvider"])
    expected, found = (session.run(None, {"input__0": photos})[0] for session in (before, after))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_tensorrt_normalises_in_nhwc(job, tmp_path):
    graph = Graph()
    residual(graph)
    model = contract(write_onnx(job(graph, "fp32"), tmp_path / "fp32.onnx", dialect="tensorrt").path)
    assert [node.op_type for node in model.graph.node[:4]] == ["Cast", "Sub", "Mul", "Transpose"]


def test_a_network_with_channels_last_keeps_its_normalisation(job, tmp_path):
    graph = Graph(layout="NHWC")
    mobile(graph)
    made = job(graph, "fp32")
    made.network.export_onnx(tmp_path / "exported.onnx")
    model = onnx.load(str(tmp_path / "exported.onnx"))
    operators = [node.op_type for node in normalise_planes(model).graph.node]
    assert sorted(operators) == sorted(node.op_type for node in model.graph.node)


def test_another_transposition_does_not_move():
    reversed_axes = helper.make_node("Transpose", ["input__0"], ["reversed"])  # without perm: all axes, backwards
    graph = helper.make_graph(
        [reversed_axes, helper.make_node("Cast", ["reversed"], ["output__0"], to=TensorProto.FLOAT)],
        "reverses",
        [helper.make_tensor_value_info("input__0", TensorProto.UINT8, [2, 4, 4, 3])],
        [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, [3, 4, 4, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert normalise_planes(model) is model


def test_nothing_moves_in_a_network_with_branches():
    """The tensors that a branch reads from outside are not among the inputs of its node."""
    inside = helper.make_graph(
        [helper.make_node("Mul", ["scaled", "twice"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2, 4, 4, 3])],
    )
    nodes = [
        helper.make_node("Cast", ["input__0"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("If", ["always"], ["chosen"], then_branch=inside, else_branch=inside),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Transpose", ["chosen"], ["chosen/planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Add", ["planes", "chosen/planes"], ["output__0"]),
    ]
    constants = {"scale": np.ones(3, np.float32), "twice": np.float32(2), "always": np.array(True)}
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("input__0", TensorProto.UINT8, [2, 4, 4, 3])],
        [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, [2, 3, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(normalise_planes(model), full_check=True)
    assert normalise_planes(model) is model


def test_the_bias_correction_removes_the_shift_of_rounded_weights(job, tmp_path, photos, monkeypatch):
    monkeypatch.setattr(forms_module, "KEPT_LAYERS", (0,))
    graph = Graph()
    # Rounding changes all weights by the same amount: they lie between two steps of the scale, which the largest sets.
    image = graph.node("Relu", "image")
    weights = np.full((8, 3, 3, 3), 1.4 / 127)
    weights[:, 0, 0, 0] = 1
    tensor = graph.node("Conv", image, graph.constant(weights), graph.constant(np.zeros(8)), pads=[1, 1, 1, 1])
    graph.dense(graph.flat(graph.node("Relu", tensor)), 8)
    made = job(graph, "int8")
    made.network.export_onnx(tmp_path / "single.onnx")
    model = onnx.load(str(tmp_path / "single.onnx"))
    photos[:, 0, 0], photos[:, 0, 1] = 0, 255  # the same range in each image, so that none is clipped
    expected = made.network.reference(photos)

    def shift():
        quantised = next(int8_forms(model, photos, "tensorrt", lambda _: None)).model
        (logits,) = ort.InferenceSession(quantised.SerializeToString()).run(None, {"input__0": photos})
        return np.abs((logits - expected).mean(axis=0)).max() / np.abs(expected).max()

    corrected = shift()
    monkeypatch.setattr(Means, "correct", lambda *_: None)
    assert shift() > 5 * corrected


def test_first_layers_stay_in_float32_where_that_helps(job, tmp_path, photos, monkeypatch):
    graph = Graph()
    # One channel of the first layer is a thousand times the others, which are smaller than its steps.
    image = graph.conv("image", 3, 8)
    scale = graph.constant(np.array([1e3, *[1] * 7]).reshape(1, 8, 1, 1))
    back = graph.constant(np.array([1e-3, *[1] * 7]).reshape(8, 1, 1, 1))
    tensor = graph.node("Relu", graph.node("Mul", image, scale))
    tensor = graph.node("Conv", tensor, back, group=8)
    graph.dense(graph.flat(graph.node("Relu", graph.conv(tensor, 8, 32))), 32)
    written = write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect="tensorrt")
    assert written.details["kept_in_fp32"] == 3
    monkeypatch.setattr(forms_module, "KEPT_LAYERS", (0,))
    worse = write_onnx(job(graph, "int8"), tmp_path / "worse.onnx", dialect="tensorrt")
    expected = job(graph, "int8").network.reference(photos)
    assert (
        difference(in_onnxruntime(worse.path, photos), expected)[1]
        > 2 * difference(in_onnxruntime(written.path, photos), expected)[1]
    )


def test_few_calibration_images_get_a_warning(job, tmp_path, photos):
    graph = Graph()
    mobile(graph)
    written = write_onnx(job(graph, "int8"), tmp_path / "few.onnx", dialect="onnxruntime")
    assert written.details["calibration_images"] == len(photos)
    (note,) = written.notes
    assert "24 IMAGES" in note
    assert "--calibration FOLDER" in note
    many = np.concatenate([photos] * 5)
    assert not write_onnx(job(graph, "int8", calibration=many), tmp_path / "many.onnx", dialect="onnxruntime").notes


def test_a_network_that_cannot_be_quantised_is_refused(job, tmp_path):
    graph = Graph()
    graph.node("Tile", graph.flat("image"), graph.constant(np.array([1, 4])))
    graph.node("Slice", graph.nodes[-1].output[0], *(graph.constant(np.array([n])) for n in (0, CLASSES, 1)))
    with pytest.raises(NetworkError) as caught:
        write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect="onnxruntime")
    assert caught.value.reason == "not_quantisable"


def test_an_opset_that_cannot_be_raised_is_refused(job, tmp_path):
    graph = Graph(opset=8)
    tensor = graph.node("Relu", graph.conv("image", 3, 8))
    # Scan was another operator in opset 8, and ONNX has no conversion for it.
    body = helper.make_graph(
        [helper.make_node("Neg", ["row"], ["negative"])],
        "body",
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("negative", TensorProto.FLOAT, None)],
    )
    tensor = graph.node("Scan", "", tensor, num_scan_inputs=1, body=body)
    graph.dense(graph.flat(tensor), 8)
    with pytest.raises(NetworkError, match=r"opset 13 .*opset 8") as caught:
        write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect="onnxruntime")
    assert caught.value.reason == "opset_too_old"


# Files


@pytest.mark.parametrize("dialect", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_same_network_gives_the_same_bytes_in_every_process(job, tmp_path, precision, dialect):
    graph = Graph()
    mobile(graph)
    made = job(graph, precision)
    first = write_onnx(made, tmp_path / "first.onnx", dialect=dialect).path.read_bytes()
    np.save(tmp_path / "photos.npy", made.photos)
    again = f"""
from pathlib import Path
import numpy as np
from jpeg_build.emitters import Job, Options
from jpeg_build.networks.onnx_network import OnnxNetwork
from jpeg_build.emitters.precision import write_onnx
from jpeg_build.recipe.recipe import load_recipe
folder = Path({str(tmp_path)!r})
recipe, photos = load_recipe(folder / "mine.toml"), np.load(folder / "photos.npy")
job = Job(recipe, OnnxNetwork(recipe), {precision!r}, folder, photos, lambda: photos, Options(), print)
write_onnx(job, folder / "second.onnx", dialect={dialect!r})
"""
    subprocess.run([sys.executable, "-c", again], check=True, env={"PYTHONHASHSEED": "7"}, stdout=subprocess.PIPE)
    assert (tmp_path / "second.onnx").read_bytes() == first


def test_fp32_for_tensorrt_is_in_an_opset_that_all_versions_read(job, tmp_path, photos):
    graph = Graph(opset=20)
    pooled = graph.node("ReduceMean", graph.conv("image", 3, 8), graph.constant(np.array([2, 3])), keepdims=0)
    graph.dense(pooled, 8)
    made = job(graph, "fp32")
    written = write_onnx(made, tmp_path / "single.onnx", dialect="tensorrt")
    model = contract(written.path)
    assert model.opset_import[0].version == 17
    (mean,) = (node for node in model.graph.node if node.op_type == "ReduceMean")
    assert len(mean.input) == 1  # axes as an attribute: older parsers ignore the second input
    assert difference(in_onnxruntime(written.path, photos), made.network.reference(photos))[0] < 1e-5
    assert not written.notes
    assert write_onnx(made, tmp_path / "as_it_is.onnx", dialect="onnxruntime").path.is_file()
    assert contract(tmp_path / "as_it_is.onnx").opset_import[0].version == 20


def test_the_level_of_the_root_logger_is_restored(job, tmp_path):
    level = logging.getLogger().level
    graph = Graph()
    mobile(graph)
    write_onnx(job(graph, "int8"), tmp_path / "int8.onnx", dialect="onnxruntime")
    assert logging.getLogger().level == level


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_demo_network_in_int8_is_within_its_tolerance(built_repository, dialect, tmp_path):
    recipe = load_recipe(RECIPES / "mobilenet_v2.toml")
    single = built_repository / "classifier_onnx" / "1" / "model.onnx"
    photos = load_photos(PHOTOS, recipe)
    expected = in_onnxruntime(single, photos)
    model = onnx.load(str(single))
    quantised = next(int8_forms(model, photos, dialect, lambda _: None))
    assert len(quantised.kept) <= 5
    onnx.save(quantised.model, str(tmp_path / "int8.onnx"))
    outputs = run_in_batches(lambda pixels: in_onnxruntime(tmp_path / "int8.onnx", pixels), photos, [len(photos)])
    check(measure(expected, outputs, photos=len(photos), precision="int8"), "int8")
    assert difference(outputs.logits[0], expected)[1] < 0.015
