import dataclasses
import hashlib
from pathlib import Path

import pytest
from jpeg_build.errors import RecipeError
from jpeg_build.recipe import RECIPES, OnnxSource, TorchvisionSource, find_recipe, load_recipe
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
        ('kind = "onnx"', 'kind = "keras"', 14, '"torchvision", "onnx"'),
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
