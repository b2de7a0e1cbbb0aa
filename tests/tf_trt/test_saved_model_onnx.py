"""SavedModels for ONNX Runtime and OpenVINO, and Keras files for tf_trt. Run by `make test-tensorflow`."""

import json

import numpy as np
import pytest
from jpeg_build.errors import NetworkError
from jpeg_build.networks.saved_model_network import SavedModelNetwork, draft
from jpeg_build.recipe.outputs import to_scores
from jpeg_build.recipe.recipe import load_recipe
from support import run_module

tf = pytest.importorskip("tensorflow", reason="TensorFlow has an environment of its own: make build-tensorflow")

from jpeg_build.networks.keras_network import KerasNetwork  # noqa: E402

SIZE = (32, 40)
RECIPE = """\
classes = {classes}
labels = "labels.txt"
output = "{head}"

[geometry]
resize_size = 48
crop_size = [32, 40]

[normalisation]
{normalisation}

[source]
{source}
output = "{output}"
"""
SAVED_MODEL = 'kind = "saved_model"\nfolder = "net"'
KERAS = 'kind = "keras"\nfile = "net.{}"'


def recipe(
    at, *, classes=3, head="softmax", normalisation='scale = "-1..1"', source=SAVED_MODEL, output="probabilities"
):
    (at / "labels.txt").write_text("".join(f"label {number}\n" for number in range(classes)))
    (at / "net.toml").write_text(
        RECIPE.format(classes=classes, head=head, normalisation=normalisation, source=source, output=output)
    )
    return load_recipe(at / "net.toml")


def small(*last, channels=3, front=()):
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(3)
    network = tf.keras.Sequential(
        [
            layers.Input((*SIZE, channels)),
            *front,
            layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(3, 2, padding="same"),
            layers.GlobalAveragePooling2D(),
            *last,
        ]
    )
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, layers.Dense):
            layer.set_weights([random.normal(0, 3, values.shape) for values in layer.get_weights()])
    return network


HEADS = {
    "softmax": (3, "softmax", {}),
    "sigmoid": (3, "sigmoid", {"head": "sigmoid"}),
    "binary": (1, "sigmoid", {"classes": 2}),
}


@pytest.fixture(scope="module", params=HEADS)
def case(request, tmp_path_factory):
    """A folder with one network as SavedModel, .keras and .h5; its recipe's facts; pixels and their probabilities."""
    folder = tmp_path_factory.mktemp(request.param)
    units, activation, changes = HEADS[request.param]
    network = small(tf.keras.layers.Dense(units, activation=activation))
    network.export(str(folder / "net"), verbose=False)
    network.save(folder / "net.keras")
    network.save(folder / "net.h5")
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)
    values = network(pixels.astype(np.float32) / 127.5 - 1, training=False).numpy()
    expected = np.concatenate([1 - values, values], axis=1) if request.param == "binary" else values
    return folder, changes, pixels, expected


def in_onnx_runtime(file, pixels):
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input__0": part})[0] for part in (pixels[:1], pixels[1:])])


def test_the_graph_computes_what_the_saved_model_computes(case, capfd):
    folder, changes, pixels, expected = case
    network = SavedModelNetwork(recipe(folder, **changes))
    reference = network.reference(pixels)
    np.testing.assert_allclose(to_scores(reference, changes.get("head", "softmax")), expected, atol=1e-5)
    capfd.readouterr()
    network.export_onnx(folder / "net.onnx")
    assert capfd.readouterr().err == ""
    np.testing.assert_allclose(in_onnx_runtime(folder / "net.onnx", pixels), reference, atol=2e-3)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_file_of_keras_for_tf_trt(case, ending):
    folder, changes, pixels, expected = case
    network = KerasNetwork(recipe(folder, source=KERAS.format(ending), **changes))
    assert network.weights.source == f"Keras file net.{ending}"
    reference = network.reference(pixels)
    np.testing.assert_allclose(to_scores(reference, changes.get("head", "softmax")), expected, atol=1e-5)
    network.save(folder / f"wrapped_{ending}")
    wrapped = tf.saved_model.load(str(folder / f"wrapped_{ending}")).signatures["serving_default"]
    for batch in (1, 5):
        logits = wrapped(input__0=tf.constant(pixels[:batch]))["output__0"].numpy()
        np.testing.assert_allclose(logits, reference[:batch], atol=2e-3)


def test_constants_that_a_keras_layer_captures(tmp_path):
    """Mean and variance of Keras's Normalization are neither variables nor nodes of the exported function."""
    front = [tf.keras.layers.Normalization(mean=[120.0, 110, 100], variance=[900.0, 800, 700])]
    small(tf.keras.layers.Dense(3), front=front).export(str(tmp_path / "net"), verbose=False)
    made = SavedModelNetwork(recipe(tmp_path, normalisation='scale = "0..255"', output="logits"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
    made.export_onnx(tmp_path / "net.onnx")
    np.testing.assert_allclose(in_onnx_runtime(tmp_path / "net.onnx", pixels), made.reference(pixels), atol=2e-3)


def test_gray(tmp_path):
    small(tf.keras.layers.Dense(3), channels=1).export(str(tmp_path / "net"), verbose=False)
    made = SavedModelNetwork(recipe(tmp_path, normalisation='scale = "0..1"\ncolor = "GRAY"', output="logits"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    made.export_onnx(tmp_path / "net.onnx")
    np.testing.assert_allclose(in_onnx_runtime(tmp_path / "net.onnx", pixels), made.reference(pixels), atol=1e-3)
    assert draft(tmp_path / "net").normalisation == {"color": "GRAY"}


def test_normalisation_inside_a_keras_file(tmp_path):
    network = small(tf.keras.layers.Dense(3), front=[tf.keras.layers.Rescaling(1 / 255)])
    network.save(tmp_path / "net.keras")
    source = KERAS.format("keras")
    with pytest.raises(NetworkError) as caught:
        KerasNetwork(recipe(tmp_path, source=source, output="logits"))
    assert caught.value.reason == "normalised_twice"
    made = KerasNetwork(recipe(tmp_path, source=source, output="logits", normalisation='scale = "0..255"'))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    np.testing.assert_allclose(made.reference(pixels), network(pixels.astype(np.float32)).numpy(), atol=1e-4)


def test_a_sigmoid_of_one_value_is_no_logit(tmp_path):
    small(tf.keras.layers.Dense(1, activation="sigmoid")).save(tmp_path / "net.keras")
    source = KERAS.format("keras")
    KerasNetwork(recipe(tmp_path, classes=2, source=source))
    with pytest.raises(NetworkError) as caught:
        KerasNetwork(recipe(tmp_path, classes=2, source=source, output="logits"))
    assert caught.value.reason == "output_differs"


def test_code_in_a_file_is_not_run(tmp_path):
    for ending in ("keras", "h5"):
        small(tf.keras.layers.Lambda(lambda x: x), tf.keras.layers.Dense(3)).save(tmp_path / f"net.{ending}")
        with pytest.raises(NetworkError) as caught:
            KerasNetwork(recipe(tmp_path, source=KERAS.format(ending), output="logits"))
        assert caught.value.reason == "untrusted_code"


def test_drafts(case):
    folder, changes, *_ = case
    found = draft(folder / "net")
    assert found.source == {"kind": "saved_model", "folder": str(folder / "net")}
    assert found.classes == changes.get("classes", 3)
    assert found.geometry == {"crop_size": [32, 40]}
    assert list(found.choices) == ["output"]


@pytest.mark.parametrize(
    ("front", "named"),
    [
        ([], set()),
        ([tf.keras.layers.Rescaling(1 / 127.5, offset=-1)], {"rescaling"}),
        (
            [tf.keras.layers.Rescaling(1 / 255), tf.keras.layers.Normalization(mean=0.5, variance=0.1)],
            {"rescaling", "normalization"},
        ),
    ],
)
def test_the_draft_names_layers_that_normalise(tmp_path, front, named):
    small(tf.keras.layers.Dense(3), front=front).export(str(tmp_path / "net"), verbose=False)
    notes = " ".join(str(note) for note in draft(tmp_path / "net").notes)
    assert {layer for layer in ("rescaling", "normalization") if layer in notes} == named


def test_the_draft_of_several_outputs(tmp_path):
    def network(images):
        scores = tf.reduce_mean(images, axis=(1, 2))
        return {"scores": scores, "label": tf.argmax(scores, axis=1)}

    signature = tf.function(network).get_concrete_function(tf.TensorSpec((None, None, None, 3), tf.float32))
    tf.saved_model.save(tf.Module(), str(tmp_path / "net"), signatures=signature)
    found = draft(tmp_path / "net")
    assert found.source["output_name"] == "scores"
    assert (found.classes, found.geometry) == (3, None)
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"\xff")
    with pytest.raises(NetworkError, match="not a SavedModel"):
        draft(tmp_path / "net")


def test_a_saved_model_is_built_for_runtimes_without_tensorflow(tmp_path):
    network = small(tf.keras.layers.Dense(3))
    network.export(str(tmp_path / "net"), verbose=False)
    path = recipe(tmp_path, output="logits").path
    for backend in ("onnx", "openvino"):
        done = run_module(
            "jpeg_build", path, "--backend", backend, "--model-repository", tmp_path / "repository", "--json"
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["weights"]["source"] == "SavedModel net"
        assert report["parity"]["relative_difference"] < 1e-4
