"""Parity again: of an artefact in the repository, or of a classifier that a running server has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jpeg_build import parity
from jpeg_build import report as reports
from jpeg_build.artefacts import find_report, require_built, served_version
from jpeg_build.batches import any_batch
from jpeg_build.build import Opener, Question, Request, answers_of, ask
from jpeg_build.commands import build_command, reload_command
from jpeg_build.contract import INPUT, OUTPUT
from jpeg_build.emitters import Logits, Pixels, Run, Say, emitter
from jpeg_build.errors import BuildError
from jpeg_build.photos import PHOTOS
from jpeg_build.recipe import Recipe, find_recipe, load_recipe
from jpeg_build.speed import by_batch_size
from jpeg_build.targets import Target


@dataclass(frozen=True)
class Verification:
    """What is to be verified.

    recipe: None takes the one that the report names, from build/recipes. version: None takes the one that is served.
    server: HOST:PORT of a server's gRPC; None runs the artefact here. speed: measure images a second, too.
    """

    repository: Path
    target: Target
    recipe: str | None = None
    version: str | None = None
    server: str | None = None
    checkpoint: Path | None = None
    random_weights: bool = False
    photos: Path | None = None
    speed: bool = False


def verify(wish: Verification, say: Say) -> dict[str, Any]:
    """Ask the network and the artefact again; returns what was measured.

    Raises ParityError if it is outside the tolerance of its precision, BuildError if it cannot be asked.
    """
    report = require_built(wish.repository, wish.target, wish.version)
    recipe = _recipe(wish, report)
    source = str(report["weights"]["source"])
    made_of = report.get("asked", {}).get("from_onnx")
    if source.startswith("checkpoint") and wish.checkpoint is None and made_of is None:
        raise BuildError(f"{wish.target.model} was built from {source}: name that file with --checkpoint FILE")
    artefact = _artefact(wish, report)
    server = _Server(wish.server, wish.target.model, artefact.parent.name) if wish.server is not None else None
    if server is not None:
        server.require_ready()
    request = Request(
        recipe=recipe,
        repository=wish.repository,
        backend=wish.target.name,
        checkpoint=wish.checkpoint,
        random_weights=wish.random_weights or source.startswith("random"),
        # What was made of the repository's ONNX file is compared with it, unless the weights are named.
        from_onnx=made_of is not None and wish.checkpoint is None and not wish.random_weights,
        photos=wish.photos or PHOTOS,
    )
    question = ask(request, say)
    if question.network.weights.sha256 != report["weights"]["sha256"]:
        raise BuildError(
            f"{wish.target.model} was built from other weights ({source}) than {question.network.weights.source}"
        )
    say(f"asking {wish.target.model} {f'on {wish.server}' if wish.server else ''}".rstrip())
    backend: Opener = server or emitter(wish.target)
    answers = answers_of(backend, artefact, question.pixels)
    speeds = None
    if wish.speed:
        with backend.opened(artefact) as run:
            speeds = by_batch_size(run, question.photos)
    precision = str(report["precision"])
    judged = parity.judged_as(precision, question.network)
    measured = parity.measure(question.reference, answers, photos=len(question.photos), precision=judged)
    parity.check(measured, judged, precision)
    found: dict[str, Any] = {
        "classifier": wish.target.model,
        "version": artefact.parent.name,
        "server": wish.server,
        "recipe": recipe.name,
        "precision": precision,
        "parity": asdict(measured),
        "tolerance": asdict(parity.TOLERANCES[judged]),
    }
    if server is not None:
        found["difference_from_artefact"] = _from_artefact(wish, artefact, question, answers, say)
    return found if speeds is None else {**found, "images_per_second": speeds}


def _from_artefact(wish: Verification, artefact: Path, question: Question, answers: Logits, say: Say) -> float | None:
    """How far the server's answers are from those of the artefact in the repository, which it may not have loaded yet.

    The largest difference as a part of the largest logit; None where the artefact does not run on this machine.
    """
    try:
        here = answers_of(emitter(wish.target), artefact, question.pixels)
    except BuildError:
        return None
    # Runtimes of the same network differ by less than this precision does.
    difference = parity.measure(here, answers, photos=len(question.photos), precision="fp16").relative_difference
    if not difference <= parity.TOLERANCES["fp16"].relative_difference:
        say(
            f"the server answers otherwise than {artefact} (by up to {difference:.2g} of the largest logit): it may "
            f"run an earlier build; {reload_command(wish.repository)} lets it take this one"
        )
    return difference


def _artefact(wish: Verification, report: reports.Report) -> Path:
    version = served_version(wish.repository, wish.target, wish.version)
    assert version is not None, "there is a report"
    return find_report(wish.repository, wish.target, version).with_name(str(report["artefact"]["file"]))


def _recipe(wish: Verification, report: reports.Report) -> Recipe:
    try:
        recipe = load_recipe(find_recipe(wish.recipe or str(report["recipe"])))
    except BuildError as error:
        if wish.recipe is not None:
            raise
        raise BuildError(
            f"{wish.target.model} was built from a recipe {report['recipe']!r} that is not in build/recipes: name it "
            "with --recipe FILE"
        ) from error
    if recipe.sha256 != report["recipe_sha256"]:
        raise BuildError(
            f"{wish.target.model} was built from another recipe, or an older state of it, than {recipe.path}: build it "
            f"again with {build_command(recipe.word, wish.target.name, wish.repository)}"
        )
    return recipe


class _Server:
    """A version of a classifier on a running server, asked over gRPC."""

    def __init__(self, address: str, model: str, version: str) -> None:
        self._address, self._model, self._version = address.removeprefix("grpc://"), model, version

    def require_ready(self) -> None:
        """Raises BuildError if no server answers, or it does not have the classifier."""
        import tritonclient.grpc as triton

        host, _, port = self._address.rpartition(":")
        if not host or not port.isdigit():
            raise BuildError(f"--server {self._address}: is not HOST:PORT, the server's gRPC port, usually 8001")
        with triton.InferenceServerClient(self._address) as client:
            try:
                ready = client.is_model_ready(self._model, self._version, client_timeout=10)
            except triton.InferenceServerException as error:
                raise BuildError(
                    f"{self._address}: no Triton server answers there by gRPC (usually port 8001; 8000 is HTTP's): "
                    f"{error.message()}"
                ) from error
        if not ready:
            raise BuildError(
                f"{self._address}: the server does not serve version {self._version} of {self._model}: let the "
                "ensemble use it, then start the server anew or reload it"
            )

    @contextmanager
    def opened(self, _artefact: Path) -> Iterator[Run]:
        """See Emitter; it is the server that has the artefact. Raises BuildError if it does not answer."""
        import tritonclient.grpc as triton

        client = triton.InferenceServerClient(self._address)

        def ask_for(pixels: Pixels) -> Logits:
            tensor = triton.InferInput(INPUT, list(pixels.shape), "UINT8")
            tensor.set_data_from_numpy(pixels)
            answer = client.infer(self._model, [tensor], model_version=self._version, client_timeout=60)
            logits: Logits = answer.as_numpy(OUTPUT)
            return logits

        try:
            # Beyond this, the server refuses a request.
            largest = client.get_model_config(self._model, self._version).config.max_batch_size
            yield any_batch(ask_for, 1, largest)
        except triton.InferenceServerException as error:
            raise BuildError(
                f"{self._address}: version {self._version} of {self._model} does not answer: {error.message()}"
            ) from error
        finally:
            client.close()
