"""Build hook of hatchling: puts what a checkout keeps at its top into the packages of the wheel.

An editable installation needs none of it: there the packages find the checkout itself (jpeg_contract.resources).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CarriedFiles(BuildHookInterface):  # type: ignore[type-arg]
    """The photos, the Python models and the Python-based backends."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds. version: "standard" or "editable"."""
        if version == "editable":
            return
        root = Path(self.root)
        carried = {"photos": "jpeg_contract/photos"}
        for model in (root / "model_repository").glob("*/1/model.py"):
            file = model.relative_to(root / "model_repository")
            carried[str(model.relative_to(root))] = f"jpeg_build/models/{file}"
        for model in (root / "backends").glob("*/model.py"):
            carried[str(model.relative_to(root))] = f"jpeg_serve/backends/{model.parent.name}/model.py"
        build_data["force_include"].update(carried)
