"""Which engines run where, and the GPUs and packages of this machine."""

import os

import numpy as np
import pytest
from google.protobuf import text_format
from jpeg_contract.gpus import find_gpus, runs_on
from jpeg_contract.model_config import ModelConfig
from jpeg_contract.versions import installed_version, loads_engine, same_release
from jpeg_serve.compatibility import gpus_used


@pytest.mark.parametrize(
    ("built", "gpu", "compatible", "runs"),
    [
        ("9.0", "9.0", False, True),
        ("9.0", "8.0", False, False),
        ("8.6", "8.9", False, False),
        ("8.6", "8.9", True, True),
        ("9.0", "8.0", True, True),
        ("8.0", "7.5", True, False),
        ("8.0", "12.0", True, True),
        ("7.5", "7.5", True, True),
    ],
)
def test_an_engine_runs_on_its_kind_of_gpu(built, gpu, compatible, runs):
    assert runs_on(built, gpu, hardware_compatible=compatible) is runs


@pytest.mark.parametrize(
    ("built", "here", "compatible", "loads"),
    [
        ("8.6.1", "8.6.1", False, True),
        ("8.6.1", "8.6.1.post1", False, True),
        ("10.3.0", "10.3.0.26+cuda12.6", False, True),
        ("8.6.1", "8.6.0", False, False),
        ("10.3.0", "10.4.0", False, False),
        ("10.3.0", "10.4.0", True, True),
        ("10.4.0", "10.3.0", True, False),
        ("9.3.0", "10.0.1", True, False),
        ("10.3.0", "", False, True),  # an unknown version is not judged
    ],
)
def test_a_tensorrt_loads_its_own_engines(built, here, compatible, loads):
    assert loads_engine(built, here, version_compatible=compatible) is loads


def test_a_local_version_is_the_same_release():
    assert same_release("2.2.0", "2.2.0+cu121")
    assert same_release("2.2.0", "")
    assert not same_release("2.2.0", "2.2.1")


@pytest.mark.parametrize(
    ("groups", "used"),
    [
        ("", [0, 1, 2]),
        ("instance_group { kind: KIND_GPU }", [0, 1, 2]),
        ("instance_group { kind: KIND_GPU gpus: [2] }", [2]),
        ("instance_group { kind: KIND_GPU gpus: [0] } instance_group { kind: KIND_GPU gpus: [1] }", [0, 1]),
        ("instance_group { kind: KIND_GPU gpus: [0] } instance_group { }", [0, 1, 2]),
        ("instance_group { kind: KIND_GPU gpus: [7] }", []),
        ("instance_group { kind: KIND_CPU }", []),
    ],
)
def test_instance_groups_decide_which_gpus_are_used(groups, used):
    capabilities = ["8.0", "8.6", "9.0"]
    found = gpus_used(text_format.Parse(groups, ModelConfig()), capabilities)
    assert found == {index: capabilities[index] for index in used}


def test_a_machine_without_a_gpu_is_a_normal_state():
    """CUDA_VISIBLE_DEVICES hides all GPUs, so that this holds on every machine."""
    found = find_gpus({**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert found.capabilities == ()
    assert found.why_none
    assert "none (" in str(found)


def test_versions_are_known_without_an_import():
    assert installed_version("numpy") == np.__version__
    assert installed_version("no_such_package") is None
