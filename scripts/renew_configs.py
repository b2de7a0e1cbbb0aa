"""Writes model_repository/ again: the files that jpeg-build writes beside artefacts, for the demo recipe and each form.

Usage: renew_configs.py [DIR]     (after a change to the build; `make configs` runs it)
"""

from __future__ import annotations

import sys
from pathlib import Path

from jpeg_build.build.request import Request
from jpeg_build.build.steps import stage_repository
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from jpeg_build.repository import tree
from jpeg_contract.forms import FORMS
from jpeg_contract.model_config import CONFIG
from jpeg_contract.tensors import ENSEMBLE

COMMITTED = Path(__file__).resolve().parents[1] / "model_repository"


def main(target: Path = COMMITTED) -> None:
    for config in target.glob(f"*/{CONFIG}"):
        config.unlink()
    recipe = load_recipe(RECIPES / "mobilenet_v2.toml")
    assert recipe.labels is not None, "the demo recipe names a label file"
    # The ensemble starts with the first one.
    for form in FORMS.values():
        with tree.staging(target) as folder:
            stage_repository(Request(recipe=recipe, repository=target, backend=form.name), folder, recipe.labels)
            tree.place(folder, target)
    print(f"renewed: {ENSEMBLE} and its steps in {target}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
