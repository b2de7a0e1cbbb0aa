"""Result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jpeg_bench.errors import BenchError


def write_text(file: Path, text: str) -> None:
    """Write a file atomically; make its folder if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def write_result(file: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(file, json.dumps(result, indent=2) + "\n")


def read_result(file: Path, key: str) -> dict[str, Any]:
    """Read a result.

    Args:
        file: JSON file.
        key: A key that every result of this kind has.

    Raises:
        BenchError: The file is not such a result.
        OSError: The file cannot be read.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{file} is not JSON: {error}", reason="invalid_result_file") from error
    if not isinstance(result, dict) or key not in result:
        raise BenchError(f"{file} is not a result of this kind: {key} is missing", reason="invalid_result_file")
    return result
