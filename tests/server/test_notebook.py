"""The notebook of examples/: all its cells run against a real server, and compute and show what they promise."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import nbformat
import numpy as np
import pytest
from jpeg_serve import TritonServer
from nbclient import NotebookClient
from PIL import Image
from support import ROOT

NOTEBOOK = ROOT / "examples" / "notebook" / "classify.ipynb"
# A last cell: what the others have computed.
COMPUTED = """
import json
print(json.dumps({
    "titles": {path.stem: axis.get_title() for path, axis in zip(PHOTOS, axes.flat)},
    "broken": [[prediction.labels, prediction.reason] for prediction in half],
    "latencies_ms": latencies_ms,
    "images_per_s": images_per_s,
}))
"""


@pytest.fixture(scope="module")
def cells(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Run the notebook; return the outputs of each code cell by its id."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(COMPUTED, id="computed"))
    folder = str(tmp_path_factory.mktemp("jupyter"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JPEG_URL", f"grpc://{server.grpc_address}")
        for variable in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "MPLCONFIGDIR"):
            patch.setenv(variable, folder)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture
def computed(cells: dict[str, list[Any]]) -> dict[str, Any]:
    (output,) = cells["computed"]
    found: dict[str, Any] = json.loads(output.text)
    return found


def picture(outputs: list[Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The picture among the outputs of a cell, as RGB pixels."""
    (data,) = [output.data["image/png"] for output in outputs if output.output_type == "display_data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_no_cell_warns(cells: dict[str, list[Any]]) -> None:
    assert [output for outputs in cells.values() for output in outputs if output.get("name") == "stderr"] == []


def test_it_connects_to_the_server(cells: dict[str, list[Any]]) -> None:
    (output,) = cells["connect"]
    assert output.text == "jpeg_classifier: classifier_onnx in fp32, 1000 classes\n"


def test_the_labels_stand_above_their_photos(cells: dict[str, list[Any]], computed: dict[str, Any]) -> None:
    best = {name: re.sub(r" 0\.\d\d$", "", title.partition("\n")[0]) for name, title in computed["titles"].items()}
    assert best.items() >= {
        ("chelsea", "Egyptian cat"),
        ("china", "palace"),
        ("coffee", "espresso"),
        ("grace_hopper", "bow tie"),
    }
    assert len(best) == 7
    # Photos, not empty axes.
    assert len(np.unique(picture(cells["labels"]).reshape(-1, 3), axis=0)) > 10_000


def test_a_broken_photo_has_a_reason_and_costs_no_other_its_labels(
    cells: dict[str, list[Any]], computed: dict[str, Any]
) -> None:
    assert computed["broken"] == [[["espresso"], None], [[], "truncated"], [[], "not_jpeg"]]
    (output,) = cells["broken"]
    assert "truncated: truncated JPEG" in output.text


def test_latency_and_throughput_are_measured_and_plotted(cells: dict[str, list[Any]], computed: dict[str, Any]) -> None:
    latencies = {int(level): times for level, times in computed["latencies_ms"].items()}
    assert [(level, len(times)) for level, times in latencies.items()] == [(level, 48) for level in (1, 2, 4, 8, 16)]
    # One after the other, a request has the machine for itself.
    assert np.median(latencies[1]) < np.median(latencies[16])
    for level, times in latencies.items():
        # No more than `level` requests were open at any time (Little's law).
        assert computed["images_per_s"][str(level)] * np.mean(times) / 1000 <= level * 1.01
    (text,) = [output.text for output in cells["plot"] if output.output_type == "stream"]
    assert len(re.findall(r"^ ?\d+ at a time: p50 [\d.]+ ms, p95 [\d.]+ ms, \d+ images/s$", text, re.MULTILINE)) == 5
    assert len(np.unique(picture(cells["plot"]).reshape(-1, 3), axis=0)) > 3


def test_it_is_committed_without_outputs_and_without_a_path_of_somebodys_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
    assert re.search(r"/(home|root|Users|tmp|work)/", NOTEBOOK.read_text()) is None
    # A client alone: what serves and builds is elsewhere.
    imported = {name for cell in code for name in re.findall(r"^(?:from|import) (\w+)", cell.source, re.MULTILINE)}
    assert {name for name in imported if name.startswith("jpeg_")} == {"jpeg_client"}
