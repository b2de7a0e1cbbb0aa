"""The keys that open Triton's restricted calls: management, and shared memory.

Whoever may load models may run any code, and a web page in a browser on this machine reaches loopback, too. So
management needs a key, which `jpeg-serve reload` of this user finds. It keeps out web pages and other machines, but not
other users of this machine, who can read the command line. Users can set keys of their own.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from jpeg_contract.keys import SHARED_MEMORY_KEY, read_key_file

from jpeg_serve.errors import PrerequisiteError

_MANAGEMENT = "model-repository,trace,logging"
_SHARED_MEMORY = "shared-memory"
# Triton separates protocols, name and value by : and =. Long enough that nobody guesses it.
_KEY = re.compile(r"[A-Za-z0-9._~-]{16,256}")


def restriction_arguments(shared_memory_key_file: Path | None) -> list[str]:
    """Return tritonserver's options that restrict calls.

    Args:
        shared_memory_key_file: Holds the key of clients that share memory; None leaves it to the key of management.

    Raises:
        PrerequisiteError: The file cannot be read, or holds no key.
    """
    management = f"admin-key={secrets.token_hex(16)}"
    if shared_memory_key_file is None:
        groups = [f"{_MANAGEMENT},{_SHARED_MEMORY}:{management}"]
    else:
        key = _read_key(shared_memory_key_file)
        groups = [f"{_MANAGEMENT}:{management}", f"{_SHARED_MEMORY}:{SHARED_MEMORY_KEY}={key}"]
    return [f"--{option}={group}" for option in ("http-restricted-api", "grpc-restricted-protocol") for group in groups]


def _read_key(file: Path) -> str:
    try:
        key = read_key_file(file)
    except OSError as error:
        raise PrerequisiteError(
            f"{file}, of --shared-memory-key-file, cannot be read: {error.strerror}", reason="invalid_key_file"
        ) from error
    if _KEY.fullmatch(key) is None:
        raise PrerequisiteError(
            f"{file}, of --shared-memory-key-file, holds no key: write one line of 16 to 256 letters, digits and "
            "any of . _ ~ - into it, for example by: openssl rand -hex 32",
            reason="invalid_key_file",
        )
    return key
