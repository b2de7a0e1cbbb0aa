"""The API key of a command: from a file or the environment, never from an option."""

from __future__ import annotations

import os
from pathlib import Path

KEY_VARIABLE = "JPEG_API_KEY"

# Keys have about fifty characters; the limit bounds the memory if the path names another file.
_MAX_KEY_BYTES = 4096


def read_key(file: Path | None) -> str | None:
    """Read the API key from the file, or else from the environment; None if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    with file.open("rb") as stream:
        # latin-1 decodes any byte; the client refuses characters that a key cannot have.
        return stream.read(_MAX_KEY_BYTES).decode("latin-1").strip()
