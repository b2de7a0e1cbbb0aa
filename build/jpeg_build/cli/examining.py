"""The commands that examine what was built: verify, evaluate, inspect."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from jpeg_contract.command_line import PositiveInteger, note, print_json
from jpeg_contract.remedies import DEFAULT_REPOSITORY
from jpeg_contract.settings import Decoder
from jpeg_contract.tensors import ENSEMBLE

from jpeg_build.cli.arguments import ModelName, Version, Weights, find_form
from jpeg_build.cli.reporting import COMMAND, parity_line, work
from jpeg_build.errors import CallError

DEFAULT_RESULTS = Path("evaluation")


def verify(
    backend: str,
    /,
    *,
    recipe: str | None = None,
    version: Version | None = None,
    server: str | None = None,
    photos: Path | None = None,
    speed: bool = False,
    checkpoint: Path | None = None,
    weights: Weights = "recipe",
    model_repository: Path = DEFAULT_REPOSITORY,
    json: bool = False,
    trust_code: bool = False,
    name: ModelName = ENSEMBLE,
) -> None:
    """Compare a classifier with the network it was built from, as the build did.

    Args:
        backend: The classifier form.
        recipe: Name or path (default: the recipe that the report names).
        version: Version to verify: a number, or newest (default: the one that is served).
        server: HOST:PORT of a running server's gRPC, to verify what it serves (default: run the artefact here).
        photos: Folder of JPEGs (default: the project's photos).
        speed: Also measure images per second in batches of 1, 8, 32 and 64, host memory to host memory.
        checkpoint: Weights instead of the recipe's.
        weights: none takes random weights from a fixed seed.
        model_repository: The model repository.
        json: Print all measurements as JSON.
        trust_code: Run the Python file that the recipe names (kind = "module").
        name: Name of the model.
    """
    from jpeg_build.verify import Verification
    from jpeg_build.verify import verify as compare

    if checkpoint is not None and weights == "none":
        raise CallError("--checkpoint and --weights none exclude each other")
    with work() as step:
        found = compare(
            Verification(
                repository=model_repository,
                form=find_form(backend, name),
                recipe=recipe,
                version=version,
                server=server,
                checkpoint=checkpoint,
                random_weights=weights == "none",
                trust_code=trust_code,
                photos=photos,
                speed=speed,
            ),
            step,
        )
    if json:
        print_json(found)
        return
    print(f"{found['classifier']}/{found['version']}: {found['recipe']} in {found['precision']}, within its tolerance")
    print(f"  {parity_line(found['parity'], found['tolerance'])}")
    for size, images in found.get("images_per_second", {}).items():
        print(f"  batches of {size}: {images:g} images/s")


def evaluate(
    recipe: str,
    /,
    *,
    data: Path,
    name: ModelName = ENSEMBLE,
    backend: Annotated[Sequence[str], Parameter(show_default=False)] = (),
    decoder: Annotated[Sequence[Decoder], Parameter(show_default=False)] = (),
    gate: Annotated[Sequence[str], Parameter(show_default=False)] = (),
    limit: PositiveInteger | None = None,
    results: Path = DEFAULT_RESULTS,
    fresh: bool = False,
    checkpoint: Path | None = None,
    model_repository: Path = DEFAULT_REPOSITORY,
    json: bool = False,
    trust_code: bool = False,
) -> None:
    """Measure the accuracy of a network, and of all that is built of it, on labelled photos (docs/evaluate.md).

    Args:
        recipe: Name or path.
        data: Folder with a folder of photos for each class, CSV file (file,label), or Hugging Face imagefolder.
        name: Whose classifiers are evaluated.
        backend: A classifier form; repeat it for several (default: all that are built and run on this machine).
        decoder: full, scaled or gpu; repeat it for several (default: all that this machine has).
        gate: Fail unless it holds, as in "top1 >= fp32 - 0.5%" or "openvino.int8: ece <= 5%"; can be repeated.
        limit: Evaluate a sample of so many photos.
        results: Folder of the report, and of the answers so far, from which an interrupted evaluation goes on.
        fresh: Forget the answers so far.
        checkpoint: Weights instead of the recipe's, for the framework's answers.
        model_repository: The model repository.
        json: Print the result as JSON.
        trust_code: Run the Python file that the recipe names (kind = "module").
    """
    from jpeg_build.evaluate.document import summary_lines
    from jpeg_build.evaluate.evaluation import EvaluationRequest, require_gates, to_json
    from jpeg_build.evaluate.evaluation import evaluate as measure
    from jpeg_build.recipe.recipe import find_recipe, load_recipe

    request = EvaluationRequest(
        recipe=load_recipe(find_recipe(recipe)),
        data=data,
        repository=model_repository,
        results=results,
        ensemble=name,
        backends=[find_form(each, name).name for each in backend],
        decoders=decoder,
        checkpoint=checkpoint,
        trust_code=trust_code,
        limit=limit,
        gates=gate,
        fresh=fresh,
    )
    with work() as step:
        found = measure(request, step)
    if json:
        print_json(to_json(found.evaluation))
    else:
        print("\n".join(summary_lines(found.evaluation)))
    note(COMMAND, f"the report is {found.files[-1]}")
    require_gates(found)


def inspect(
    artefact: str,
    /,
    *,
    version: Version | None = None,
    name: ModelName = ENSEMBLE,
    model_repository: Path = DEFAULT_REPOSITORY,
) -> None:
    """Show the inside of an artefact as JSON: tensors, operators or layers, size, and its report.

    Args:
        artefact: A classifier form, or the path of an artefact.
        version: Version to show: a number, or newest (default: the one that is served).
        name: Name of the model.
        model_repository: The model repository.
    """
    from jpeg_build.inspect_artefact import inspect_artefact

    with contextlib.redirect_stdout(sys.stderr):
        found = inspect_artefact(model_repository, artefact, version, name)
    print_json(found)
