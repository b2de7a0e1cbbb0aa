"""Keras networks on PyTorch, compared with Keras itself: small ones made here, and a trained one from a package."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from jpeg_build.build import build
from jpeg_build.build.request import Request
from jpeg_build.errors import NetworkError
from jpeg_build.graphs.onnx_values import prepared
from jpeg_build.networks.drafts import Hint
from jpeg_build.networks.keras_torch_network import KerasTorchNetwork, draft, keras
from jpeg_build.photos import load_photos
from jpeg_build.recipe.outputs import to_scores
from jpeg_build.recipe.recipe import find_recipe, load_recipe
from jpeg_contract.resources import PHOTOS

layers = keras.layers
SIZE = (16, 20)

RECIPE = """\
classes = {classes}
labels = "labels.txt"
output = "{head}"

[geometry]
resize_size = 20
crop_size = [16, 20]

[normalisation]
{normalisation}

[source]
kind = "keras"
{source}
output = "{output}"
"""


def recipe(
    at: Path,
    *,
    classes=3,
    head="softmax",
    normalisation='scale = "-1..1"',
    source='file = "net.keras"',
    output="probabilities",
):
    (at / "labels.txt").write_text("".join(f"label {number}\n" for number in range(classes)))
    text = RECIPE.format(classes=classes, head=head, normalisation=normalisation, source=source, output=output)
    (at / "net.toml").write_text(text)
    return load_recipe(at / "net.toml")


def small(*last, channels=3, front=()):
    """A network of two convolutions; what Keras's own exporter cannot export with a dynamic batch is inside."""
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [
            layers.Input((*SIZE, channels)),
            *front,
            layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(3, 2, padding="same"),
            layers.SeparableConv2D(8, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            *last,
        ]
    )
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, values.shape) for values in layer.get_weights()])
        if isinstance(layer, layers.Dense):
            layer.set_weights([random.normal(0, 3, values.shape) for values in layer.get_weights()])
    return network


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)


def in_onnx_runtime(file, pixels):
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input__0": part})[0] for part in (pixels[:1], pixels[1:])])


def refused(made, reason, *facts):
    with pytest.raises(NetworkError) as caught:
        KerasTorchNetwork(made)
    message = str(caught.value)
    assert caught.value.reason == reason, message
    for fact in facts:
        assert fact in message


HEADS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "softmax": ([layers.Dense(3, activation="softmax")], {}),
    "logits": ([layers.Dense(3)], {"output": "logits"}),
    "sigmoid": ([layers.Dense(3, activation="sigmoid")], {"head": "sigmoid"}),
    "binary": ([layers.Dense(1, activation="sigmoid")], {"classes": 2}),
    "one label": ([layers.Dense(1, activation="sigmoid")], {"classes": 1, "head": "sigmoid"}),
}


@pytest.mark.parametrize(
    ("case", "ending"), [*((case, "keras") for case in HEADS), ("softmax", "h5"), ("binary", "h5")]
)
def test_the_graph_computes_what_keras_computes(tmp_path, pixels, case, ending):
    last, changes = HEADS[case]
    network = small(*[type(layer).from_config(layer.get_config()) for layer in last])
    network.save(tmp_path / f"net.{ending}")
    made = KerasTorchNetwork(recipe(tmp_path, source=f'file = "net.{ending}"', **changes))
    values = keras.ops.convert_to_numpy(network(pixels.astype(np.float32) / 127.5 - 1, training=False))
    reference = made.reference(pixels)
    if case == "logits":
        np.testing.assert_allclose(reference, values, atol=1e-4)
    else:
        scores = to_scores(reference, changes.get("head", "softmax"))
        expected = np.concatenate([1 - values, values], axis=1) if case == "binary" else values
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    made.export_onnx(tmp_path / "net.onnx")
    np.testing.assert_allclose(in_onnx_runtime(tmp_path / "net.onnx", pixels), reference, atol=2e-3)
    folded = Counter(node.op_type for node in prepared(onnx.load(str(tmp_path / "net.onnx"))).graph.node)
    # One is that of the pixels' mean; those of a sigmoid's logits come behind the network.
    assert folded["Sub"] == (1 if case in ("softmax", "logits") else 3), (
        "batch normalisation outside of its convolution"
    )


def test_a_gray_network(tmp_path, pixels):
    network = small(layers.Dense(3), channels=1)
    network.save(tmp_path / "net.keras")
    refused(recipe(tmp_path, output="logits"), "gray_network", 'color = "GRAY"', "float32[N,16,20,1]")
    made = KerasTorchNetwork(recipe(tmp_path, normalisation='scale = "0..1"\ncolor = "GRAY"', output="logits"))
    gray = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None] / 255
    expected = keras.ops.convert_to_numpy(network(gray.astype(np.float32), training=False))
    np.testing.assert_allclose(made.reference(pixels), expected, atol=1e-4)
    assert draft(tmp_path / "net.keras").normalisation == {"color": "GRAY"}


def test_channels_first(tmp_path, pixels):
    keras.utils.set_random_seed(3)
    first = {"data_format": "channels_first"}
    network = keras.Sequential(
        [
            layers.Input((3, *SIZE)),
            layers.Conv2D(4, 3, **first),
            layers.GlobalAveragePooling2D(**first),
            layers.Dense(3),
        ]
    )
    network.save(tmp_path / "net.keras")
    made = KerasTorchNetwork(recipe(tmp_path, output="logits"))
    images = (pixels.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
    expected = keras.ops.convert_to_numpy(network(images, training=False))
    np.testing.assert_allclose(made.reference(pixels), expected, atol=1e-5)
    assert draft(tmp_path / "net.keras").geometry == {"crop_size": [16, 20]}


def test_mixed_precision_is_computed_in_float32(tmp_path, pixels):
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [
            layers.Input((*SIZE, 3)),
            layers.Conv2D(4, 3, dtype="mixed_float16"),
            layers.GlobalAveragePooling2D(dtype="mixed_float16"),
            layers.Dense(3, dtype="float32"),
        ]
    )
    network.save(tmp_path / "net.keras")
    made = KerasTorchNetwork(recipe(tmp_path, output="logits"))
    plain = keras.Sequential(
        [layers.Input((*SIZE, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    plain.set_weights(network.get_weights())
    expected = keras.ops.convert_to_numpy(plain(pixels.astype(np.float32) / 127.5 - 1))
    np.testing.assert_allclose(made.reference(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
def test_normalisation_inside(tmp_path, pixels, nested):
    inside = [layers.Rescaling(1 / 255), layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])]
    front = [keras.Sequential([layers.RandomFlip()]), keras.Sequential(inside)] if nested else inside
    network = small(layers.Dense(3, activation="softmax"), front=front)
    network.save(tmp_path / "net.keras")
    made = KerasTorchNetwork(recipe(tmp_path, normalisation='scale = "0..255"'))
    expected = keras.ops.convert_to_numpy(network(pixels.astype(np.float32), training=False))
    np.testing.assert_allclose(to_scores(made.reference(pixels), "softmax"), expected, atol=1e-5)
    for twice in ('scale = "0..1"', "mean = 0.45\nstd = 0.22"):
        again = recipe(tmp_path, normalisation=twice)
        refused(again, "normalised_twice", "[normalisation] scale: ", "Rescaling", 'scale = "0..255"')
    assert draft(tmp_path / "net.keras").normalisation == {"scale": "0..255"}


@pytest.mark.parametrize(
    ("name", "output", "head", "classes"),
    [
        ("softmax", "probabilities", "softmax", 3),
        ("logits", "logits", "softmax", 3),
        ("sigmoid", "probabilities", "sigmoid", 3),
        ("binary", "probabilities", "softmax", 2),
    ],
)
def test_a_draft_knows_size_classes_and_kind_of_output(tmp_path, name, output, head, classes):
    file = tmp_path / "My Net.keras"
    small(*[type(layer).from_config(layer.get_config()) for layer in HEADS[name][0]]).save(file)
    found = draft(file)
    assert found.source == {"kind": "keras", "file": str(file), "output": output}
    assert (found.output, found.classes, found.labels) == (head, classes, None)
    assert found.geometry == {"crop_size": [16, 20]}
    assert found.normalisation is None
    notes = " ".join(found.notes)
    assert "antialias = false" in notes
    hint = next(note for note in found.notes if "--no-antialias" in note)
    assert isinstance(hint, Hint)
    assert hint.is_open({"resize_size"})
    assert not hint.is_open({"antialias"})
    assert ("one output value" in notes) == (name == "binary")


def test_what_does_not_fit_the_recipe(tmp_path):
    small(layers.Dense(3, activation="softmax")).save(tmp_path / "net.keras")
    refused(recipe(tmp_path, classes=4), "classes_differ", "net.toml:1: classes: is 4", "set classes = 3")
    refused(recipe(tmp_path, output="logits"), "output_differs", 'set output = "probabilities"')
    text = (tmp_path / "net.toml").read_text()
    (tmp_path / "net.toml").write_text(text.replace("[16, 20]", "20"))
    refused(load_recipe(tmp_path / "net.toml"), "crop_size_differs", "set crop_size = [16, 20]")
    two = [layers.Input((*SIZE, 3)), layers.Input((*SIZE, 3))]
    joined = layers.GlobalAveragePooling2D()(layers.Add()(two))
    keras.Model(two, layers.Dense(3, activation="softmax")(joined)).save(tmp_path / "net.keras")
    refused(recipe(tmp_path), "several_inputs")


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_code_in_a_file_is_not_run(tmp_path, ending):
    planted = tmp_path / "planted"
    name = str(planted)
    trap = layers.Lambda(lambda x: (__import__("pathlib").Path(name).touch(), x)[1], output_shape=(3,))
    network = small(layers.Dense(3), trap)
    network.save(tmp_path / f"net.{ending}")
    planted.unlink(missing_ok=True)
    refused(recipe(tmp_path, source=f'file = "net.{ending}"'), "untrusted_code", "Lambda", "export(")
    with pytest.raises(NetworkError, match="Lambda"):
        draft(tmp_path / f"net.{ending}")
    assert not planted.exists()


def test_layers_of_others_are_named(tmp_path):
    kind = type("Mine", (layers.Layer,), {"call": lambda self, inputs: inputs})
    small(layers.Dense(3), kind()).save(tmp_path / "net.keras")
    refused(recipe(tmp_path), "network_not_loaded", "Mine", "kind = ")


def test_files_that_are_no_networks(tmp_path):
    small(layers.Dense(3)).save_weights(tmp_path / "net.weights.h5")
    refused(recipe(tmp_path, source='file = "net.weights.h5"'), "network_not_loaded", "network.save(FILE)")
    (tmp_path / "net.keras").write_bytes(b"\x89HDF no network")
    refused(recipe(tmp_path), "network_not_loaded", "network.save(FILE)")
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Nothing", "module": "keras.layers", "config": {}}))
    refused(recipe(tmp_path), "network_not_loaded", "Keras")


def application() -> Any:
    """The recipe of keras.applications' MobileNetV2, which torchvision's recipe has beside it, as [source]."""
    packaged = load_recipe(find_recipe("mobilenet_v2"))
    described = packaged.tensorflow_network()
    return dataclasses.replace(packaged, source=described.source, normalisation=described.normalisation)


def test_networks_of_applications_that_are_not_there(tmp_path):
    made = application()
    unknown = dataclasses.replace(made, source=dataclasses.replace(made.source, network="MobileNetV9"))
    refused(unknown, "unknown_network", "did you mean MobileNetV")
    absent = dataclasses.replace(made, source=dataclasses.replace(made.source, package="no-such-package"))
    refused(absent, "weights_not_found", "no-such-package")


@pytest.fixture(scope="module")
def mobilenet():
    return KerasTorchNetwork(application())


def test_mobilenet_classifies_the_photos(mobilenet):
    order = [path.stem for path in sorted(PHOTOS.rglob("*.jpg"))]
    scores = to_scores(mobilenet.reference(load_photos(PHOTOS, application())), "softmax")
    for name, (label, score) in {"coffee": ("espresso", 0.877), "china": ("palace", 0.489)}.items():
        row = scores[order.index(name)]
        assert mobilenet.labels[int(row.argmax())] == label
        assert row.max() == pytest.approx(score, abs=0.03)


def test_mobilenet_is_built_for_onnx_runtime(tmp_path):
    packaged = find_recipe("mobilenet_v2")
    (tmp_path / "imagenet.txt").write_bytes((packaged.parent / "imagenet.txt").read_bytes())
    text = packaged.read_text()
    table = text[text.index("[tensorflow]") :].replace("[tensorflow]", "[source]")
    source = "\n".join(line for line in table.splitlines() if line.partition(" ")[0] not in ("mean", "std"))
    path = tmp_path / "keras.toml"
    path.write_text(text[: text.index("[normalisation]")] + '[normalisation]\nscale = "-1..1"\n\n' + source)
    made = build(Request(load_recipe(path), tmp_path / "repository"), lambda message: None)
    assert made.report.parity.relative_difference < 1e-4
    assert "tiger cat" in [known.label for known in made.report.probe]
    assert made.report.weights.sha256 == application().source.sha256


def test_the_import_leaves_the_home_folder_and_other_settings_alone(tmp_path):
    """Another backend in keras.json does not count, and no keras.json is written where there is none."""
    code = (
        "from jpeg_build.networks.keras_framework import keras_on_torch as get; keras = get();"
        "print(keras.backend.backend(), keras.backend.image_data_format())"
    )
    settings = json.dumps({"backend": "tensorflow", "image_data_format": "channels_first"})
    empty, user = tmp_path / "empty", tmp_path / "user"
    empty.mkdir()
    (user / ".keras").mkdir(parents=True)
    (user / ".keras" / "keras.json").write_text(settings)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KERAS")}
    imports = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment, "HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for home in (empty, user)
    ]
    for done in imports:
        assert done.communicate() == ("torch channels_last\n", "")
    assert list(empty.iterdir()) == []
    assert [path.name for path in user.rglob("*")] == [".keras", "keras.json"]
    assert (user / ".keras" / "keras.json").read_text() == settings
