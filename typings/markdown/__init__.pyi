from collections.abc import Mapping, Sequence
from typing import Any

from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from markdown.util import Registry

class Markdown:
    treeprocessors: Registry[Treeprocessor]
    def __init__(
        self, *, extensions: Sequence[str | Extension] = ..., extension_configs: Mapping[str, Mapping[str, Any]] = ...
    ) -> None: ...
    def convert(self, source: str) -> str: ...
