"""Parity again: of an artefact in the repository, or of a classifier that a running server has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jpeg_contract.command_line import Progress
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.forms import ClassifierForm
from jpeg_contract.model_config import CONFIG, ModelConfig
from jpeg_contract.remedies import reload_command
from jpeg_contract.report import Report
from jpeg_contract.resources import PHOTOS
from jpeg_contract.tensors import INPUT, OUTPUT

from jpeg_build.build.inputs import prepare_inputs
from jpeg_build.build.request import Request
from jpeg_build.checks import parity
from jpeg_build.checks.as_served import open_isolated, run_as_served
from jpeg_build.checks.batches import split_batches
from jpeg_build.checks.parity_inputs import ParityInputs
from jpeg_build.checks.speed import speed_by_batch
from jpeg_build.emitters import Logits, Options, Pixels, Run
from jpeg_build.errors import BuildError, ParityError, RepositoryError
from jpeg_build.recipe.recipe import Recipe, find_recipe, load_recipe
from jpeg_build.repository import tree
from jpeg_build.repository.artefacts import find_artefact, reported_artefact, require_built, served_version
from jpeg_build.repository.serving import serving_args

# For one batch: 64 images in float16 take a CPU a minute.
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Verification:
    """One verification that is requested.

    Attributes:
        repository: The model repository.
        form: Of the classifier.
        recipe: None takes the one that the report names.
        version: None takes the one that is served.
        server: HOST:PORT of a server's gRPC; None runs the artefact here.
        checkpoint: Weights instead of the recipe's.
        random_weights: Likewise.
        trust_code: Run the Python file that the recipe names.
        photos: A folder of JPEGs; None takes the project's.
        speed: Measure images per second, too.
    """

    repository: Path
    form: ClassifierForm
    recipe: str | None = None
    version: str | None = None
    server: str | None = None
    checkpoint: Path | None = None
    random_weights: bool = False
    trust_code: bool = False
    photos: Path | None = None
    speed: bool = False


def verify(wanted: Verification, progress: Progress) -> dict[str, Any]:
    """Run the network and the classifier again, and return the measurements.

    Raises:
        ParityError: The classifier is outside the tolerance of its precision.
        BuildError: They cannot be compared.
    """
    report = require_built(wanted.repository, wanted.form, wanted.version)
    recipe = _recipe(wanted, report)
    source, from_onnx = report.weights.source, report.requested.get("from_onnx") is not None
    if source.startswith("checkpoint") and wanted.checkpoint is None and not from_onnx:
        raise BuildError(
            f"{wanted.form.model} was built from {source}: name that file with --checkpoint FILE",
            reason="checkpoint_missing",
        )
    artefact = _artefact(wanted, report)
    config = _config(wanted)
    server = _Server(wanted.server, wanted.form.model, artefact.parent.name) if wanted.server is not None else None
    if server is not None:
        server.require_ready()
    request = Request(
        recipe=recipe,
        repository=wanted.repository,
        ensemble=wanted.form.ensemble,
        backend=wanted.form.name,
        checkpoint=wanted.checkpoint,
        random_weights=wanted.random_weights or source.startswith("random"),
        trust_code=wanted.trust_code,
        # An artefact of the repository's ONNX file is compared with that file, unless the weights are named.
        from_onnx=from_onnx and wanted.checkpoint is None and not wanted.random_weights,
        photos=wanted.photos or PHOTOS,
    )
    inputs = prepare_inputs(request, progress)
    if inputs.network.weights.sha256 != report.weights.sha256:
        raise BuildError(
            f"{wanted.form.model} was built from other weights ({source}) than {inputs.network.weights.source}",
            reason="weights_differ",
        )
    progress(f"running {wanted.form.model}{f' on {wanted.server}' if wanted.server else ''}")
    args = serving_args(config, artefact.parent)
    opt = int(report.details.get("profile", {}).get("opt", Options.opt_batch))
    speeds = None
    if server is None:
        outputs, _ = run_as_served(recipe, config, args, inputs, opt)
        if wanted.speed:
            with open_isolated(args) as run:
                speeds = speed_by_batch(run.images_per_second, inputs.photos)
    else:
        with server.opened() as infer:
            sizes = parity.batch_sizes(cpus=usable_cpus(), opt=opt, largest=config.max_batch_size)
            outputs = parity.run_in_batches(infer, inputs.pixels, sizes)
            if wanted.speed:
                speeds = speed_by_batch(_measure(infer), inputs.photos)
    judged = parity.judged_as(report.precision, inputs.network)
    measured = parity.measure(inputs.reference, outputs, photos=len(inputs.photos), precision=judged)
    try:
        parity.check(measured, judged, report.precision)
    except ParityError as error:
        raise ParityError(f"{error}{_advice(wanted, report)}", reason=error.reason) from error
    found: dict[str, Any] = {
        "classifier": wanted.form.model,
        "version": artefact.parent.name,
        "server": wanted.server,
        "recipe": recipe.name,
        "precision": report.precision,
        "parity": msgspec.to_builtins(measured),
        "tolerance": msgspec.to_builtins(report.tolerance),
    }
    if server is not None:
        found["difference_from_artefact"] = _from_artefact(wanted, args, inputs, outputs, progress)
    return found if speeds is None else {**found, "images_per_second": speeds}


def _advice(wanted: Verification, report: Report) -> str:
    """Name the remedy where other photos than those of the build are the probable cause."""
    made = report.quantisation
    if made is None or made.compared_on == "photos" or wanted.photos is not None:
        return ""
    return (
        f". The build compared it on {made.compared_images} {made.compared_on}, and this is a comparison on the "
        "project's photos: name the folder of --calibration with --photos DIR"
    )


def _measure(run: Run) -> Callable[[Pixels, float], float]:
    def images_per_second(batch: Pixels, seconds: float) -> float:
        count, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            run(batch)
            count += len(batch)
        return count / elapsed

    return images_per_second


def _from_artefact(
    wanted: Verification, args: dict[str, str], inputs: ParityInputs, outputs: parity.Outputs, progress: Progress
) -> float | None:
    """Compare the server with the artefact in the repository, which it may not have loaded yet.

    Returns:
        The largest difference, as a part of the largest logit; None where the artefact does not run on this machine.
    """
    try:
        with open_isolated(args) as run:
            here = np.concatenate([run(inputs.pixels[at : at + 1]) for at in range(len(inputs.pixels))])
    except BuildError:
        return None
    # Runtimes of the same network differ by less than this precision does.
    difference = parity.measure(here, outputs, photos=len(inputs.photos), precision="fp16").relative_difference
    if not difference <= parity.TOLERANCES["fp16"].relative_difference:
        progress(
            f"the server differs from the artefact in {wanted.repository} (by up to {difference:.2g} of the largest "
            f"logit): it may run an earlier build; {reload_command(wanted.repository)} makes it load this one"
        )
    return difference


def _artefact(wanted: Verification, report: Report) -> Path:
    version = served_version(wanted.repository, wanted.form, wanted.version)
    assert version is not None, "there is a report"
    return reported_artefact(find_artefact(wanted.repository, wanted.form, version), report)


def _config(wanted: Verification) -> ModelConfig:
    config = tree.read_config(wanted.repository, wanted.form.model)
    if config is None:
        raise RepositoryError(f"{wanted.repository / wanted.form.model / CONFIG} is missing: build it again")
    return config


def _recipe(wanted: Verification, report: Report) -> Recipe:
    try:
        recipe = load_recipe(find_recipe(wanted.recipe or report.recipe))
    except BuildError as error:
        if wanted.recipe is not None:
            raise
        raise BuildError(
            f"{wanted.form.model} was built from a recipe {report.recipe!r} that this project does not have: name it "
            "with --recipe FILE",
            reason="recipe_missing",
        ) from error
    if recipe.sha256 != report.recipe_sha256:
        form = wanted.form
        again = recipe.build_command(form, wanted.repository, form.ensemble)
        raise BuildError(
            f"{form.model} was built from another recipe, or an older state of it, than {recipe.path}: build it again "
            f"with {again}",
            reason="recipe_differs",
        )
    return recipe


class _Server:
    """A version of a classifier on a running server, over gRPC."""

    def __init__(self, address: str, model: str, version: str) -> None:
        self._address, self._model, self._version = address.removeprefix("grpc://"), model, version

    def require_ready(self) -> None:
        """Raise BuildError if no server answers, or it does not have the classifier."""
        import tritonclient.grpc as triton

        host, _, port = self._address.rpartition(":")
        if not host or not port.isdigit():
            raise BuildError(
                f"--server {self._address}: not HOST:PORT, the server's gRPC port, usually 8001", reason="invalid_call"
            )
        with triton.InferenceServerClient(self._address) as client:
            try:
                ready = client.is_model_ready(self._model, self._version, client_timeout=10)
            except triton.InferenceServerException as error:
                raise BuildError(
                    f"{self._address}: no Triton server answers there over gRPC (usually port 8001; 8000 is HTTP's): "
                    f"{error.message()}",
                    reason="server_unavailable",
                ) from error
        if not ready:
            raise BuildError(
                f"{self._address}: the server does not serve version {self._version} of {self._model}: choose it with "
                "jpeg-build use, then restart or reload the server",
                reason="not_served",
            )

    @contextmanager
    def opened(self) -> Iterator[Run]:
        """Return a function that runs batches on the server. Raises BuildError if it does not answer."""
        import tritonclient.grpc as triton

        client = triton.InferenceServerClient(self._address)

        def infer(pixels: Pixels) -> Logits:
            tensor = triton.InferInput(INPUT, list(pixels.shape), "UINT8")
            tensor.set_data_from_numpy(np.ascontiguousarray(pixels))
            response = client.infer(self._model, [tensor], model_version=self._version, client_timeout=_TIMEOUT_S)
            logits: Logits = response.as_numpy(OUTPUT)
            return logits

        try:
            # Beyond this, the server refuses a request.
            largest = client.get_model_config(self._model, self._version).config.max_batch_size
            yield split_batches(infer, largest)
        except triton.InferenceServerException as error:
            raise BuildError(
                f"{self._address}: version {self._version} of {self._model} does not answer: {error.message()}",
                reason="server_failed",
            ) from error
        finally:
            client.close()
