"""Keys of clients: their files, and the names under which Triton takes them."""

from __future__ import annotations

from pathlib import Path

GRPC_KEY_HEADER = "triton-grpc-protocol-"
"""Triton takes a call of a restricted gRPC protocol only with its key in the header of this name and the key's name."""

SHARED_MEMORY_KEY = "shared-memory-key"
"""Name of the key of clients that share memory (`jpeg-serve --shared-memory-key-file`)."""

# Keys have some fifty characters; the limit bounds the memory if the path names another file.
_MAX_KEY_BYTES = 4096


def read_key_file(file: Path) -> str:
    """Return the key in a file, without the spaces around it.

    Raises:
        OSError: The file cannot be read.
    """
    with file.open("rb") as stream:
        # latin-1 decodes any byte; the caller refuses characters that its keys cannot have.
        return stream.read(_MAX_KEY_BYTES).decode("latin-1").strip()
