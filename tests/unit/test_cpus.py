"""CPUs that a container may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from jpeg_contract import cpus


@pytest.mark.parametrize(
    ("files", "folders", "quota"),
    [
        ({}, [], None),
        ({"cpu.max": "max 100000\n"}, [], None),
        ({"cpu.max": "150000 100000\n"}, [], 1.5),
        # On a machine, the limit is at the group of the process, or at one above it.
        ({"system.slice/cpu.max": "200000 100000", "system.slice/a/cpu.max": "max 100000"}, ["system.slice/a"], 2.0),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "100000 100000"}, ["a/b"], 1.0),
        # cgroup v1.
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, [], None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, [], 0.5),
        ({"cpu/d/cpu.cfs_quota_us": "300000", "cpu/d/cpu.cfs_period_us": "100000"}, ["d"], 3.0),
    ],
)
def test_the_limit_is_read_from_the_cgroups(tmp_path, files, folders, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpus._quota(tmp_path, folders) == quota


@pytest.mark.parametrize(("quota", "allowed", "usable"), [(None, 4, 4), (1.5, 4, 2), (0.1, 4, 1), (8.0, 4, 4)])
def test_the_smaller_of_affinity_and_limit_is_usable(monkeypatch, quota, allowed, usable):
    monkeypatch.setattr(cpus, "_quota", lambda root, folders: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    assert cpus.usable_cpus() == usable


def test_the_cpus_of_the_machine_are_those_that_libraries_count(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cpus.machine_cpus() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.machine_cpus() == 1


def test_a_process_on_one_cpu_has_one():
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from jpeg_contract.cpus import *; "
    printed = subprocess.check_output([sys.executable, "-c", program + "print(usable_cpus())"], text=True)
    assert printed == "1\n"
