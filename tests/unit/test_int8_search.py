"""What a build tries when int8 is outside its tolerance: other ranges, then layers in float32; and what it reports."""

import json

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_build.build import candidates
from jpeg_build.checks.parity import TOLERANCES, Outputs, comparisons, measure
from jpeg_build.cli import main
from jpeg_build.emitters import int8_search
from jpeg_build.emitters.int8_search import Int8Search, Verdict
from jpeg_build.errors import ParityError
from jpeg_build.graphs.int8_forms import int8_forms
from jpeg_build.graphs.onnx_values import logits
from jpeg_build.photos import ENOUGH_TO_CALIBRATE, MOST_HELD_OUT, held_out
from jpeg_contract.report import read_report
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIZE, CHANNELS, CLASSES = 32, 16, 10

RECIPE = """\
classes = 10
labels = "labels.txt"
formats = ["jpeg", "png"]
[geometry]
resize_size = 32
crop_size = 32
[normalisation]
scale = "0..1"
[source]
kind = "onnx"
file = "net.onnx"
output = "logits"
"""


class Network:
    """A chain of layers on an image in [0, 1]; `contract` adds the input of the contract."""

    def __init__(self):
        self.random = np.random.default_rng(1)
        self.nodes, self.weights, self.last = [], [], "image"

    def constant(self, values):
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def node(self, operator, *inputs, **attributes):
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.last, *inputs], [output], name=output, **attributes))
        self.last = output

    def mixing(self, ins, outs):
        return self.random.normal(0, np.sqrt(2 / ins), (outs, ins, 1, 1))

    def conv(self, weights):
        self.node("Conv", self.constant(weights), self.constant(self.random.normal(0, 0.1, len(weights))))

    def classify(self, gain=3.0):
        self.node("GlobalAveragePool")
        self.node("Flatten")
        weights = self.random.normal(0, gain, (CLASSES, CHANNELS))
        self.node("Gemm", self.constant(weights), self.constant(np.zeros(CLASSES)), transB=1)

    def model(self):
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["N", CLASSES])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def contract(self):
        before = [
            helper.make_node("Cast", ["input__0"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", self.constant(1 / 255)], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["image"], perm=[0, 3, 1, 2]),
        ]
        self.nodes[-1].output[0] = "output__0"
        graph = helper.make_graph(
            before + self.nodes,
            "net",
            [helper.make_tensor_value_info("input__0", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
            [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, ["N", CLASSES])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_a_rare_value():
    """White is a thousand times everything else in front of a sigmoid, which makes it 1."""
    network = Network()
    first = network.mixing(3, CHANNELS)
    first[0] = 1
    network.node("Conv", network.constant(first), network.constant([-2.7, *[0.1] * (CHANNELS - 1)]))
    network.node("Relu")
    second = network.mixing(CHANNELS, CHANNELS)
    second[:, 0], second[0, 0] = 0, 1e5
    network.conv(second)
    network.node("Sigmoid")
    network.classify()
    return network


def with_unlike_channels(at):
    """In front of some of twelve layers, one channel is ten thousand times the others; the layer divides it again."""
    network = Network()
    network.conv(network.mixing(3, CHANNELS))
    network.node("Relu")
    for index in range(12):
        weights = network.mixing(CHANNELS, CHANNELS)
        if index in at:
            weights[:, 0] *= 1e-4
        if index + 1 in at:
            weights[0] *= 1e4
        network.conv(weights)
        network.node("Relu")
    network.classify()
    return network


DEEP, EVERYWHERE = (8,), range(1, 12)


@pytest.fixture
def images():
    """Smooth images, with one white pixel each."""
    fields = np.random.default_rng(5).integers(0, 200, (24, 4, 4, 3))
    large = np.kron(fields, np.ones((1, SIZE // 4, SIZE // 4, 1))).astype(np.uint8)
    large[:, 0, 0] = 255
    return large


def searched(network, images, dialect="onnxruntime"):
    """Search an int8 form of a network; return it, the lines of progress, and the search."""
    model = network.contract()
    reference = logits(model, images)

    def judge(found):
        parity = measure(reference, Outputs((1,), (found,)), photos=len(images), precision="int8")
        compared = comparisons(parity, "int8")
        faults = "; ".join(each.fault for each in compared if not each.within)
        return Verdict(parity, faults, max(each.excess for each in compared))

    lines: list[str] = []
    search = Int8Search(images, "photos", judge)
    form = search.next_form(lambda: int8_forms(model, images, dialect, lambda _: None), lines.append)
    return form, lines, search


def test_a_rare_value_is_clipped_by_a_percentile(images):
    form, lines, search = searched(with_a_rare_value(), images)
    assert form.strategy.startswith("percentile")
    tries = search.report(form, len(images)).tries
    assert [each.strategy for each in tries[:3]] == ["mean ranges", "full ranges", "percentile 99.99"]
    assert all(each.fault for each in tries[:-1])
    assert not tries[-1].fault
    assert tries[0].mean_difference > 0.025 > tries[-1].mean_difference
    assert len(lines) == len(tries)
    assert form.strategy in search.note(form)


@pytest.mark.parametrize("dialect", ["onnxruntime", "openvino", "tensorrt"])
def test_only_layers_in_float32_help_where_channels_are_unlike(images, dialect):
    network = with_unlike_channels(DEEP)
    form, _, search = searched(network, images, dialect)
    report = search.report(form, len(images))
    ranges = [each for each in report.tries if "sensitive layers" not in each.strategy]
    assert [each.strategy for each in ranges] == ["mean ranges", "full ranges", "percentile 99.99", "percentile 99.9"]
    assert all(each.fault for each in ranges)
    assert form.strategy.endswith("sensitive layers")
    assert 1 <= len(form.kept) - ranges[0].layers_in_float32 <= 2
    # The layer that reads the tensor, or also the one that computes it.
    layers = [node.name for node in network.nodes if node.op_type in ("Conv", "Gemm")]
    assert layers[1 + DEEP[0]] in form.kept
    assert list(report.layers_in_float32) == list(form.kept)
    assert report.tries[-1].layers_in_int8 == len(layers) - len(form.kept)
    onnx.checker.check_model(form.model, full_check=True)
    for name in form.kept:
        (node,) = (node for node in form.model.graph.node if node.name == name)
        producers = {output: each.op_type for each in form.model.graph.node for output in each.output}
        assert "DequantizeLinear" not in {producers.get(each) for each in node.input[1:]}


def test_a_network_that_no_form_fits_is_refused_with_the_closest(images):
    with pytest.raises(ParityError) as caught:
        searched(with_unlike_channels(EVERYWHERE), images)
    assert caught.value.reason == "parity"
    # Four ranges, and 1, 2 and 4 of the layers behind the first ones.
    assert "7 forms were tried on 24 photos" in str(caught.value)
    assert "closest" in str(caught.value)


def test_the_search_ends_after_its_time(images, monkeypatch):
    monkeypatch.setattr(int8_search, "MOST_SECONDS", -1)
    with pytest.raises(ParityError, match="1 forms were tried"):
        searched(with_unlike_channels(EVERYWHERE), images)


def test_a_form_that_fails_as_it_is_served_is_followed_by_others_up_to_three(images):
    model = with_unlike_channels(()).contract()
    verdict = Verdict(
        measure(logits(model, images), Outputs((1,), (logits(model, images),)), photos=24, precision="int8"), "", 0.0
    )
    search = Int8Search(images, "photos", lambda _: verdict)
    found = []
    for more in (True, True, False):
        found.append(search.next_form(lambda: int8_forms(model, images, "openvino", lambda _: None), lambda _: None))
        assert search.goes_on_after(ParityError("wrong kernel")) is more
    assert [form.strategy for form in found] == ["mean ranges", "full ranges", "percentile 99.99"]
    assert all("wrong kernel" in each.fault for each in search.report(found[-1], 24).tries)


# Builds


@pytest.fixture
def folder(tmp_path, images):
    (tmp_path / "mine.toml").write_text(RECIPE)
    (tmp_path / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def build(folder, *options):
    return main([str(folder / "mine.toml"), "--model-repository", str(folder / "models"), *options])


def test_a_build_reports_what_it_tried(folder, capsys):
    onnx.save(with_a_rare_value().model(), str(folder / "net.onnx"))
    assert build(folder, "--precision", "int8", "--photos", str(folder / "photos")) == 0
    printed = capsys.readouterr()
    report = read_report(folder / "models" / "classifier_onnx" / "1" / "model.onnx")
    found = report.quantisation
    assert found is not None
    assert found.strategy.startswith("percentile")
    assert (found.calibration_images, found.compared_images, found.compared_on) == (24, 24, "photos")
    assert len(found.tries) >= 3
    for each in found.tries:
        assert each.strategy in printed.err
    assert f"{len(found.tries)} forms were tried" in printed.err
    assert main(["inspect", "onnx", "--model-repository", str(folder / "models")]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["quantisation"] == msgspec.to_builtins(found)


def test_a_build_of_which_no_form_passes_changes_nothing(folder, capsys):
    onnx.save(with_unlike_channels(EVERYWHERE).model(), str(folder / "net.onnx"))
    assert build(folder) == 0
    before = {path: path.read_bytes() for path in (folder / "models").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert build(folder, "--precision", "int8", "--photos", str(folder / "photos")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("[parity]")
    assert "The closest has" in error
    assert "--calibration DIR" in error
    assert {path: path.read_bytes() for path in (folder / "models").rglob("*") if path.is_file()} == before


# The images of the comparison


@given(st.integers(1, 1000))
def test_images_to_compare_on_are_held_out_where_enough_remain(count):
    images = np.zeros((count, 1, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(count), 256)
    divided = held_out(images)
    if divided is None:
        assert count - min(MOST_HELD_OUT, count // 5) < ENOUGH_TO_CALIBRATE
        return
    calibration, compared = (
        (each[:, 0, 0, 0] * 256 + each[:, 0, 1, 0]).tolist()
        for each in (divided[0].astype(int), divided[1].astype(int))
    )
    assert len(calibration) >= ENOUGH_TO_CALIBRATE
    assert len(compared) == min(MOST_HELD_OUT, count // 5)
    assert sorted(calibration + compared) == list(range(count))


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (24, [], (24, 24, "calibration photos")),
        (125, [], (100, 25, "held-out calibration photos")),
        (125, ["--photos", "photos"], (125, 24, "photos")),
    ],
)
def test_int8_is_compared_on_photos_of_its_own_kind(folder, capsys, monkeypatch, count, options, expected):
    onnx.save(with_unlike_channels(()).model(), str(folder / "net.onnx"))
    (folder / "own").mkdir()
    for index in range(count):
        image = np.random.default_rng(index).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(image).resize((SIZE, SIZE)).save(folder / "own" / f"{index}.png")
    monkeypatch.chdir(folder)
    assert build(folder, "--precision", "int8", "--calibration", "own", *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    found = report["quantisation"]
    assert (found["calibration_images"], found["compared_images"], found["compared_on"]) == expected
    assert report["parity"]["photos"] == expected[1]
    assert main(["verify", "onnx", "--model-repository", "models", "--recipe", "mine.toml", "--photos", "own"]) == 0
    # The worst of many photos has a bound of its own.
    assert ("in the worst 5 % of the photos (0.3 allowed)" in capsys.readouterr().out) == (count >= 20)


@pytest.mark.parametrize(("fastest", "photos"), [("int8", 24), ("fp32", 7)])
def test_auto_compares_only_int8_on_calibration_photos(folder, capsys, monkeypatch, fastest, photos):
    onnx.save(with_unlike_channels(()).model(), str(folder / "net.onnx"))
    monkeypatch.setattr(
        candidates, "compare_speed", lambda opened, _: {name: float(name == fastest) for name in opened}
    )
    assert build(folder, "--precision", "auto", "--calibration", str(folder / "photos"), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["precision"], report["parity"]["photos"]) == (fastest, photos)
    assert (report["quantisation"] is not None) == (fastest == "int8")


def test_verify_names_the_photos_of_the_calibration(folder, capsys, monkeypatch):
    onnx.save(with_unlike_channels(()).model(), str(folder / "net.onnx"))
    assert build(folder, "--precision", "int8", "--calibration", str(folder / "photos")) == 0
    call = ["verify", "onnx", "--model-repository", str(folder / "models"), "--recipe", str(folder / "mine.toml")]
    monkeypatch.setitem(TOLERANCES, "int8", msgspec.structs.replace(TOLERANCES["int8"], mean_difference=0.0))
    capsys.readouterr()
    assert main(call) == 1
    assert "name the folder of --calibration with --photos DIR [parity]" in capsys.readouterr().err
    assert main([*call, "--photos", str(folder / "photos")]) == 1
    assert "--calibration" not in capsys.readouterr().err
