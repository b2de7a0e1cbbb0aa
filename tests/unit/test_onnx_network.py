"""ONNX files get the contract around them, in every layout, type, batch and kind of output; others are refused."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from jpeg_build.errors import NetworkError
from jpeg_build.graphs.int8_forms import int8_forms
from jpeg_build.networks.onnx_network import OnnxNetwork
from jpeg_build.recipe.recipe import load_recipe
from onnx import TensorProto, helper, numpy_helper

SIZE = 6
CLASSES = 3
FLOATS = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "double": TensorProto.DOUBLE}


def make_onnx(
    path, *, layout="NCHW", kind="float", batch="N", probabilities=False, extra_axes=False, size=SIZE, opset=17
):
    """Write a network that averages each channel, so that its logits are the normalised mean colour."""
    shape = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    element = FLOATS[kind]
    # The names of the contract's own tensors, which must not collide.
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input__0"], ["mean"], axes=axes, keepdims=int(extra_axes)),
            helper.make_node("Softmax", ["mean"], ["output__0"], axis=1)
            if probabilities
            else helper.make_node("Identity", ["mean"], ["output__0"]),
        ],
        "net",
        [helper.make_tensor_value_info("input__0", element, shape)],
        [helper.make_tensor_value_info("output__0", element, [batch, CLASSES, *([1, 1] if extra_axes else [])])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))


# Line 1 is classes, line 5 crop_size, line 13 output.
RECIPE = """\
classes = {classes}
labels = "labels.txt"
[geometry]
resize_size = {size}
crop_size = {size}
[normalisation]
mean = [0.1, 0.2, 0.3]
std = [0.5, 0.25, 0.125]
color = "{color}"
[source]
kind = "onnx"
file = "net.onnx"
output = "{output}"
"""


@pytest.fixture
def network(tmp_path):
    def make(*, color="RGB", output="logits", classes=CLASSES, size=SIZE, more="", onnx_size=SIZE, **options):
        make_onnx(tmp_path / "net.onnx", probabilities=output == "probabilities", size=onnx_size, **options)
        (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(classes)))
        text = RECIPE.format(color=color, output=output, classes=classes, size=size) + more
        (tmp_path / "mine.toml").write_text(text)
        return OnnxNetwork(load_recipe(tmp_path / "mine.toml"))

    return make


def expected(pixels, *, color="RGB"):
    values = pixels.astype(np.float64) / 255
    if color == "BGR":
        values = values[..., ::-1]
    return ((values - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]).mean(axis=(1, 2))


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("batch", ["N", 1, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("kind", "tolerance"), [("float", 1e-5), ("double", 1e-5), ("float16", 2e-2)])
def test_pixels_in_logits_out(network, tmp_path, color, batch, layout, kind, tolerance):
    made = network(color=color, batch=batch, layout=layout, kind=kind)
    pixels = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    assert np.allclose(made.reference(pixels), expected(pixels, color=color), atol=tolerance)

    made.export_onnx(tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    for size in (1, 2, 5):
        (logits,) = session.run(["output__0"], {"input__0": pixels[:size]})
        assert logits.dtype == np.float32
        assert np.allclose(logits, expected(pixels[:size], color=color), atol=tolerance)


@pytest.mark.parametrize("extra_axes", [False, True])
def test_probabilities_become_logits_whose_softmax_they_are(network, tmp_path, extra_axes):
    made = network(output="probabilities", extra_axes=extra_axes)
    made.export_onnx(tmp_path / "model.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    (logits,) = ort.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"input__0": pixels})
    raw = np.exp(expected(pixels))
    assert np.allclose(np.exp(logits), raw / raw.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(logits, made.reference(pixels), atol=1e-5)


def refused(recipe, reason, *facts):
    """Open a network, which fails; check the reason code and facts of the message."""
    with pytest.raises(NetworkError) as caught:
        OnnxNetwork(recipe)
    message = str(caught.value)
    assert caught.value.reason == reason, message
    for fact in facts:
        assert fact in message
    return message


def change(tmp_path, **replaced):
    """Replace values in the recipe: key = value."""
    path = tmp_path / "mine.toml"
    lines = [
        f"{key} = {replaced[key]}" if (key := line.partition(" = ")[0]) in replaced else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join([*lines, ""]))
    return load_recipe(path)


def custom(tmp_path, nodes, inputs, outputs, weights=()):
    """Replace the ONNX file: inputs and outputs as {name: (element type, shape)}."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, *described) for name, described in inputs.items()],
        [helper.make_tensor_value_info(name, *described) for name, described in outputs.items()],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "net.onnx"))
    return load_recipe(tmp_path / "mine.toml")


IMAGES = (TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
SCORES = (TensorProto.FLOAT, ["N", CLASSES])


def mean(result="mean", source="image"):
    return helper.make_node("ReduceMean", [source], [result], axes=[2, 3], keepdims=0)


def test_a_wrong_kind_of_output_is_refused(network, tmp_path):
    network(output="probabilities")
    recipe = change(tmp_path, output='"logits"')
    refused(recipe, "output_differs", f"{recipe.path}:13: [source] output", 'set output = "probabilities"')
    network(output="logits")
    recipe = change(tmp_path, output='"probabilities"')
    refused(recipe, "output_differs", f"{recipe.path}:13: [source] output", 'set output = "logits"')


@pytest.mark.parametrize("behind", [[], ["Identity"], ["Reshape", "Cast"]])
def test_a_sigmoid_is_refused_where_the_recipe_states_a_softmax(network, tmp_path, behind):
    network()
    nodes = [mean(), helper.make_node("Sigmoid", ["mean"], ["0"])]
    for number, operator in enumerate(behind):
        inputs = [str(number), "shape"] if operator == "Reshape" else [str(number)]
        nodes.append(helper.make_node(operator, inputs, [str(number + 1)]))
        if operator == "Cast":
            nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    shape = numpy_helper.from_array(np.array([-1, CLASSES], np.int64), "shape")
    recipe = custom(tmp_path, nodes, {"image": IMAGES}, {str(len(behind)): SCORES}, [shape])
    refused(recipe, "sigmoid_output", 'output = "sigmoid"', 'output = "logits"')


def test_a_sigmoid_of_one_value_is_no_logit(network, tmp_path):
    network()
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sigmoid", ["mean"], ["score"]),
        helper.make_node("Flatten", ["score"], ["flat"]),
    ]
    path = custom(tmp_path, nodes, {"image": IMAGES}, {"flat": (TensorProto.FLOAT, ["N", 1])}, []).path
    text = path.read_text()
    for head in ("softmax", "sigmoid"):
        classes = 2 if head == "softmax" else 1
        (tmp_path / "labels.txt").write_text("".join(f"label {number}\n" for number in range(classes)))
        path.write_text(f'output = "{head}"\n' + text.replace(f"classes = {CLASSES}", f"classes = {classes}"))
        refused(load_recipe(path), "output_differs", 'set output = "probabilities"')


# What computes a sigmoid, with and without the operator of that name.
SIGMOIDS = {
    "operator": [helper.make_node("Sigmoid", ["mean"], ["scores"])],
    "arithmetic": [
        helper.make_node("Neg", ["mean"], ["negative"]),
        helper.make_node("Exp", ["negative"], ["exponential"]),
        helper.make_node("Add", ["exponential", "one"], ["sum"]),
        helper.make_node("Reciprocal", ["sum"], ["scores"]),
    ],
}
ONE = numpy_helper.from_array(np.array(1, np.float32), "one")


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_values_of_a_sigmoid(network, tmp_path, sigmoid):
    network()
    path = custom(tmp_path, [mean(), *SIGMOIDS[sigmoid]], {"image": IMAGES}, {"scores": SCORES}, [ONE]).path
    refused(load_recipe(path), "sigmoid_output", 'output = "sigmoid"')
    good = path.read_text()
    path.write_text('output = "sigmoid"\n' + good)
    refused(load_recipe(path), "output_differs", f"{path}:14: [source] output", 'set output = "probabilities"')
    path.write_text('output = "sigmoid"\n' + good.replace('output = "logits"', 'output = "probabilities"'))
    assert_logits(OnnxNetwork(load_recipe(path)), tmp_path, expected)


def assert_logits(made, tmp_path, computed, tolerance=1e-4):
    """Check the logits of the network, and of its export in batches, against those that a function computes."""
    pixels = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    assert np.allclose(made.reference(pixels), computed(pixels), atol=tolerance)
    made.export_onnx(tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    for size in (1, 2, 5):
        (logits,) = session.run(["output__0"], {"input__0": pixels[:size]})
        assert logits.dtype == np.float32
        assert np.allclose(logits, computed(pixels[:size]), atol=tolerance)


def test_logits_of_a_sigmoid_head(network, tmp_path):
    network()
    path = tmp_path / "mine.toml"
    path.write_text('output = "sigmoid"\n' + path.read_text())
    assert_logits(OnnxNetwork(load_recipe(path)), tmp_path, expected)


GRAY_LINES = 'mean = 0.4\nstd = 0.5\ncolor = "GRAY"\n'


def gray(pixels):
    """The normalised mean gray value, (N, 1)."""
    values = pixels.astype(np.float64) / 255 @ [0.299, 0.587, 0.114]
    return ((values - 0.4) / 0.5).mean(axis=(1, 2))[:, None]


def gray_recipe(tmp_path, *, classes, output="softmax", kind="logits"):
    """Write a recipe for a network that takes one channel."""
    text = RECIPE.format(color="GRAY", output=kind, classes=classes, size=SIZE)
    lines = 'mean = [0.1, 0.2, 0.3]\nstd = [0.5, 0.25, 0.125]\ncolor = "GRAY"\n'
    assert lines in text
    path = tmp_path / "mine.toml"
    path.write_text(f'output = "{output}"\n' + text.replace(lines, GRAY_LINES))
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    return path


def pooled(tmp_path, *, opset, channels=3, ends=(), layout="NCHW"):
    """Write a network of operators that all opsets have: the mean of each channel, and what follows it.

    Its IR version is the oldest that goes with the opset: before 4, constants were inputs, too.
    """
    nodes = [
        *([helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []),
        helper.make_node("GlobalAveragePool", ["first" if layout == "NHWC" else "image"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["value0"]),
    ]
    for number, operator in enumerate(ends):
        axis: dict[str, Any] = {"axis": 1} if operator == "Softmax" else {}
        nodes.append(helper.make_node(operator, [f"value{number}"], [f"value{number + 1}"], **axis))
    shape = ["N", channels, SIZE, SIZE] if layout == "NCHW" else ["N", SIZE, SIZE, channels]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"value{len(ends)}", TensorProto.FLOAT, ["N", channels])],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(
        helper.make_model(graph, opset_imports=imports, ir_version=3 if opset < 9 else 8), str(tmp_path / "net.onnx")
    )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_network_of_gray_images(tmp_path, layout):
    pooled(tmp_path, opset=17, channels=1, layout=layout)
    recipe = load_recipe(gray_recipe(tmp_path, classes=1, output="sigmoid"))
    assert_logits(OnnxNetwork(recipe), tmp_path, gray)


def test_gray_images_three_times_for_a_network_of_three_channels(network, tmp_path):
    network(color="GRAY")

    def computed(pixels):
        values = (pixels.astype(np.float64) / 255 @ [0.299, 0.587, 0.114])[..., None]
        return ((values - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]).mean(axis=(1, 2))

    assert_logits(OnnxNetwork(load_recipe(tmp_path / "mine.toml")), tmp_path, computed)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 15, 18, 20])
@pytest.mark.parametrize(
    ("head", "kind", "channels", "classes", "ends"),
    [
        ("softmax", "probabilities", 3, 3, ["Softmax"]),
        ("sigmoid", "probabilities", 3, 3, ["Sigmoid"]),
        # One value of a network of gray images, for two classes.
        ("softmax", "logits", 1, 2, []),
        ("softmax", "probabilities", 1, 2, ["Sigmoid"]),
    ],
)
def test_every_kind_of_output_in_every_opset(tmp_path, opset, head, kind, channels, classes, ends):
    pooled(tmp_path, opset=opset, channels=channels, ends=ends)
    if channels == 1:
        path = gray_recipe(tmp_path, classes=classes, output=head, kind=kind)

        def computed(pixels):
            return np.concatenate([np.zeros((len(pixels), 1)), gray(pixels)], axis=1)
    else:
        path = tmp_path / "mine.toml"
        path.write_text(f'output = "{head}"\n' + RECIPE.format(color="RGB", output=kind, classes=classes, size=SIZE))
        (tmp_path / "labels.txt").write_text("a\nb\nc\n")

        def computed(pixels):
            values = expected(pixels)
            return values - np.log(np.exp(values).sum(axis=1, keepdims=True)) if head == "softmax" else values

    assert_logits(OnnxNetwork(load_recipe(path)), tmp_path, computed)


def test_one_value_for_two_classes_or_one_label(network, tmp_path):
    network()
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["logit"]),
    ]
    shape = numpy_helper.from_array(np.array([-1, 1], np.int64), "shape")
    path = custom(tmp_path, nodes, {"image": IMAGES}, {"logit": (TensorProto.FLOAT, ["N", 1])}, [shape]).path
    refused(load_recipe(path), "classes_differ", f"{path}:1: classes: is 3", "classes = 2", 'output = "sigmoid"')

    def value(pixels):
        return expected(pixels).mean(axis=1, keepdims=True)

    (tmp_path / "labels.txt").write_text("no\nyes\n")
    recipe = change(tmp_path, classes="2")
    assert_logits(OnnxNetwork(recipe), tmp_path, lambda pixels: np.concatenate([0 * value(pixels), value(pixels)], 1))
    (tmp_path / "labels.txt").write_text("yes\n")
    path.write_text('output = "sigmoid"\n' + path.read_text().replace("classes = 2", "classes = 1"))
    assert_logits(OnnxNetwork(load_recipe(path)), tmp_path, value)


def test_int8_leaves_the_gray_conversion_in_float(tmp_path):
    """Rounded to a few steps, red, green and blue would each lose what the network sees."""
    random = np.random.default_rng(7)
    weights = {
        "kernels": random.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32),
        "more": random.normal(0, 0.3, (8, 8, 3, 3)).astype(np.float32),
        "matrix": random.normal(0, 2, (8, CLASSES)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernels"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("Conv", ["positive", "more"], ["features2"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["features2"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), str(tmp_path / "net.onnx"))
    OnnxNetwork(load_recipe(gray_recipe(tmp_path, classes=CLASSES))).export_onnx(tmp_path / "model.onnx")
    images = random.integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    for dialect in ("onnxruntime", "openvino", "tensorrt"):
        quantised = next(int8_forms(onnx.load(str(tmp_path / "model.onnx")), images, dialect, lambda _: None))
        assert quantised.layers > 0
        nodes = quantised.model.graph.node
        makers = {output: node.op_type for node in nodes for output in node.output}
        # The input of the network, behind the conversion, may be quantised.
        before = [node for node in nodes if node.output[0].startswith("pixels/") and "Linear" not in node.op_type]
        assert {node.op_type for node in before} >= {"Gather", "Mul", "Sum", "Sub"}
        assert {makers.get(name) for node in before for name in node.input}.isdisjoint({"DequantizeLinear"})


def test_another_image_size_names_the_line_to_change(network, tmp_path):
    network()
    recipe = change(tmp_path, resize_size="8", crop_size="8")
    refused(recipe, "crop_size_differs", f"{recipe.path}:5: [geometry] crop_size", "8x8", "set crop_size = 6")
    recipe = custom(tmp_path, [mean("scores")], {"image": (TensorProto.FLOAT, ["N", 3, 10, 4])}, {"scores": SCORES})
    refused(recipe, "crop_size_differs", "set crop_size = [10, 4]")


@pytest.mark.parametrize(
    ("outputs", "facts"),
    [(3, ["set classes = 3"]), (5, ["set classes = 5", "background"]), (9, ["set classes = 9"])],
)
def test_another_number_of_classes_names_both(network, tmp_path, outputs, facts):
    network()
    weights = numpy_helper.from_array(np.ones((3, outputs), np.float32), "weights")
    nodes = [mean(), helper.make_node("MatMul", ["mean", "weights"], ["scores"])]
    custom(tmp_path, nodes, {"image": IMAGES}, {"scores": (TensorProto.FLOAT, ["N", outputs])}, [weights])
    (tmp_path / "labels.txt").write_text("label\n" * 4)
    recipe = change(tmp_path, classes="4")
    refused(recipe, "classes_differ", f"{recipe.path}:1: classes: is 4", "4 labels", f"{outputs} values", *facts)


def test_an_output_of_several_axes_is_refused(network, tmp_path):
    network()
    nodes = [helper.make_node("Identity", ["image"], ["map"])]
    recipe = custom(tmp_path, nodes, {"image": IMAGES}, {"map": (TensorProto.FLOAT, ["N", 3, SIZE, SIZE])})
    refused(recipe, "output_shape", "map", "[N, 3]")


def test_several_outputs_need_a_name(network, tmp_path):
    network()
    nodes = [
        mean("logits"),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        helper.make_node("Relu", ["image"], ["features"]),
    ]
    outputs = {
        "features": (TensorProto.FLOAT, ["N", 3, SIZE, SIZE]),
        "label": (TensorProto.INT64, ["N"]),
        "scores": SCORES,
        "logits": SCORES,
    }
    recipe = custom(tmp_path, nodes, {"image": IMAGES}, outputs)
    line = 'output_name = "scores" or output_name = "logits"'
    message = refused(recipe, "several_outputs", "features", "label", str(recipe.path), line)
    assert 'output_name = "features"' not in message

    path = recipe.path
    good = path.read_text()
    pixels = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    for name, kind in (("logits", "logits"), ("scores", "probabilities")):
        path.write_text(good.replace('output = "logits"', f'output = "{kind}"\noutput_name = "{name}"'))
        made = OnnxNetwork(load_recipe(path))
        logits = made.reference(pixels)
        assert np.allclose(logits - logits[:, :1], expected(pixels) - expected(pixels)[:, :1], atol=1e-4)
        made.export_onnx(tmp_path / "model.onnx")
        graph = onnx.load(str(tmp_path / "model.onnx")).graph
        assert [output.name for output in graph.output] == ["output__0"]
        # The branches of the other outputs are gone.
        assert {node.op_type for node in graph.node}.isdisjoint({"ArgMax", "Relu"})
        (found,) = ort.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"input__0": pixels})
        assert np.allclose(found, logits, atol=1e-5)

    path.write_text(good + 'output_name = "score"\n')
    refused(load_recipe(path), "unknown_output", f"{path}:14: [source] output_name", "did you mean scores?", "logits")
    path.write_text(good + 'output_name = "label"\n')
    refused(load_recipe(path), "output_type", "label", "int64")


def test_several_outputs_of_which_none_fits(network, tmp_path):
    network()
    nodes = [helper.make_node("Relu", ["image"], ["a"]), helper.make_node("Neg", ["image"], ["b"])]
    recipe = custom(tmp_path, nodes, {"image": IMAGES}, {"a": IMAGES, "b": IMAGES})
    message = refused(recipe, "several_outputs", f"[N, {CLASSES}]")
    assert "output_name" not in message


def test_a_second_input_that_the_output_needs_is_refused(network, tmp_path):
    network()
    nodes = [mean(), helper.make_node("Mul", ["mean", "temperature"], ["scores"])]
    inputs = {"image": IMAGES, "temperature": (TensorProto.FLOAT, [1])}
    recipe = custom(tmp_path, nodes, inputs, {"scores": SCORES})
    refused(recipe, "several_inputs", "image (float[N,3,6,6])", "temperature (float[1])", "constants")


def test_a_second_input_that_the_output_does_not_need_is_dropped(network, tmp_path):
    network()
    nodes = [mean("scores"), helper.make_node("Neg", ["other"], ["unused"])]
    inputs = {"other": (TensorProto.FLOAT, ["M", 2]), "image": IMAGES}
    path = custom(tmp_path, nodes, inputs, {"unused": (TensorProto.FLOAT, ["M", 2]), "scores": SCORES}).path
    path.write_text(path.read_text() + 'output_name = "scores"\n')
    made = OnnxNetwork(load_recipe(path))
    pixels = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    assert np.allclose(made.reference(pixels), expected(pixels), atol=1e-5)
    made.export_onnx(tmp_path / "model.onnx")
    (logits,) = ort.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"input__0": pixels})
    assert np.allclose(logits, expected(pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "stated", "reason", "facts"),
    [
        (["N", 1, 28, 28], None, "gray_network", ["one channel", 'color = "GRAY"']),
        (["N", 28, 28, 1], None, "gray_network", ["one channel", 'color = "GRAY"']),
        (["N", "H", "W", 1], None, "gray_network", []),
        (["N", 1, "H", "W"], "NCHW", "gray_network", []),
        (["N", 4, 28, 28], None, "channels_differ", ["float[N,4,28,28]", "three channels"]),
        (["N", 28, 28, 4], "NHWC", "channels_differ", []),
        (["N", "a", "b", "c"], None, "layout_unknown", ['layout = "NCHW"', 'layout = "NHWC"', "mine.toml"]),
        (["N", 3, "b", 3], None, "layout_unknown", []),
        (["N", 3, 6, 6], "NHWC", "layout_differs", ["mine.toml:14: [source] layout", 'set layout = "NCHW"']),
        (["N", 6, 6, 3], "NCHW", "layout_differs", ['set layout = "NHWC"']),
        ([3, 6, 6], None, "input_shape", ["float[3,6,6]", "four axes"]),
        (None, None, "input_shape", ["unknown shape"]),
    ],
)
def test_an_input_that_is_not_a_batch_of_rgb_images(network, tmp_path, shape, stated, reason, facts):
    network()
    axes = None if shape is None else list(range(1, len(shape)))
    node = helper.make_node("ReduceMax", ["image"], ["scores"], axes=axes, keepdims=0)
    recipe = custom(tmp_path, [node], {"image": (TensorProto.FLOAT, shape)}, {"scores": (TensorProto.FLOAT, None)})
    if stated is not None:
        recipe.path.write_text(recipe.path.read_text() + f'layout = "{stated}"\n')
    refused(load_recipe(recipe.path), reason, *facts)


def test_a_stated_layout_settles_an_open_shape(network, tmp_path):
    network()
    path = custom(
        tmp_path, [mean("scores")], {"image": (TensorProto.FLOAT, ["N", "a", "b", "c"])}, {"scores": SCORES}
    ).path
    path.write_text(path.read_text() + 'layout = "NCHW"\n')
    pixels = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    assert np.allclose(OnnxNetwork(load_recipe(path)).reference(pixels), expected(pixels), atol=1e-5)


def test_an_open_channel_axis_is_the_one_that_can_have_three(network, tmp_path):
    network()
    shape = ["N", "channels", SIZE, SIZE]
    recipe = custom(tmp_path, [mean("scores")], {"image": (TensorProto.FLOAT, shape)}, {"scores": SCORES})
    pixels = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    assert np.allclose(OnnxNetwork(recipe).reference(pixels), expected(pixels), atol=1e-5)


@pytest.mark.parametrize("element", [TensorProto.UINT8, TensorProto.INT32])
def test_an_input_of_integers_is_refused(network, tmp_path, element):
    network()
    nodes = [helper.make_node("Cast", ["pixels"], ["image"], to=TensorProto.FLOAT), mean("scores")]
    recipe = custom(tmp_path, nodes, {"pixels": (element, IMAGES[1])}, {"scores": SCORES})
    refused(recipe, "input_type", "pixels", "int", "float32, float16 or float64", "mean and std")


def test_a_file_that_is_not_an_onnx_model_is_refused(network, tmp_path):
    network()
    recipe = load_recipe(tmp_path / "mine.toml")
    (tmp_path / "net.onnx").write_bytes(b"garbage")
    refused(recipe, "network_not_loaded", "net.onnx")


def test_a_batch_fixed_inside_the_graph_is_refused_with_the_way_to_export(network, tmp_path):
    network(batch=1)
    model = onnx.load(str(tmp_path / "net.onnx"))
    # A reshape to one row, as exports without a dynamic batch have it.
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["mean", "shape"], ["output__0"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, CLASSES], np.int64), "shape"))
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(NetworkError) as caught:
        OnnxNetwork(load_recipe(tmp_path / "mine.toml")).export_onnx(tmp_path / "model.onnx")
    assert caught.value.reason == "static_batch"
    assert "dynamic_shapes" in str(caught.value)


def test_the_file_has_no_traces_of_the_machine(network, tmp_path):
    made = network()
    made._model.graph.node[0].doc_string = "/home/somebody/train.py"
    made.export_onnx(tmp_path / "model.onnx")
    assert b"somebody" not in (tmp_path / "model.onnx").read_bytes()
