import dataclasses
import hashlib
import re
from pathlib import Path

import onnx
import pytest
from jpeg_build.errors import RecipeError
from jpeg_build.init.facts import Facts
from jpeg_build.recipe.keys import KINDS, TABLES
from jpeg_build.recipe.normalisation import Normalisation
from jpeg_build.recipe.recipe import TensorflowNetwork, find_recipe, load_recipe
from jpeg_build.recipe.sources import (
    HuggingFaceSource,
    KerasSource,
    ModuleSource,
    OnnxSource,
    SavedModelSource,
    TimmSource,
    TorchSource,
    TorchvisionSource,
    UltralyticsSource,
)
from jpeg_build.recipe.table import RECIPES
from jpeg_contract.remedies import PROJECT_RECIPES, build_command
from onnx import TensorProto, helper
from support import ROOT, run_module

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
        ("classes = 2", "classes = 0", "invalid_value", 1, ["classes: is 0", "at least 1"]),
        ("classes = 2", "classes = 1", "invalid_value", 1, ["classes: is 1", 'output = "sigmoid"', "classes = 2"]),
        ("classes = 2", 'classes = "2"', "invalid_value", 1, ['classes: is "2"', "integer"]),
        ("classes = 2", "classes = true", "invalid_value", 1, ["classes: is true"]),
        ("classes = 2\n", "", "missing_key", 1, ["classes is missing", "integer"]),
        ("classes = 2", "classes = 3", "classes_differ", 2, ["labels.txt has 2 labels", "classes is 3"]),
        ('labels = "labels.txt"', 'labels = "gone.txt"', "invalid_labels", 2, ["labels:", "gone.txt"]),
        ('labels = "labels.txt"', 'labels = ["cat", "dog"]', "invalid_value", 2, ["labels:", "text file"]),
        ('labels = "labels.txt"', 'labels = "weights"', "invalid_recipe", 2, ["labels:", "text file"]),
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
        ("mean = [0.5, 0.5, 0.5]", "mean = [123, 116, 103]", "invalid_value", 9, ['scale = "0..255"']),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.5]", "invalid_value", 9, ["three numbers"]),
        ("mean = [0.5, 0.5, 0.5]", "mean = []", "invalid_value", 9, ["three numbers"]),
        ("mean = [0.5, 0.5, 0.5]\n", "", "missing_key", 8, ["[normalisation] mean is missing", 'scale = "-1..1"']),
        ("mean = [0.5, 0.5, 0.5]", 'mean = [0, 0, 2]\nscale = "0..1"', "invalid_value", 9, ["in [0, 1]"]),
        ("mean = [0.5, 0.5, 0.5]", 'mean = 300\nscale = "0..255"', "invalid_value", 9, ["in [0, 255]"]),
        ("mean = [0.5, 0.5, 0.5]", 'mean = 0\nscale = "1..-1"', "invalid_value", 10, ["scale:", '"-1..1"']),
        ("mean = [0.5, 0.5, 0.5]", 'mean = 0\nscale = "bytes"', "invalid_value", 10, ['is "bytes"', '"0..255"']),
        ("classes = 2", 'classes = 2\noutput = "relu"', "invalid_value", 2, ['"softmax", "sigmoid"']),
        ("classes = 2", "classes = 2\nthreshold = 1.5", "invalid_value", 2, ["threshold:", "from 0 to 1"]),
        ("classes = 2", 'classes = 2\nformats = ["bmp"]', "invalid_value", 2, ["formats:", '"jpeg"', '"heic"']),
        ("classes = 2", "classes = 2\nformats = []", "invalid_value", 2, ["formats:"]),
        ("classes = 2", 'classes = 2\nformats = ["png"]', "invalid_value", 2, ["formats:", '"jpeg"']),
        ("classes = 2", "classes = 2\nbackground = [0, 0, 256]", "invalid_value", 2, ["background:", "0 to 255"]),
        ("resize_size = 40\n", "", "missing_key", 4, ["resize_size", "crop_percent"]),
        ("resize_size = 40", "resize_size = 40\ncrop_percent = 0.9", "invalid_geometry", 6, ["crop_percent:"]),
        ("resize_size = 40", "crop_percent = 1.5", "invalid_value", 5, ["crop_percent:", "up to 1"]),
        ("resize_size = 40", 'resize_size = 40\nresize_side = "long"', "invalid_value", 6, ['"shorter", "longer"']),
        ("resize_size = 40", 'resize_size = 40\nresize_side = "longer"', "invalid_geometry", 6, ["fill"]),
        ("resize_size = 40", "resize_size = 40\nfill = [0, 0, 300]", "invalid_geometry", 6, ["fill:", "0 to 255"]),
        ("resize_size = 40", "resize_size = 40\nfill = 7", "invalid_value", 6, ["fill:", "three numbers"]),
        ('color = "BGR"', 'color = "GRB"', "invalid_value", 11, ['"RGB", "BGR"']),
        ('kind = "onnx"', 'kind = "jax"', "invalid_value", 14, ['"torch", "onnx", "keras", "saved_model"']),
        ('kind = "onnx"\n', "", "missing_key", 13, ["[source] kind is missing", '"torchvision"', '"timm"']),
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


def changed(write, old, new):
    """Load the recipe with a change."""
    assert old in GOOD
    return load_recipe(write(GOOD.replace(old, new)))


LINES = 'mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\ncolor = "BGR"'


@pytest.mark.parametrize(
    ("lines", "mean", "std", "color"),
    [
        ('scale = "-1..1"', (0.5,) * 3, (0.5,) * 3, "RGB"),
        ('scale = "0..1"', (0,) * 3, (1,) * 3, "RGB"),
        ('scale = "0..255"\ncolor = "BGR"', (0,) * 3, (1 / 255,) * 3, "BGR"),
        ('scale = "0..255"\nmean = [104, 117, 123]', (104 / 255, 117 / 255, 123 / 255), (1 / 255,) * 3, "RGB"),
        ('scale = "0..255"\nmean = 127.5\nstd = 127.5', (0.5,) * 3, (0.5,) * 3, "RGB"),
        ("mean = 0.5\nstd = [0.1, 0.2, 0.3]", (0.5,) * 3, (0.1, 0.2, 0.3), "RGB"),
        ('mean = 0.1307\nstd = 0.3081\ncolor = "GRAY"', (0.1307,), (0.3081,), "GRAY"),
        ('scale = "0..1"\ncolor = "GRAY"', (0,), (1,), "GRAY"),
        # Three numbers: a network of three channels that takes gray images.
        ('mean = [0.4, 0.5, 0.6]\nstd = 0.2\ncolor = "GRAY"', (0.4, 0.5, 0.6), (0.2,) * 3, "GRAY"),
    ],
)
def test_normalisations(write, lines, mean, std, color):
    normalisation = changed(write, LINES, lines).normalisation
    assert normalisation.mean == pytest.approx(mean)
    assert normalisation.std == pytest.approx(std)
    assert normalisation.color == color
    assert normalisation.channels == len(mean)


def test_keys_of_the_geometry(write):
    sized = "resize_size = 40\ncrop_size = [32, 30]"
    # timm: floor(224 / 0.9)
    assert changed(write, sized, "crop_percent = 0.9\ncrop_size = 224").geometry.resize_size == 248
    assert changed(write, sized, "crop_percent = 0.875\ncrop_size = [224, 112]").geometry.resize_size == (256, 128)
    letterbox = 'resize_size = 32\nresize_side = "longer"\nfill = [114, 114, 114]\ncrop_size = 32'
    geometry = changed(write, sized, letterbox).geometry
    assert (geometry.resize_side, geometry.fill) == ("longer", (114, 114, 114))
    padded = changed(write, sized, "resize_size = 20\nfill = [0, 0, 0]\ncrop_size = 32").geometry
    assert (padded.resize_size, padded.crop_size) == (20, (32, 32))


def test_keys_above_the_tables(write, tmp_path):
    lines = (
        'classes = 2\noutput = "sigmoid"\nthreshold = 0.25\nformats = ["png", "jpeg", "png"]\nbackground = [1, 2, 3]'
    )
    recipe = changed(write, "classes = 2", lines)
    assert (recipe.output, recipe.threshold, recipe.formats) == ("sigmoid", 0.25, ("png", "jpeg"))
    assert recipe.background == (1, 2, 3)
    (tmp_path / "labels.txt").write_text("smile\n")
    assert changed(write, "classes = 2", 'classes = 1\noutput = "sigmoid"').labels == ("smile",)


def test_keys_that_came_later_leave_the_digests_of_older_recipes(write):
    """A digest that changes makes `jpeg-serve` refuse what was built before."""
    mobilenet = load_recipe(find_recipe("mobilenet_v2"))
    assert mobilenet.sha256 == "3955a4eef2e0e67102958ed352be074c5cbf7824fc1d7fc1cdda099a6ef55458"
    digest = load_recipe(write(GOOD)).sha256
    defaults = 'classes = 2\noutput = "softmax"\nthreshold = 0.0\nformats = ["jpeg"]'
    assert changed(write, "classes = 2", defaults).sha256 == digest
    assert changed(write, "resize_size = 40", 'resize_size = 40\nresize_side = "shorter"').sha256 == digest
    assert changed(write, LINES, 'scale = "-1..1"\ncolor = "BGR"').sha256 == digest
    for line in ('output = "sigmoid"', "threshold = 0.5", 'formats = ["jpeg", "png"]', "background = [0, 0, 0]"):
        assert changed(write, "classes = 2", f"classes = 2\n{line}").sha256 != digest
    for line in ("fill = [0, 0, 0]", 'crop_rounding = "down"'):
        assert changed(write, "resize_size = 40", f"resize_size = 40\n{line}").sha256 != digest


# Kinds of networks


ONNX_LINES = 'kind = "onnx"\nfile = "net.onnx"\noutput = "probabilities"'


@pytest.fixture
def networks(write, tmp_path):
    """Files for every kind, beside the recipe; and the same above it."""
    for folder in (tmp_path, tmp_path / "sub", tmp_path / "hf"):
        folder.mkdir(exist_ok=True)
        for name in ("w.pth", "net.py", "config.json", "net.keras", "saved_model.pb"):
            (folder / name).write_bytes(name.encode())

    def load(lines):
        return load_recipe(write(GOOD.replace(ONNX_LINES, lines)))

    return load


def digest_of(*names):
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@pytest.mark.parametrize(
    ("lines", "source"),
    [
        ('kind = "torchvision"\nnetwork = "n"\nweights = "W"\ncheckpoint = "w.pth"',
         lambda at: TorchvisionSource("n", "W", digest_of("w.pth"), checkpoint=at / "w.pth")),
        ('kind = "timm"\nnetwork = "n.tag"', lambda at: TimmSource("n.tag", None, None)),
        ('kind = "timm"\nnetwork = "n"\ncheckpoint = "sub/w.pth"\ndiffers_from_weights = true',
         lambda at: TimmSource("n", at / "sub/w.pth", digest_of("w.pth"), True)),
        ('kind = "hugging_face"\nnetwork = "org/name"\nrevision = "v1"',
         lambda at: HuggingFaceSource(None, "org/name", "v1", None)),
        ('kind = "ultralytics"\nfile = "w.pth"', lambda at: UltralyticsSource(at / "w.pth", digest_of("w.pth"))),
        ('kind = "module"\nmodule = "net.py:make"',
         lambda at: ModuleSource(at / "net.py", "make", None, digest_of("net.py"), "logits")),
        ('kind = "module"\nmodule = "sub/net.py:make"\ncheckpoint = "w.pth"\noutput = "probabilities"',
         lambda at: ModuleSource(
             at / "sub/net.py", "make", at / "w.pth", digest_of("net.py", "w.pth"), "probabilities")),
        ('kind = "torch"\nfile = "w.pth"', lambda at: TorchSource(at / "w.pth", digest_of("w.pth"), "logits")),
        ('kind = "keras"\nfile = "net.keras"\noutput = "probabilities"',
         lambda at: KerasSource(None, None, None, digest_of("net.keras"), "probabilities", at / "net.keras")),
    ],
)  # fmt: skip
def test_kinds_of_networks(networks, tmp_path, lines, source):
    recipe = networks(lines)
    assert recipe.source == source(tmp_path)
    assert (recipe.tensorflow is not None) == lines.startswith('kind = "keras"')
    assert networks(lines + "\n# a comment").sha256 == recipe.sha256


def test_a_folder_of_hugging_face(networks, tmp_path):
    recipe = networks('kind = "hugging_face"\nfolder = "hf"')
    assert isinstance(recipe.source, HuggingFaceSource)
    assert recipe.source.folder == tmp_path / "hf"
    (tmp_path / "hf" / "config.json").write_text("other")
    assert networks('kind = "hugging_face"\nfolder = "hf"').sha256 != recipe.sha256


@pytest.mark.parametrize(
    ("lines", "reason", "line", "facts"),
    [
        ('kind = "timm"', "missing_key", 13, ["network is missing"]),
        ('kind = "timm"\nnetwork = "n"\ncheckpoint = "gone"', "network_not_found", 16, ["checkpoint:", "gone"]),
        ('kind = "timm"\nnetwork = "n"\ncheckpoint = "../w.pth"', "path_outside", 16, ["checkpoint:"]),
        ('kind = "torchvision"\nnetwork = "n"\nweights = "W"\ncheckpoint = "/w.pth"', "path_outside", 17, []),
        ('kind = "torchvision"\nnetwork = "n"\nweights = "W"\ncheckpoint = "w.pth"\npackage = "p"',
         "invalid_recipe", 18, ["package:", "checkpoint"]),
        ('kind = "hugging_face"', "missing_key", 13, ["folder", "network"]),
        ('kind = "hugging_face"\nfolder = "hf"\nnetwork = "n"', "missing_key", 13, ["either"]),
        ('kind = "hugging_face"\nfolder = "hf"\nrevision = "v1"', "invalid_recipe", 16, ["revision:"]),
        ('kind = "hugging_face"\nfolder = "gone"', "network_not_found", 15, ["config.json"]),
        ('kind = "hugging_face"\nfolder = "../hf"', "path_outside", 15, ["folder:"]),
        ('kind = "ultralytics"\nfile = "gone.pt"', "network_not_found", 15, ["gone.pt"]),
        ('kind = "ultralytics"\nfile = "../w.pth"', "path_outside", 15, ["file:"]),
        ('kind = "module"\nmodule = "net.py"', "invalid_value", 15, ["FILE.py:FUNCTION"]),
        ('kind = "module"\nmodule = "net.py:1st"', "invalid_value", 15, ["FILE.py:FUNCTION"]),
        ('kind = "module"\nmodule = "gone.py:make"', "network_not_found", 15, ["gone.py"]),
        ('kind = "module"\nmodule = "../net.py:make"', "path_outside", 15, ["module:"]),
        ('kind = "torch"\nfile = "gone.pt2"', "network_not_found", 15, ["gone.pt2"]),
        ('kind = "torch"\nfile = "w.pth"\noutput = "scores"', "invalid_value", 16, ['"logits", "probabilities"']),
        ('kind = "torch"\nfile = "w.pth"\nlayout = "NCHW"', "unknown_key", 16, ['kind = "onnx"']),
        ('kind = "keras"\nfile = "gone.keras"', "network_not_found", 15, ["gone.keras"]),
        ('kind = "keras"\nfile = "../net.keras"', "path_outside", 15, ["file:"]),
        ('kind = "keras"\nfile = "net.keras"\nweights = "imagenet"', "invalid_recipe", 16, ["weights:", "file"]),
        (f'kind = "keras"\nfile = "net.keras"\nsha256 = "{"0" * 64}"', "weights_differ", 16, ["net.keras"]),
        ('kind = "keras"\nnetwork = "ResNet50"', "missing_key", 13, ["weights is missing"]),
    ],
)  # fmt: skip
def test_a_fault_in_a_source_is_reported_with_its_line(networks, write, lines, reason, line, facts):
    refused(write(GOOD.replace(ONNX_LINES, lines)), reason, line, *facts)


def test_labels_that_the_network_carries(networks, write):
    text = GOOD.replace('labels = "labels.txt"', 'labels = "weights"')
    for lines in ('kind = "timm"\nnetwork = "n"', 'kind = "hugging_face"\nfolder = "hf"',
                  'kind = "ultralytics"\nfile = "w.pth"'):  # fmt: skip
        assert load_recipe(write(text.replace(ONNX_LINES, lines))).labels is None
    refused(write(text.replace(ONNX_LINES, 'kind = "torch"\nfile = "w.pth"')), "invalid_recipe", 2, "text file")


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
        ("mean = [0.1, 0.2, 0.3]", "mean = [103, 116, 123]", "invalid_value", 22, ['scale = "0..255"']),
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
    ("name", "remedy"),
    [
        ("mine.engine", "ONNX file"),
        ("mine.plan", "ONNX file"),
        ("mine.xml", "ONNX file"),
        ("mine.tflite", "tf2onnx"),
        ("mine.pb", "tf2onnx"),
    ],
)
def test_an_artefact_given_as_recipe_gets_a_remedy(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"network")
    with pytest.raises(RecipeError) as caught:
        find_recipe(str(tmp_path / name))
    assert caught.value.reason == "not_a_recipe"
    assert remedy in str(caught.value)


def test_remedies_know_the_recipes_that_go_by_their_names(tmp_path, monkeypatch):
    assert sorted(PROJECT_RECIPES) == sorted(path.stem for path in RECIPES.glob("*.toml"))
    monkeypatch.chdir(tmp_path)
    assert build_command("resnet50", "onnx") == "jpeg-build resnet50 --backend onnx"
    # Reports have a recipe's name and not its folder.
    assert build_command("mine", "onnx") == "jpeg-build PATH/mine.toml --backend onnx"
    (tmp_path / "mine.toml").touch()
    assert build_command("mine", "onnx") == "jpeg-build mine.toml --backend onnx"


def test_the_page_on_recipes_has_every_key_kind_and_option():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for struct in (*TABLES.values(), *KINDS.values()):
        for key in struct.__struct_fields__:
            assert re.search(rf"`{key}\b|\[{key}\]", page), key
    for kind in KINDS:
        assert f'| `"{kind}"` |' in page
    for name in Facts.__dataclass_fields__:
        assert f"`--{name.replace('_', '-')}" in page, name


def test_the_command_reports_the_fault_on_stderr_and_exits_2(write):
    done = run_module("jpeg_build", write(GOOD.replace("classes = 2", "classes = 3")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "mine.toml:2: labels" in done.stderr
