"""A user's own ONNX file gets the contract around it, whatever its layout, type, batch and kind of output."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from jpeg_build.errors import NetworkError
from jpeg_build.onnx_network import OnnxNetwork
from jpeg_build.recipe import load_recipe
from onnx import TensorProto, helper, numpy_helper

SIZE = 6
CLASSES = 3
FLOATS = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "double": TensorProto.DOUBLE}


def make_onnx(
    path, *, layout="NCHW", kind="float", batch="N", probabilities=False, extra_axes=False, size=SIZE, opset=17
):
    """A network that averages each channel, so that its logits are the normalised mean colour."""
    shape = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    element = FLOATS[kind]
    # Named as the contract's own tensors, which must not collide.
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
@pytest.mark.parametrize("batch", ["N", 1])
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


def test_a_recipe_that_mistakes_the_kind_of_output_is_refused(network, tmp_path):
    pixels = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    network(output="probabilities")
    path = tmp_path / "mine.toml"
    path.write_text(path.read_text().replace('output = "probabilities"', 'output = "logits"'))
    with pytest.raises(NetworkError, match='say output = "probabilities"'):
        OnnxNetwork(load_recipe(path)).reference(pixels)
    network(output="logits")
    path.write_text(path.read_text().replace('output = "logits"', 'output = "probabilities"'))
    with pytest.raises(NetworkError, match='say output = "logits"'):
        OnnxNetwork(load_recipe(path)).reference(pixels)


def test_what_does_not_fit_the_recipe_is_named(network, tmp_path):
    with pytest.raises(NetworkError, match=r"float\[N,3,6,6\], but .* crop_size makes images of 8x8 pixels: mend"):
        network(size=8, onnx_size=SIZE)


def test_another_number_of_classes_is_named(network):
    pixels = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(NetworkError, match=r"float\[N,3\] is not one value for each of the recipe's 4 classes"):
        network(classes=4).reference(pixels)


def test_an_unclear_layout_must_be_stated(tmp_path, network):
    with pytest.raises(NetworkError, match=r"say layout"):
        network(layout="NHWC").__class__(_with_input_shape(tmp_path, ["N", "a", "b", "c"]))
    with pytest.raises(NetworkError, match=r'which is not layout = "NHWC"'):
        network(more='layout = "NHWC"\n')
    network(more='layout = "NCHW"\n')


def _with_input_shape(folder, shape):
    model = onnx.load(str(folder / "net.onnx"))
    for dim, value in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.Clear()
        dim.dim_param = value
    onnx.save(model, str(folder / "net.onnx"))
    return load_recipe(folder / "mine.toml")


def test_a_file_that_is_no_network_of_images_is_refused(network, tmp_path):
    network()
    recipe = load_recipe(tmp_path / "mine.toml")
    (tmp_path / "net.onnx").write_bytes(b"garbage")
    with pytest.raises(NetworkError, match=r"net\.onnx: cannot be loaded as an ONNX model"):
        OnnxNetwork(recipe)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "net", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(NetworkError, match=r"one input, the image; it has a, b"):
        OnnxNetwork(recipe)


def test_a_batch_that_is_baked_in_is_refused_with_the_way_out(network, tmp_path):
    network(batch=1)
    model = onnx.load(str(tmp_path / "net.onnx"))
    # A reshape to one row of numbers, as careless exports have it.
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["mean", "shape"], ["output__0"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, CLASSES], np.int64), "shape"))
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(NetworkError, match=r"cannot be given a dynamic batch .*export it with a dynamic batch"):
        OnnxNetwork(load_recipe(tmp_path / "mine.toml")).export_onnx(tmp_path / "model.onnx")


def test_nothing_of_the_machine_is_left_in_the_file(network, tmp_path):
    made = network()
    made._model.graph.node[0].doc_string = "/home/somebody/train.py"
    made.export_onnx(tmp_path / "model.onnx")
    assert b"somebody" not in (tmp_path / "model.onnx").read_bytes()
