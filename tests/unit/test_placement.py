"""How many servers `jpeg-serve` runs, and the GPUs that each sees: the table of docs/several-gpus.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from jpeg_contract.gpus import Gpu, Gpus, device_names
from jpeg_serve.errors import RepositoryProblems
from jpeg_serve.machine import Machine
from jpeg_serve.models import read_models, served_models
from jpeg_serve.placement import place_servers

ON_CPUS = ["kind: KIND_CPU", "kind: KIND_CPU"]
ON_GPUS = ["kind: KIND_CPU", "kind: KIND_GPU"]
LEFT_OPEN = ["kind: KIND_CPU", "count: 1"]
NAMED = ["kind: KIND_CPU", "kind: KIND_GPU gpus: [ 0, 1 ]"]
AS_IT_IS = None


@pytest.mark.parametrize(
    ("servers", "groups", "gpus", "seen"),
    [
        (0, ON_CPUS, 2, [AS_IT_IS]),
        (0, ON_GPUS, 0, [AS_IT_IS]),
        (0, ON_GPUS, 1, [AS_IT_IS]),
        (0, ON_GPUS, 3, ["0", "1", "2"]),
        (0, LEFT_OPEN, 2, ["0", "1"]),
        (0, NAMED, 2, [AS_IT_IS]),
        (1, ON_GPUS, 2, [AS_IT_IS]),
        (3, ON_CPUS, 2, [AS_IT_IS] * 3),
        (3, ON_GPUS, 0, [AS_IT_IS] * 3),
        (3, ON_GPUS, 2, ["0", "1", "0"]),
        (2, NAMED, 1, ["0", "0"]),
    ],
)
def test_each_server_sees_the_gpus_of_the_table(
    servers: int,
    groups: list[str],
    gpus: int,
    seen: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert placed(tmp_path, servers, groups, gpus) == seen


@pytest.mark.parametrize(
    ("visible", "gpus", "seen"),
    [("2,3", 2, ["2", "3"]), ("GPU-5a,GPU-7c", 2, ["GPU-5a", "GPU-7c"]), ("1", 1, [AS_IT_IS]), ("", 0, [AS_IT_IS])],
)
def test_the_gpus_that_jpeg_serve_sees_are_divided(
    visible: str, gpus: int, seen: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert placed(tmp_path, 0, ON_GPUS, gpus) == seen


@pytest.mark.parametrize("gpus", ["0", "1", "0, 1"])
def test_several_servers_on_named_gpus_are_refused(gpus: str, tmp_path: Path) -> None:
    with pytest.raises(RepositoryProblems) as caught:
        placed(tmp_path, 2, ["kind: KIND_CPU", f"kind: KIND_GPU gpus: [ {gpus} ]"], 2)
    assert [(problem.where, problem.reason) for problem in caught.value.problems] == [
        ("model_1/config.pbtxt", "gpus_named")
    ]


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("3,1", 2, ["3", "1"]),
        ("3, 1,-1,2", 2, ["3", "1"]),
        ("GPU-5a,GPU-7c", 2, ["GPU-5a", "GPU-7c"]),
        ("MIG-5a,MIG-7c", 1, ["MIG-5a"]),
        ("", 0, []),
    ],
)
def test_each_visible_gpu_has_a_name_of_its_own(visible: str | None, count: int, names: list[str]) -> None:
    assert device_names(count, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == names


def placed(folder: Path, servers: int, groups: list[str], gpus: int) -> list[str | None]:
    """Place the servers of a repository with one model for each instance group, on a machine with that many GPUs."""
    for number, group in enumerate(groups):
        model = folder / f"model_{number}"
        model.mkdir()
        (model / "config.pbtxt").write_text(f'backend: "python" instance_group {{ {group} }}')
    models, problems = read_models(folder)
    assert problems == []
    machine = Machine(
        natives=None,
        packages=lambda name: None,
        environment={},
        gpus=Gpus((Gpu("NVIDIA H100", "9.0"),) * gpus, "" if gpus else "the NVIDIA driver shows no GPU"),
    )
    return place_servers(servers, served_models(models), machine)
