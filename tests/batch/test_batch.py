"""The examples of Ray Data and Spark, in the environment of `make build-batch`, and the commands of docs/batch.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from debian_tools import tool
from jpeg_client import Client
from jpeg_client.arrow import MODEL_FIELD, PREDICTION_FIELDS
from jpeg_serve import TritonServer
from support import PHOTOS, ROOT

BATCH_VENV = ROOT / os.environ.get("BATCH_VENV", ".venv-batch")
pytestmark = pytest.mark.skipif(
    not (BATCH_VENV / "bin" / "python").exists(),
    reason="Ray and Spark have an environment of their own: make test-batch",
)
PAGE = (ROOT / "docs" / "batch.md").read_text()
OUTPUTS = ["labels-spark", "labels-ray"]
ADDED = [*(field.name for field in PREDICTION_FIELDS), MODEL_FIELD.name]
# Runs a program several times in one process, because engines start slowly; prints how each ended.
REPEAT = """
import json, runpy, sys

ends = []
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        ends.append(0)
    except SystemExit as end:
        ends.append(end.code)
print(json.dumps(ends))
"""
THRESHOLD = 0.7
WITHOUT_SERVER = ["--url", "grpc://localhost:1", "--timeout-s", "1"]
# A program, and behind it what it prints, or commands.
BLOCK = re.compile(
    r"(?P<not_run><!-- not run: [^\n]+ -->\n)?```(?P<language>python|console)\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Place:
    """Where the programs run.

    Attributes:
        folder: Their working folder, with the photos and examples of a checkout.
        environment: Their variables, which keep all files of the engines in the folder.
    """

    folder: Path
    environment: dict[str, str]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start Python. command: its arguments."""
        return subprocess.Popen(
            ["python", *command],
            executable=BATCH_VENV / "bin" / "python",
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Those that were started here, and what they have started."""
        return [each for each in psutil.process_iter() if home_of(each) == str(self.folder)]


def home_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("HOME")
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return None


def printed(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a program, and return its standard output."""
    text, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors[-4000:]
    return text


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    tool("java", "openjdk-17-jre-headless")
    # Ray's sockets lie in it, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="batch-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(PHOTOS, folder / "photos")
        shutil.copytree(ROOT / "examples", folder / "examples")
        environment = {
            "PATH": f"{BATCH_VENV / 'bin'}:/usr/bin:/bin",
            "HOME": name,
            "TMPDIR": name,
            "LC_ALL": "C.UTF-8",
            "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={name} -XX:-UsePerfData",
            "RAY_TMPDIR": name,
            "RAY_USAGE_STATS_ENABLED": "0",
            "SPARK_LOCAL_DIRS": name,
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        place = Place(folder, environment)
        try:
            yield place
        finally:
            for process in place.processes():
                process.kill()


@pytest.fixture(scope="module")
def ends(place: Place, server: TritonServer) -> dict[str, list[int | str]]:
    """Run the page word for word, in order, and each of its jobs once more without a server; how the jobs ended."""
    ends: dict[str, list[int | str]] = {}
    for block in BLOCK.finditer(PAGE):
        if block["not_run"]:
            continue
        text = block["text"].replace("localhost:8001", server.grpc_address)
        if block["language"] == "python":
            assert printed(place.start("-c", text)) == (block["shown"] or "")
            continue
        for dataset in ("images", "paths"):
            schema = pq.read_schema(place.folder / dataset / "0.parquet")
            pq.write_table(schema.empty_table(), place.folder / dataset / "9.parquet")
        jobs = {}
        for command in re.findall(r"^\$ python (.*)\n", text, re.MULTILINE):
            arguments = shlex.split(command)
            program, source, target, *options = arguments
            absent = [program, source, f"{target}-absent", *options, *WITHOUT_SERVER]
            least = [program, source, f"{target}-least", *options, "--threshold", str(THRESHOLD)]
            invalid = [program, source, f"{target}-invalid", *options, "--threshold", "2"]
            jobs[target] = place.start("-c", REPEAT, json.dumps([absent, arguments, least, invalid]))
        ends |= {target: json.loads(printed(job)) for target, job in jobs.items()}
    return ends


@pytest.mark.parametrize(
    ("dataset", "output", "image"), [("images", "labels-spark", "image"), ("paths", "labels-ray", "path")]
)
def test_every_row_is_there_once_with_the_labels_of_the_client(
    place: Place, ends: dict[str, list[int | str]], server: TritonServer, dataset: str, output: str, image: str
) -> None:
    rows = pq.read_table(place.folder / dataset).to_pylist()
    with Client(f"grpc://{server.grpc_address}") as client:
        predictions = client.classify([row[image] or b"" for row in rows], k=1)
    found = pq.read_table(place.folder / output).sort_by("name")
    kept = [name for name in rows[0] if name != "image"]
    assert found.column_names == [*kept, *ADDED]
    assert [found.schema.field(field.name).type for field in PREDICTION_FIELDS] == [
        # Both engines name the items of a list as Parquet does.
        pa.list_(pa.field("element", field.type.value_type)) if pa.types.is_list(field.type) else field.type
        for field in PREDICTION_FIELDS
    ]
    rows_found = found.to_pylist()
    assert [{name: row[name] for name in kept} for row in rows_found] == sorted(
        ({name: row[name] for name in kept} for row in rows), key=lambda row: row["name"]
    )
    expected = {row["name"]: each for row, each in zip(rows, predictions, strict=True)}
    for row in rows_found:
        prediction = expected[row["name"]]
        assert (tuple(row["labels"]), tuple(row["indices"])) == (prediction.labels, prediction.indices)
        assert row["scores"] == pytest.approx(prediction.scores, abs=1e-6)
        assert (row["error"], row["reason"], row["model"]) == (prediction.error, prediction.reason, "jpeg_classifier")
    assert (place.folder / output / "_SUCCESS").exists()
    assert ends[output][1] == 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_without_a_server_the_job_fails_with_the_reason(
    place: Place, ends: dict[str, list[int | str]], output: str
) -> None:
    absent, *_ = ends[output]
    # A text is printed to standard error, and the status is 1.
    assert isinstance(absent, str)
    assert re.fullmatch(r"classify\.py: error: .*localhost:1\b.* \[server_unavailable\]", absent)
    target = place.folder / f"{output}-absent"
    assert [file for file in target.rglob("*") if file.is_file() and file.suffix != ".crc"] == []


@pytest.mark.parametrize("output", OUTPUTS)
def test_labels_below_the_threshold_are_left_out(place: Place, ends: dict[str, list[int | str]], output: str) -> None:
    _, _, least, invalid = ends[output]
    assert (least, invalid) == (0, 2)
    assert not (place.folder / f"{output}-invalid").exists()
    rows, kept = (
        {row["name"]: row for row in pq.read_table(place.folder / each).to_pylist()}
        for each in (output, f"{output}-least")
    )
    below = 0
    for name, row in rows.items():
        labels = [label for label, score in zip(row["labels"], row["scores"], strict=True) if score >= THRESHOLD]
        below += len(row["labels"]) - len(labels)
        assert (kept[name]["labels"], kept[name]["reason"]) == (labels, row["reason"])
    assert 0 < below < len(rows)


def test_no_process_is_left(place: Place, ends: dict[str, list[int | str]]) -> None:
    _, alive = psutil.wait_procs(place.processes(), timeout=60)
    assert alive == []
