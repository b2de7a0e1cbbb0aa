import dataclasses
import hashlib
from pathlib import Path

import msgspec
import onnx
import pytest
from jpeg_build.errors import RecipeError
from jpeg_build.normalisation import Normalisation
from jpeg_build.recipe import RECIPES, TensorflowNetwork, find_recipe, load_recipe
from jpeg_build.sources import KerasSource, OnnxSource, SavedModelSource, TorchvisionSource
from onnx import TensorProto, helper
from support import run_module

GOOD = """\
classes = 2
labels = "labels.txt"

[geometry]
resize_size = 40
crop_size = [32, 30]

[normalisation]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
color = "BGR"

[source]
kind = "onnx"
file = "net.onnx"
output = "probabilities"
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "net.onnx").write_bytes(b"not read here")

    def write(text: str) -> Path:
        path: Path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def refused(path, reason, line, *facts):
    """Load a recipe, which fails; check the reason code, the line, and facts of the message."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert caught.value.reason == reason, message
    for fact in facts:
        assert fact in message
    return message


def test_a_recipe_of_an_onnx_file(write, tmp_path):
    recipe = load_recipe(write(GOOD))
    assert recipe.name == "mine"
    assert recipe.argument == str(tmp_path / "mine.toml")
    assert recipe.classes == 2
    assert recipe.labels == ("cat", "dog")
    assert recipe.geometry.resize_size == 40
    assert recipe.geometry.crop_size == (32, 30)
    assert recipe.exif_orientation
    assert recipe.source == OnnxSource(
        tmp_path / "net.onnx", hashlib.sha256(b"not read here").hexdigest(), "probabilities"
    )
    named = load_recipe(write(GOOD + 'layout = "NHWC"\noutput_name = "scores"\n')).source
    assert isinstance(named, OnnxSource)
    assert (named.layout, named.output_name) == ("NHWC", "scores")


def test_a_byte_order_mark_is_not_part_of_the_first_key_or_label(write, tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "labels.txt").write_bytes(mark + b"cat\r\ndog\r\n")
    path = write(GOOD)
    plain = load_recipe(path)
    path.write_bytes(mark + GOOD.replace("\n", "\r\n").encode())
    assert load_recipe(path) == plain
    assert plain.labels == ("cat", "dog")
    path.write_bytes(mark + GOOD.replace("crop_size", "crop_sise").encode())
    refused(path, "unknown_key", 6)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_project_recipes_have_torchvisions_labels_and_digests(path):
    import torchvision

    recipe = load_recipe(path)
    assert recipe.argument == path.stem
    assert isinstance(recipe.source, TorchvisionSource)
    weights = torchvision.models.get_model_weights(recipe.source.network)[recipe.source.weights]
    assert recipe.classes == len(weights.meta["categories"])
    assert list(recipe.labels or ()) == weights.meta["categories"]
    if recipe.source.sha256 is not None:
        # torchvision puts the first digits of the hash into the file's name.
        assert recipe.source.sha256[:8] in weights.url


@pytest.mark.parametrize(
    ("old", "new", "reason", "line", "facts"),
    [
        ("classes = 2", "classes = 1", "invalid_value", 1, ["classes: is 1", "at least 2"]),
        ("classes = 2", 'classes = "2"', "invalid_value", 1, ['classes: is "2"', "integer"]),
        ("classes = 2", "classes = true", "invalid_value", 1, ["classes: is true"]),
        ("classes = 2\n", "", "missing_key", 1, ["classes is missing", "integer"]),
        ("classes = 2", "classes = 3", "classes_differ", 2, ["labels.txt has 2 labels", "classes is 3"]),
        ('labels = "labels.txt"', 'labels = "gone.txt"', "invalid_labels", 2, ["labels:", "gone.txt"]),
        ('labels = "labels.txt"', 'labels = ["cat", "dog"]', "invalid_value", 2, ["labels:", "text file"]),
        ('labels = "labels.txt"', 'labels = "weights"', "invalid_recipe", 2, ["labels:", "torchvision", "text file"]),
        ("crop_size = [32, 30]", "crop_size = 48", "invalid_geometry", 6, ["[geometry] crop_size:", "fit"]),
        ("crop_size = [32, 30]", "crop_size = [32]", "invalid_value", 6, ["crop_size: is [32]", "[height, width]"]),
        ("crop_size = [32, 30]", "crop_size = 0", "invalid_geometry", 6, ["[geometry] crop_size:", "at least 1"]),
        ("crop_size = [32, 30]", "crop_size = true", "invalid_value", 6, ["crop_size: is true"]),
        ("crop_size = [32, 30]", "", "missing_key", 4, ["[geometry] crop_size is missing", "number of pixels"]),
        (
            "crop_size = [32, 30]",
            "crop_size = 8\ninterpolation = 'bicubic'\nantialias = false",
            "invalid_geometry",
            8,
            ["antialias: can be false with nearest"],
        ),
        ("resize_size = 40", 'resize_size = 40\ninterpolation = "cubic"', "invalid_value", 6, ['"cubic"', '"bicubic"']),
        ("resize_size = 40", "resize_size = 0", "invalid_geometry", 5, ["[geometry] resize_size:", "at least 1"]),
        ("std = [0.5, 0.5, 0.5]", "std = [inf, 0.5, 0.5]", "invalid_value", 10, ["[normalisation] std:"]),
        ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.0, 0.5]", "invalid_value", 10, ["[normalisation] std:"]),
        ("mean = [0.5, 0.5, 0.5]", "mean = [nan, 0.5, 0.5]", "invalid_value", 9, ["[normalisation] mean:"]),
        ("mean = [0.5, 0.5, 0.5]", "mean = [123, 116, 103]", "invalid_value", 9, ["divide mean and std by 255"]),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.5]", "invalid_value", 9, ["three numbers"]),
        ("mean = [0.5, 0.5, 0.5]", "mean = 0.5", "invalid_value", 9, ["three numbers"]),
        ('color = "BGR"', 'color = "GRB"', "invalid_value", 11, ['"RGB", "BGR"']),
        ('kind = "onnx"', 'kind = "jax"', "invalid_value", 14, ['"torchvision", "onnx", "keras", "saved_model"']),
        ('kind = "onnx"\n', "", "missing_key", 13, ["[source] kind is missing", '"torchvision"']),
        ('file = "net.onnx"', 'file = "gone.onnx"', "network_not_found", 15, ["[source] file:", "gone.onnx"]),
        ('output = "probabilities"', "", "missing_key", 13, ["[source] output is missing", '"logits"']),
        ('output = "probabilities"', 'output = "scores"', "invalid_value", 16, ['"logits", "probabilities"']),
        ("[geometry]", "[geometry", "invalid_toml", 4, []),
        ("[geometry]\nresize_size = 40\ncrop_size = [32, 30]", "geometry = 3", "invalid_value", 4, ["a table"]),
    ],
)
def test_a_fault_is_reported_with_its_line(write, old, new, reason, line, facts):
    assert old in GOOD
    refused(write(GOOD.replace(old, new)), reason, line, *facts)


@pytest.mark.parametrize(
    ("old", "new", "line", "facts"),
    [
        # A misspelt key that is needed is not reported as missing.
        ("crop_size = [32, 30]", "crop_sise = 32", 6, ["[geometry] crop_sise", "did you mean crop_size?"]),
        ("classes = 2", "clases = 2", 1, ["clases", "did you mean classes?"]),
        ('kind = "onnx"', 'knd = "onnx"', 14, ["[source] knd", "did you mean kind?"]),
        ('output = "probabilities"', 'outptu = "probabilities"', 16, ["did you mean output?"]),
        ("[source]", "[sources]", 13, ["sources", "did you mean source?"]),
        ("[normalisation]", "[normalization]", 8, ["normalization", "did you mean normalisation?"]),
        ("resize_size = 40", "resize_size = 40\nantialiasing = true", 6, ["did you mean antialias?"]),
        # In another table than the one that it belongs to.
        ("resize_size = 40", "resize_size = 40\nclasses = 2", 6, ["[geometry] classes", "above the first table"]),
        ("classes = 2", "classes = 2\ncrop_size = 32", 2, ["crop_size", "[geometry]"]),
        ('file = "net.onnx"', 'file = "net.onnx"\nmean = [0, 0, 0]', 16, ["[source] mean", "[normalisation]"]),
        ('file = "net.onnx"', 'file = "net.onnx"\npackage = "x"', 16, ['"torchvision" or "keras"']),
        # Like no other: the keys that there are.
        ("resize_size = 40", "resize_size = 40\nwidth = 3", 6, ["antialias", "crop_size", "interpolation"]),
        ("[geometry]", "[server]\nport = 8000\n[geometry]", 4, ["server", "geometry", "normalisation"]),
    ],
)
def test_an_unknown_key_is_reported_before_a_missing_one(write, old, new, line, facts):
    assert old in GOOD
    message = refused(write(GOOD.replace(old, new)), "unknown_key", line, *facts)
    assert "missing" not in message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("classes = 2\nlabels = 'labels.txt'\ngeometry = {resize_size = 40, crop = 3}\n", 3),
        ("classes = 2\nlabels = 'labels.txt'\ngeometry.resize_size = 40\ngeometry.crop = 3\n", 4),
    ],
)
def test_lines_of_tables_without_a_header(write, text, line):
    refused(write(text + GOOD[GOOD.index("[normalisation]") :]), "unknown_key", line, "[geometry] crop")


def test_a_file_that_is_not_utf_8_is_not_a_recipe(write):
    path = write("")
    path.write_bytes("classes = 2".encode("utf-16"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.reason == "invalid_toml"
    assert "UTF-8" in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "labels", "outputs", "line", "remedy"),
    [
        (3, 2, 2, 1, "set classes = 2"),
        (2, 3, 2, 2, "give a file with 2 lines"),
        (2, 3, 5, 2, "set classes = 5, and give a file with 5 lines"),
    ],
)
def test_of_classes_labels_and_outputs_the_wrong_one_is_named(write, tmp_path, classes, labels, outputs, line, remedy):
    path = write(GOOD.replace("classes = 2", f"classes = {classes}"))
    (tmp_path / "labels.txt").write_text("label\n" * labels)
    write_onnx(tmp_path / "net.onnx", outputs)
    refused(path, "classes_differ", line, f"has {labels} labels", f"classes is {classes}", f"{outputs} outputs", remedy)


def write_onnx(path, outputs):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 30])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", outputs, 1, 1])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["output"])], "net", [image], [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


TENSORFLOW = (
    GOOD
    + """
[tensorflow]
kind = "keras"
network = "ResNet50"
weights = "net.h5"
mean = [0.1, 0.2, 0.3]
std = [1.0, 1.0, 1.0]
"""
)
NORMALISATION = Normalisation((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "RGB")


@pytest.fixture
def files(tmp_path):
    """The files beside a recipe with a network of TensorFlow."""
    (tmp_path / "net.h5").write_bytes(b"weights")
    (tmp_path / "net" / "variables").mkdir(parents=True)
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "net" / "variables" / "variables.index").write_bytes(b"numbers")
    return tmp_path


def test_a_recipe_without_a_network_for_tensorflow_shows_the_table_to_add(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.tensorflow is None
    with pytest.raises(RecipeError) as caught:
        recipe.tensorflow_network()
    assert caught.value.reason == "no_tensorflow_network"
    assert '[tensorflow] with kind = "keras"' in str(caught.value)


def test_a_network_for_tensorflow_beside_the_other(write, files):
    recipe = load_recipe(write(TENSORFLOW))
    digest = hashlib.sha256(b"weights").hexdigest()
    source = KerasSource("ResNet50", files / "net.h5", None, digest, "logits")
    assert recipe.tensorflow_network() == TensorflowNetwork(source, NORMALISATION)
    assert isinstance(recipe.source, OnnxSource)
    assert recipe.normalisation.color == "BGR"


@pytest.mark.parametrize(
    ("weights", "source"),
    [
        ('weights = "imagenet"', KerasSource("ResNet50", "imagenet", None, None, "logits")),
        (
            f'weights = "in.h5"\npackage = "some-wheel"\nsha256 = "{"ab" * 32}"\noutput = "probabilities"',
            KerasSource("ResNet50", Path("in.h5"), "some-wheel", "ab" * 32, "probabilities"),
        ),
    ],
)
def test_sources_of_keras_weights(write, files, weights, source):
    recipe = load_recipe(write(TENSORFLOW.replace('weights = "net.h5"', weights)))
    assert recipe.tensorflow_network().source == source


def test_a_recipe_with_a_network_of_tensorflow_only(write, files):
    text = GOOD.replace('kind = "onnx"', 'kind = "saved_model"').replace('file = "net.onnx"', 'folder = "net"')
    recipe = load_recipe(write(text))
    network = recipe.tensorflow_network()
    assert network.source == recipe.source
    assert network.normalisation == recipe.normalisation
    assert isinstance(network.source, SavedModelSource)
    assert load_recipe(write(text)).sha256 == recipe.sha256
    named = load_recipe(write(text + 'output_name = "scores"\n'))
    assert isinstance(named.source, SavedModelSource)
    assert named.source.output_name == "scores"
    (files / "net" / "variables" / "variables.index").write_bytes(b"other numbers")
    assert load_recipe(write(text)).sha256 != recipe.sha256


def test_the_network_for_tensorflow_is_part_of_the_identity(write, files):
    without, recipe = load_recipe(write(GOOD)), load_recipe(write(TENSORFLOW))
    assert recipe.sha256 != without.sha256
    assert load_recipe(write(TENSORFLOW.replace("0.1, 0.2", "0.1, 0.1"))).sha256 != recipe.sha256
    (files / "elsewhere.h5").write_bytes(b"weights")
    assert load_recipe(write(TENSORFLOW + "# more\n")).sha256 == recipe.sha256
    (files / "net.h5").write_bytes(b"other weights")
    assert load_recipe(write(TENSORFLOW)).sha256 != recipe.sha256


SAVED_MODEL = 'kind = "saved_model"\nfolder = "net"'


@pytest.mark.parametrize(
    ("old", "new", "reason", "line", "facts"),
    [
        ('kind = "keras"', 'kind = "onnx"', "invalid_value", 19, ["[tensorflow] kind:", '"keras", "saved_model"']),
        ('network = "ResNet50"\n', "", "missing_key", 18, ["[tensorflow] network is missing"]),
        ('weights = "net.h5"', 'weights = "gone.h5"', "network_not_found", 21, ["gone.h5", '"imagenet"']),
        ('weights = "net.h5"', 'weights = "imagenet"\npackage = "x"', "invalid_recipe", 22, ["package:", "imagenet"]),
        ('weights = "net.h5"', 'weights = "net.h5"\nsha256 = "abc"', "invalid_value", 22, ["64 hexadecimal digits"]),
        ('weights = "net.h5"', f'weights = "net.h5"\nsha256 = "{"0" * 64}"', "weights_differ", 22, ["net.h5"]),
        ("mean = [0.1, 0.2, 0.3]\n", "", "missing_key", 18, ["[tensorflow] mean is missing"]),
        ("mean = [0.1, 0.2, 0.3]", "mean = [103, 116, 123]", "invalid_value", 22, ["divide mean and std by 255"]),
        ('kind = "keras"', 'kind = "keras"\ncolour = "BGR"', "unknown_key", 20, ["did you mean color?"]),
        ('kind = "keras"', 'kind = "keras"\nfolder = "net"', "unknown_key", 20, ['"saved_model"']),
        ('kind = "onnx"\nfile = "net.onnx"', SAVED_MODEL, "invalid_recipe", 18, ["[source]", "TensorFlow"]),
        ('kind = "keras"\nnetwork = "ResNet50"\nweights = "net.h5"',
         'kind = "saved_model"\nfolder = "gone"\noutput = "logits"', "network_not_found", 20, ["gone"]),
    ],
)  # fmt: skip
def test_a_fault_in_the_tensorflow_table_is_reported_with_its_line(write, files, old, new, reason, line, facts):
    assert old in TENSORFLOW
    refused(write(TENSORFLOW.replace(old, new)), reason, line, *facts)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_project_recipes_have_a_network_for_tensorflow(path):
    recipe = load_recipe(path)
    normalisation = recipe.tensorflow_network().normalisation
    black, white = ([((value - m) / s) for m, s in zip(normalisation.mean, normalisation.std, strict=True)]
                    for value in (0, 1))  # fmt: skip
    # keras.applications' preprocess_input of black and of white.
    expected = {"mobilenet_v2": ([-1] * 3, [1] * 3),
                "resnet50": ([-103.939, -116.779, -123.68], [151.061, 138.221, 131.32])}[path.stem]  # fmt: skip
    assert black == pytest.approx(expected[0], abs=1e-4)
    assert white == pytest.approx(expected[1], abs=1e-4)
    assert normalisation.color == ("BGR" if path.stem == "resnet50" else "RGB")


def test_the_identity_is_the_content_and_not_its_form(write, tmp_path):
    recipe = load_recipe(write(GOOD))
    assert load_recipe(write("# a comment\n" + GOOD)).sha256 == recipe.sha256
    assert load_recipe(write(GOOD.replace("0.5, 0.5, 0.5", "0.5, 0.5, 0.4", 1))).sha256 != recipe.sha256
    assert load_recipe(write(GOOD + 'output_name = "scores"\n')).sha256 != recipe.sha256
    (tmp_path / "labels.txt").write_text("cat\ncow\n")
    assert load_recipe(write(GOOD)).sha256 != recipe.sha256
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "net.onnx").write_bytes(b"other")
    assert load_recipe(write(GOOD)).sha256 != recipe.sha256
    assert dataclasses.replace(recipe, path=Path("elsewhere")).sha256 == recipe.sha256


def test_a_name_that_is_not_a_recipe_gets_the_list():
    with pytest.raises(RecipeError) as caught:
        find_recipe("mobilenet_v3")
    assert caught.value.reason == "recipe_not_found"
    assert "did you mean mobilenet_v2?" in str(caught.value)
    assert "mobilenet_v2, resnet50" in str(caught.value)
    assert find_recipe("resnet50").name == "resnet50.toml"
    with pytest.raises(RecipeError) as caught:
        find_recipe("gone.toml")
    assert caught.value.reason == "recipe_not_found"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("mine.onnx", []),
        ("mine.pt", ["--checkpoint"]),
        ("mine.pth", ["--checkpoint"]),
        ("mine.ckpt", ["--checkpoint"]),
        ("mine.safetensors", ["--checkpoint", "torch.save"]),
        ("mine.h5", ["--backend tf_trt"]),
        ("mine.keras", ["--backend tf_trt", "export("]),
        ("mine.engine", ["ONNX file"]),
        ("mine.plan", ["ONNX file"]),
        ("mine.xml", ["ONNX file"]),
        ("mine", ["--backend tf_trt"]),
    ],
)
def test_a_network_given_as_recipe_gets_a_recipe_to_start_from(tmp_path, name, facts):
    if name == "mine":
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"graph")
    else:
        (tmp_path / name).write_bytes(b"network")
    with pytest.raises(RecipeError) as caught:
        find_recipe(str(tmp_path / name))
    message = str(caught.value)
    assert caught.value.reason == "not_a_recipe"
    assert str(tmp_path / "mine.toml") in message
    for fact in facts:
        assert fact in message
    # The recipe in the message can be read, once its files are there: four blocks behind the first sentence.
    text = "\n\n".join(message.split("\n\n")[1:5])
    tables = msgspec.toml.decode(text)
    (tmp_path / "labels.txt").write_text("label\n" * tables["classes"])
    (tmp_path / "mine.onnx").write_bytes(b"network")
    (tmp_path / "mine").mkdir(exist_ok=True)
    (tmp_path / "mine" / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "mine.toml").write_text(text)
    recipe = load_recipe(tmp_path / "mine.toml")
    assert recipe.geometry.crop_size == (224, 224)


def test_the_command_reports_the_fault_on_stderr_and_exits_2(write):
    done = run_module("jpeg_build", write(GOOD.replace("classes = 2", "classes = 3")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "mine.toml:2: labels" in done.stderr
