"""Opens an artefact of any form, with the settings of its config."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from jpeg_contract.errors import ReasonedError
from jpeg_contract.parameters import SettingsError

from jpeg_runtime.batching import Array, Run, concatenated
from jpeg_runtime.device_runner import DeviceRunner
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig

Loader = Callable[[ServingConfig], "Run | DeviceRunner"]
"""Opens an artefact. Raises ModelLoadError, which keeps the model from loading, if it cannot be served."""


class Classifier:
    """An open artefact.

    Args:
        loaded: The result of its loader.
    """

    def __init__(self, loaded: Run | DeviceRunner) -> None:
        self.loaded = loaded
        self._run_each = loaded if isinstance(loaded, DeviceRunner) else concatenated(loaded)

    def run_each(self, inputs: Sequence[Any]) -> Sequence[Array]:
        """Run the pixels of several requests together.

        Args:
            inputs: For each request (N, H, W, 3) uint8, in host memory (NumPy); or on a GPU, as `from_capsule` returns
                it, for a classifier that takes it there.

        Returns:
            For each request (N, classes) float32 logits, in host memory.
        """
        return self._run_each(inputs)

    def __call__(self, pixels: Any) -> Array:
        """Run one batch of any size: see `run_each`."""
        (logits,) = self._run_each([pixels])
        return logits

    @property
    def takes_device_tensors(self) -> bool:
        """Whether pixels may lie on a GPU."""
        return isinstance(self.loaded, DeviceRunner)

    def from_capsule(self, capsule: Any) -> Any:
        """Take a DLPack capsule in the GPU's memory as an array; nothing is copied."""
        assert isinstance(self.loaded, DeviceRunner)
        return self.loaded.from_capsule(capsule)


def open_classifier(config: ServingConfig) -> Classifier:
    """Open an artefact as the server does.

    Raises:
        ModelLoadError: It cannot be served, with the remedy.
    """
    module, _, function = config.form.loader.partition(":")
    try:
        loader: Loader = getattr(importlib.import_module(module), function)
        return Classifier(loader(config))
    except SettingsError as error:
        raise ModelLoadError(str(error), reason=error.reason) from error
    except ReasonedError:
        raise
    except ModuleNotFoundError as error:
        remedies = {package.name: package.remedy for package in (*config.form.packages, *config.form.engine_packages)}
        remedy = remedies.get(str(error.name), f"pip install {error.name}")
        raise ModelLoadError(
            f"the package {error.name} is not installed: {remedy}", reason="package_missing"
        ) from error
