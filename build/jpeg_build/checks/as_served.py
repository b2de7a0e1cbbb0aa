"""Runs an artefact as the server does: in processes of its own, in batches of several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.model_config import ModelConfig
from jpeg_runtime.isolated import IsolatedClassifier, RuntimeFailure

from jpeg_build.checks import parity
from jpeg_build.checks.parity_inputs import ParityInputs
from jpeg_build.emitters import Logits
from jpeg_build.errors import BuildError
from jpeg_build.photos import probe_pixels
from jpeg_build.recipe.recipe import Recipe


def run_as_served(
    recipe: Recipe, config: ModelConfig, args: Mapping[str, str], inputs: ParityInputs, opt_batch: int
) -> tuple[parity.Outputs, Logits]:
    """Run an artefact in batches of several sizes, in processes of its own, as Triton's worker does.

    A server with several CPUs spreads a batch over them in another way than one with a single CPU. So a machine with
    one checks both.

    Returns:
        The logits of the images by batch size, and those of the probe's photo, (rows, classes).

    Raises:
        BuildError: The artefact cannot be opened or run.
    """
    on_cpu = args["model_instance_kind"] == "CPU"
    photo = probe_pixels(recipe)
    batches: list[int] = []
    logits: list[Logits] = []
    probe: list[Logits] = []
    for cpus in sorted({usable_cpus(), max(2, usable_cpus())}) if on_cpu else [usable_cpus()]:
        sizes = parity.batch_sizes(cpus=cpus, opt=opt_batch, largest=config.max_batch_size)
        with open_isolated(args, cpus=cpus) as run:
            found = parity.run_in_batches(run, inputs.pixels, sizes)
            probe += [run(photo[:1]), run(photo[1:]), run(np.concatenate([photo, photo[:1]]))]
        batches += found.batches
        logits += found.logits
    return parity.Outputs(tuple(batches), tuple(logits)), np.concatenate(probe)


@contextmanager
def open_isolated(args: Mapping[str, str], *, cpus: int | None = None) -> Iterator[IsolatedClassifier]:
    """Open an artefact in a process of its own. Raises BuildError if it cannot be opened or run."""
    try:
        with IsolatedClassifier(args, cpus=cpus) as run:
            yield run
    except RuntimeFailure as error:
        raise BuildError(f"the artefact cannot be served: {error}", reason=error.reason) from error
