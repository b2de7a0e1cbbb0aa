"""What the user should know after a build: the choices that it left alone, and a network's odd outputs."""

from __future__ import annotations

from jpeg_contract.forms import form_of_model
from jpeg_contract.model_config import CONFIG, chosen_classifier, pinned_version, route_of
from jpeg_contract.remedies import use_command
from jpeg_contract.report import Report

from jpeg_build.build.request import Request
from jpeg_build.checks.parity_inputs import ParityInputs
from jpeg_build.recipe.outputs import to_scores
from jpeg_build.repository import tree
from jpeg_build.repository.artefacts import served_report
from jpeg_build.repository.belonging import other_recipe
from jpeg_build.repository.ensembles import preprocess_of

# Below this many photos, one class for all of them may be right.
_SEVERAL_PHOTOS = 4


def warnings_on(request: Request, inputs: ParityInputs, report: Report) -> list[str]:
    """Describe outputs of the network that a wrong recipe explains: parity does not see it, since both sides share it.

    Random weights are for benchmarks, and need no warning.
    """
    if report.weights.source.startswith("random"):
        return []
    labels, logits = inputs.network.labels, inputs.reference[: len(inputs.photos)]
    best = sorted(set(logits.argmax(axis=1).tolist()))
    highest = float(to_scores(logits, request.recipe.output).max())
    remedy = (
        "if the photos show different things that the network knows, the recipe's [geometry], [normalisation] "
        f"(range, mean, std, color) or labels are wrong: {request.recipe.path}"
    )
    found = []
    if request.recipe.classes > 1 and len(best) == 1 and len(logits) >= _SEVERAL_PHOTOS:
        found.append(f"ALL {len(logits)} PHOTOS GET ONE CLASS, {labels[best[0]]}: {remedy}")
    if request.recipe.output == "softmax" and highest < min(0.5, 3 / request.recipe.classes):
        found.append(
            f"THE SCORES ARE FLAT: the highest of all photos is {highest:.3g}, with {request.recipe.classes} classes: "
            f"{remedy}"
        )
    return found


def notes_on(request: Request) -> list[str]:
    """Describe the user's choices that the build left alone."""
    found = []
    form, root = request.form, request.repository
    name = request.ensemble
    ensemble = tree.read_config(root, name)
    chosen = chosen_classifier(ensemble) if ensemble is not None else None
    router = tree.read_config(root, request.names.router) if chosen == request.names.router else None
    route = route_of(router) if router is not None else None
    if route is not None:
        versions = ", ".join(map(str, (route.primary, route.candidate)))
        found.append(
            f"{name} has a {route.mode} of {route.percent:g} % between {versions}, which stays: "
            f"{use_command(form.name, root, version=request.settled_version, ensemble=name)} ends it"
        )
    elif chosen != form.model:
        path = root / name / CONFIG
        use = use_command(form.name, root, ensemble=name)
        other = form_of_model(chosen or "")
        report = served_report(root, other) if other is not None else None
        if other is not None and report is not None and other_recipe(root, request.names, report) is not None:
            build = request.recipe.build_command(other, root, name)
            found.append(
                f"THE ENSEMBLE CANNOT BE SERVED AS IT IS: {path} uses {chosen}, which was built from another recipe "
                f"({report.recipe}) than the steps around it now ({request.recipe.name}). Run {use}, or {build}"
            )
        else:
            found.append(f"{path} uses {chosen}; to use {form.model}, edit that word, or run: {use}")
    classifier = tree.read_config(root, form.model)
    if classifier is not None:
        served = pinned_version(classifier)
        if served not in (None, request.settled_version):
            found.append(
                f"{form.model} serves version {served}; to serve version {request.settled_version}: "
                f"{use_command(form.name, root, version=request.settled_version, ensemble=name)}"
            )
        if ensemble is not None and ensemble.max_batch_size > classifier.max_batch_size:
            found.append(
                f"{form.model} takes batches up to {classifier.max_batch_size}, and {name} promises "
                f"{ensemble.max_batch_size}: lower max_batch_size there, or build with a larger --max-batch"
            )
    if request.options.min_batch > 1 and form.takes_device_tensors:
        found.append(
            f"this project's backend pads a request with fewer than {request.options.min_batch} images; the "
            "container's native one refuses it"
        )
    for model in (preprocess_of(root, request.names), request.names.postprocess):
        path = root / model / "1" / "model.py"
        if tree.differs_from_source(path, model):
            found.append(f"{path} differs from this project's and was left alone; delete it to have it renewed")
    return found
