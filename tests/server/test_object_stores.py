"""Buckets as folders: a real S3 server (moto), and fsspec's local and memory file systems."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from jpeg_client import Client
from jpeg_client.command.inputs import Inputs
from jpeg_serve import TritonServer
from object_store import s3_server
from support import PHOTOS, photo, run_module


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A bucket `photos`; yields the environment of its clients."""
    objects = {
        "a.jpg": photo("coffee"),
        "deep/b.JPG": photo("china"),
        "deep/broken.jpg": b"no JPEG",
        "deep/notes.txt": b"text",
    }
    with s3_server("photos", objects) as environment:
        yield environment


def rows_of(server: TritonServer, environment: dict[str, str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = run_module(
        "jpeg_client",
        *("--url", f"grpc://{server.grpc_address}", "--json", *arguments),
        env={**os.environ, **environment},
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_bucket_is_a_folder(server: TritonServer, s3: dict[str, str]) -> None:
    status, rows = rows_of(server, s3, "s3://photos")
    assert status == 1
    assert [(row["image"], row["labels"][:1], row["reason"]) for row in rows] == [
        ("s3://photos/a.jpg", ["espresso"], None),
        ("s3://photos/deep/b.JPG", ["palace"], None),
        ("s3://photos/deep/broken.jpg", [], "not_jpeg"),
    ]
    status, rows = rows_of(server, s3, "s3://photos/*.jpg")
    assert (status, [row["image"] for row in rows]) == (0, ["s3://photos/a.jpg"])
    status, rows = rows_of(server, s3, "s3://photos/a.jpg", "s3://photos/gone.jpg", "s3://photos/deep/b.JPG")
    assert (status, [row["reason"] for row in rows]) == (1, [None, "file_missing", None])


def test_local_and_memory_file_systems(server: TritonServer) -> None:
    status, rows = rows_of(server, {}, f"file://{PHOTOS}/unlabelled")
    assert (status, len(rows)) == (0, 3)
    store = fsspec.filesystem("memory")
    store.pipe_file("/folder/coffee.jpg", photo("coffee"))
    store.pipe_file("/folder/notes.txt", b"text")
    inputs = Inputs(["memory://folder"])
    images = [each.image for each in inputs]
    assert (images, inputs.skipped) == (["memory:///folder/coffee.jpg"], 1)
    with Client(f"grpc://{server.grpc_address}") as client:
        found = client.classify([*images, "memory://folder/gone.jpg", "memory://folder"])
    assert found[0].labels[0] == "espresso"
    assert [each.reason for each in found[1:]] == ["file_missing", "not_a_file"]


def test_a_store_that_nobody_knows_is_refused() -> None:
    done = run_module("jpeg_client", "nothing://bucket/a.jpg")
    assert (done.returncode, done.stderr.rstrip().endswith("[file_missing]")) == (2, True)
