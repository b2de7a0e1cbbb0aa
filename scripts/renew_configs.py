"""Writes model_repository/ anew: for the demo recipe and every backend, what jpeg-build writes beside an artefact.

Usage: renew_configs.py [DIR]     (after a change to the build; `make configs` does it)
"""

from __future__ import annotations

import sys
from pathlib import Path

from jpeg_build import configs, repository
from jpeg_build.build import Request, stage_repository
from jpeg_build.recipe import RECIPES, load_recipe
from jpeg_build.targets import TARGETS

COMMITTED = Path(__file__).resolve().parents[1] / "model_repository"


def main(target: Path = COMMITTED) -> None:
    for config in target.glob(f"*/{repository.CONFIG}"):
        config.unlink()
    recipe = load_recipe(RECIPES / "mobilenet_v2.toml")
    assert recipe.labels is not None, "the demo recipe names a label file"
    # The first is the one that the ensemble begins with.
    for backend in TARGETS:
        with repository.staging(target) as folder:
            stage_repository(Request(recipe=recipe, repository=target, backend=backend), folder, recipe.labels)
            repository.place(folder, target)
    print(f"renewed: {configs.ENSEMBLE} and its steps in {target}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
