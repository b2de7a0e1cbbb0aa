"""The API key of a command: from a file or the environment, never from an option."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jpeg_contract.keys import read_key_file

KEY_VARIABLE = "JPEG_API_KEY"

NO_KEY_OPTION = (
    "there is no option --api-key, because other users can read options in the process list: use "
    f"--api-key-file FILE, or the environment variable {KEY_VARIABLE}"
)


def names_key(tokens: Sequence[str]) -> bool:
    """Whether a command line gives a key. To be checked first: the error for an unknown option repeats its value."""
    return any(token.partition("=")[0] == "--api-key" for token in tokens)


def read_key(file: Path | None) -> str | None:
    """Read the API key from the file, or else from the environment; None if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    return (os.environ.get(KEY_VARIABLE) or None) if file is None else read_key_file(file)
