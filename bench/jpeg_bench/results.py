"""Results as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jpeg_bench.errors import BenchError


def write(file: Path, result: dict[str, Any], text: str = "") -> None:
    """The result as JSON and, if there is one, its table beside it (.md): each written aside, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    contents = {file: json.dumps(result, indent=2) + "\n", **({file.with_suffix(".md"): text} if text else {})}
    for path, content in contents.items():
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(content, encoding="utf-8")
        aside.replace(path)


def read(file: Path) -> dict[str, Any]:
    """A result that was written. Raises BenchError if it is none."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{file} is not JSON: {error}") from error
    if not isinstance(result, dict) or not ({"rounds", "in_flight"} & {*result}):
        raise BenchError(f"{file} is no result of jpeg-bench compare or jpeg-bench sweep")
    return result
