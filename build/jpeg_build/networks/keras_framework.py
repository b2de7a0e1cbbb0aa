"""The import of Keras: with a backend of our choice, quiet, without traces in the user's home folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from jpeg_contract.remedies import missing_package

from jpeg_build.errors import BuildError

EXTRA = "keras"


def keras_on_torch() -> Any:
    """Import the package `keras` with PyTorch as its backend, whatever the user's keras.json names.

    Raises:
        BuildError: A package is not installed, or Keras runs on another backend in this process.
    """
    try:
        with importing("torch"):
            import h5py  # noqa: F401  # Keras does without it until it reads a file.
            import keras
    except ModuleNotFoundError as error:
        if error.name not in ("h5py", "keras", "torch"):
            raise
        raise BuildError(missing_package(error.name, EXTRA), reason="package_missing") from error
    if keras.backend.backend() != "torch":
        raise BuildError(
            f"Keras runs on {keras.backend.backend()} in this process, and must run on PyTorch: start another one",
            reason="keras_backend",
        )
    use_defaults(keras)
    return keras


@contextmanager
def importing(backend: Literal["tensorflow", "torch"]) -> Iterator[None]:
    """Set the backend for the import of Keras, and keep the import from leaving files in the user's home folder."""
    os.environ["KERAS_BACKEND"] = backend  # It goes before keras.json.
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    settings = home / "keras.json"
    had_home, had_settings = home.exists(), settings.exists()
    # For plots. It takes a quarter of the import's time, and writes a list of fonts.
    without = "matplotlib" not in sys.modules
    if without:
        sys.modules["matplotlib"] = cast(ModuleType, None)
    try:
        yield
    finally:
        if without:
            sys.modules.pop("matplotlib", None)
        try:
            if not had_settings:
                settings.unlink(missing_ok=True)
            if not had_home and home.exists():
                home.rmdir()
        except OSError:
            pass  # Another process uses the folder.


def use_defaults(keras: Any) -> None:
    """Undo what the user's keras.json changes in the networks of keras.applications."""
    keras.backend.set_image_data_format("channels_last")
    keras.backend.set_floatx("float32")
