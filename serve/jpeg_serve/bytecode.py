"""The bytecode of Python models, written before a server loads them."""

from __future__ import annotations

import compileall
from collections.abc import Sequence
from pathlib import Path

from jpeg_serve.models import PYTHON, read_models, served_models


def compile_models(repository: Path, load: Sequence[str] = ()) -> None:
    """Write the bytecode of the Python models that are served, where the folder can be written.

    Otherwise the worker that imports a model writes it beside the model. Triton takes that for a change of the model,
    so that the next reload would load every Python model again. Triton reports a model that cannot be compiled.

    Args:
        repository: The model repository.
        load: Names of models that are loaded instead of the ensembles.
    """
    models, _ = read_models(repository)
    for model in served_models(models, load):
        for version in model.served() if model.backend == PYTHON else ():
            compileall.compile_dir(version.folder, maxlevels=0, quiet=2)
