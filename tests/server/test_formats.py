"""Images of every format, over a real server whose recipe lists them all."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pillow_heif
import pytest
from conftest import serve
from jpeg_client import AsyncClient, Client
from jpeg_serve import TritonServer
from PIL import Image
from repository.static_repository import make_repository
from support import edit, photo, run_module

pillow_heif.register_heif_opener()

# Suffix and plugin of each format.
OTHERS = {"png": "PNG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "avif": "AVIF", "heic": "HEIF"}
FORMATS = ("jpeg", *OTHERS)


def saved(plugin: str) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(photo("coffee"))).convert("RGB").resize((300, 200)).save(stream, plugin)
    return stream.getvalue()


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    return {"jpg": photo("coffee"), **{suffix: saved(plugin) for suffix, plugin in OTHERS.items()}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    made = make_repository(tmp_path_factory.mktemp("formats") / "model_repository")
    edit(made / "preprocess" / "config.pbtxt", '"jpeg"', f'"{",".join(FORMATS)}"')
    yield from serve(made, tmp_path_factory.mktemp("server") / "triton.log")


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: TritonServer) -> str:
    return f"grpc://{server.grpc_address}" if request.param == "grpc" else f"http://{server.http_address}"


def test_a_bad_file_costs_the_others_of_its_request_nothing(url: str, images: dict[str, bytes]) -> None:
    bad = images["png"][:-40]
    with Client(url) as client:
        found = client.classify([*images.values(), bad, b"BM no image"], k=1)
    assert [prediction.reason for prediction in found] == [None] * len(images) + ["truncated", "not_jpeg"]
    assert {prediction.labels for prediction in found[: len(images)]} == {("espresso",)}


def test_the_formats_are_described(url: str) -> None:
    async def described() -> tuple[str, ...]:
        async with AsyncClient(url) as client:
            return (await client.describe()).formats

    with Client(url) as client:
        assert client.describe().formats == FORMATS
    assert asyncio.run(described()) == FORMATS


def test_the_command_finds_all_that_the_server_decodes(url: str, images: dict[str, bytes], tmp_path: Path) -> None:
    for suffix, data in images.items():
        (tmp_path / f"photo.{suffix}").write_bytes(data)
    (tmp_path / "upper.TIF").write_bytes(images["tiff"])
    (tmp_path / "broken.webp").write_bytes(images["webp"][:100])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "old.bmp").write_bytes(b"BM")
    done = run_module("jpeg_client", tmp_path, "--url", url, "--json", "-k", "1")
    rows = {Path(row["image"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == {*(f"photo.{suffix}" for suffix in images), "upper.TIF", "broken.webp"}
    assert {name for name, row in rows.items() if row["error"]} == {"broken.webp"}
    assert done.returncode == 1
    assert "2 " in done.stderr  # files with other suffixes
