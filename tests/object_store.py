"""A real S3 server (moto) on this machine, for tests of buckets."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import fsspec
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(bucket: str, objects: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """Run a server with one bucket, and yield the environment variables of its clients.

    Args:
        bucket: Its name.
        objects: What is in it, by key.
    """
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        # All servers of a process have the same buckets.
        with urllib.request.urlopen(f"{url}/moto-api/reset", data=b"", timeout=10):
            pass
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        store = fsspec.filesystem("s3", endpoint_url=url, key="test", secret="test", skip_instance_cache=True)
        store.mkdir(bucket)
        for key, data in objects.items():
            store.pipe_file(f"{bucket}/{key}", data)
        yield environment
    finally:
        server.stop()
