"""A sixth classifier form, added by two files of another package: built, checked, served."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from support import PHOTOS, SMALL_RECIPE, run, small_network

RECORD_AND_LOADER = '''\
"""The form "toy": the ONNX file under another name."""

from jpeg_contract.forms import ClassifierForm, Package

FORM = ClassifierForm(
    name="toy",
    title="Toy",
    backend="toy",
    artefact="model.toy",
    precisions=("fp32",),
    instance_kind="CPU",
    loader="toy_form:load",
    emitter="toy_emitter",
    packages=(Package("onnxruntime", "pip install onnxruntime"),),
    suffixes=(".toy",),
)


def load(config):
    import onnxruntime

    session = onnxruntime.InferenceSession(config.artefact.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([config.output_name], {config.input_name: pixels})[0]
'''

EMITTER = """\
from jpeg_build.emitters import Emitted


def require_tools(options):
    pass


def emit(job):
    artefact = job.folder / "model.toy"
    job.network.export_onnx(artefact)
    return Emitted(artefact, details={"form": "toy"})


def inspect(artefact):
    return {"inputs": {}, "outputs": {}, "toy": True}
"""

CLASSIFY = """\
import sys
from pathlib import Path

from jpeg_client import Client
from jpeg_serve import ServerOptions, TritonServer

repository, log, *photos = sys.argv[1:]
options = ServerOptions(model_repository=Path(repository), http_port=0, grpc_port=0, metrics_port=0)
with open(log, "wb") as sink, TritonServer(options, log=sink) as server:
    with Client(f"grpc://{server.grpc_address}") as client:
        for prediction in client.classify(photos, k=1):
            print(prediction.labels[0], round(prediction.scores[0], 4))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment with this one's packages and the package of the form."""
    folder = tmp_path_factory.mktemp("toy")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder / "venv").returncode == 0
    (site,) = folder.glob("venv/lib/python3.*/site-packages")
    (site / "toy_form.py").write_text(RECORD_AND_LOADER)
    (site / "toy_emitter.py").write_text(EMITTER)
    about = site / "toy_form-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-form\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[jpeg_contract.forms]\ntoy = toy_form:FORM\n")
    # This environment's packages, and those that it finds by its own .pth files.
    (site / "this.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    return folder / "venv" / "bin" / "python"


def test_a_form_of_another_package_is_built_checked_verified_and_served(python, tmp_path):
    small_network(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL_RECIPE)

    def call(*command: str | Path) -> str:
        done = run(python, *command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "classifier_toy/1: small in fp32" in call("-m", "jpeg_build", "small.toml", "--backend", "toy")
    assert '"toy": true' in call("-m", "jpeg_build", "inspect", "toy")
    call("-m", "jpeg_build", "verify", "toy", "--recipe", "small.toml")
    call("-m", "jpeg_serve", "check")
    photos = sorted(PHOTOS.glob("*.jpg"))
    toy = call("-c", CLASSIFY, "model_repository", "toy.log", *photos)
    assert len(toy.splitlines()) == len(photos)

    # The same network as ONNX gives the same labels and scores.
    call("-m", "jpeg_build", "small.toml")
    call("-m", "jpeg_build", "use", "onnx")
    assert call("-c", CLASSIFY, "model_repository", "onnx.log", *photos) == toy


def test_without_that_package_the_form_is_unknown(tmp_path):
    small_network(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL_RECIPE)
    done = run(sys.executable, "-m", "jpeg_build", "small.toml", "--backend", "toy", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("[invalid_call]")
