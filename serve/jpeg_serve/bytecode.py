"""The compiled form of Python models, written before a server sees them."""

from __future__ import annotations

import compileall
from pathlib import Path

from jpeg_serve.models import read_models, served_models


def compile_models(repository: Path) -> None:
    """Write the bytecode of the Python models that are served, where that is allowed.

    The worker that imports a model writes it beside the model otherwise. Triton takes that for a change of the model:
    the first reload after it would load every Python model again, for nothing. What cannot be compiled, Triton will
    speak of.
    """
    models, _ = read_models(repository)
    for model in served_models(models):
        for version in model.served() if model.backend == "python" else ():
            compileall.compile_dir(version.folder, maxlevels=0, quiet=2)
