"""One evaluation: labelled photos through everything that was built of a recipe, to a report."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from jpeg_contract.command_line import Progress
from jpeg_contract.folder_lock import FolderLock
from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.model_names import ModelNames
from jpeg_contract.settings import Decoder
from jpeg_contract.tensors import ENSEMBLE
from jpeg_contract.versions import tool_versions

from jpeg_build.errors import BuildError, CallError
from jpeg_build.evaluate.candidates import Candidate, find_candidates, preprocess_settings
from jpeg_build.evaluate.dataset import Dataset, read_dataset
from jpeg_build.evaluate.gate import Gate, check_gate, read_gate, require_scope
from jpeg_build.evaluate.machine import this_machine
from jpeg_build.evaluate.report_files import MOST_SHOWN, thumbnails, write_reports
from jpeg_build.evaluate.results import (
    Evaluation,
    GateResult,
    Judge,
    UnreadablePhoto,
    compare,
    disagreements,
    pairs,
)
from jpeg_build.evaluate.runs import FRAMEWORK_DECODER, Gathered, Runner, open_decoders, runs_of
from jpeg_build.networks.load import load_network
from jpeg_build.recipe.recipe import Recipe

PREDICTIONS = "predictions"
# Two evaluations at once would mix their files.
_LOCK = FolderLock(
    ".lock",
    BuildError,
    busy="another evaluation writes there: wait for it, or name another folder with --results",
    busy_reason="results_busy",
    unwritable_reason="results_unwritable",
)


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation that is requested.

    Attributes:
        recipe: Of the network.
        data: A folder or table of labelled photos.
        repository: The model repository.
        results: Folder of the reports and of the answers so far; made if it is not there.
        ensemble: Whose forms are evaluated.
        backends: Forms to evaluate; none takes all that are built and run here.
        decoders: Decoders; none takes all of this machine.
        checkpoint: Weights instead of the recipe's, for the framework.
        trust_code: Run the Python file that the recipe names.
        limit: Evaluate a sample of so many photos.
        gates: Conditions.
        fresh: Forget the answers so far.
    """

    recipe: Recipe
    data: Path
    repository: Path
    results: Path
    ensemble: str = ENSEMBLE
    backends: Sequence[str] = ()
    decoders: Sequence[Decoder] = ()
    checkpoint: Path | None = None
    trust_code: bool = False
    limit: int | None = None
    gates: Sequence[str] = ()
    fresh: bool = False


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation, and the files that hold it."""

    evaluation: Evaluation
    files: Sequence[Path]

    @property
    def failed(self) -> list[GateResult]:
        """The gates that failed, on the runs on which they did."""
        return [each for each in self.evaluation.gates if not each.passed]


def evaluate(request: EvaluationRequest, progress: Progress) -> Evaluated:
    """Evaluate the network and its forms, and write the reports. Failed gates are in the result.

    Raises:
        BuildError: It cannot be evaluated; the answers so far are kept.
    """
    recipe, names = request.recipe, ModelNames(request.ensemble)
    gates = [read_gate(text, recipe.output) for text in request.gates]
    needed = _needed(request.backends, gates)
    candidates, left_out = find_candidates(request.repository, recipe, names, request.backends, needed)
    settings = preprocess_settings(request.repository, recipe, names, candidates)
    # Wrong labels are found before the network is loaded, where the recipe has them.
    dataset = read_dataset(request.data, recipe.labels, recipe.output) if recipe.labels is not None else None
    network = load_network(
        recipe,
        _framework_form(candidates),
        checkpoint=request.checkpoint,
        trust_code=request.trust_code,
        progress=progress,
    )
    if dataset is None:
        dataset = read_dataset(request.data, network.labels, recipe.output)
    dataset = dataset.limited(request.limit)
    machine = this_machine()
    with _LOCK.hold(request.results), open_decoders(settings, request.decoders) as (decoders, no_decoders):
        if request.fresh:
            shutil.rmtree(request.results / PREDICTIONS, ignore_errors=True)
        runs = runs_of(candidates, list(request.decoders or decoders), settings.decoder)
        for gate in gates:
            require_scope(gate, runs)
        runner = Runner(
            recipe=recipe,
            network=network,
            settings=settings,
            machine=machine,
            folder=request.results / PREDICTIONS,
            required=needed,
            progress=progress,
        )
        try:
            gathered = runner.gather(dataset.photos, runs, decoders)
        except KeyboardInterrupt:
            progress(f"the answers so far are in {request.results}: the same command goes on from there")
            raise
        _require_photos(dataset, gathered)
        judge = Judge(network.labels, recipe.output, recipe.threshold, network.weights.sha256)
        outcomes = {run.name: judge.outcome(run, gathered) for run in runs if run.name in gathered.answers}
        places, differing = disagreements(list(outcomes.values()), gathered.photos, network.labels)
        pictures = thumbnails([gathered.photos[place] for place in places[:MOST_SHOWN]], decoders[FRAMEWORK_DECODER])
        evaluation = Evaluation(
            recipe=recipe.name,
            recipe_sha256=recipe.sha256,
            ensemble=request.ensemble,
            data=_shown(request.data),
            layout=dataset.layout,
            reading=dataset.reading,
            photos=len(gathered.photos),
            unreadable=[
                UnreadablePhoto(photo=each.name, reason=each.reason, message=each.message)
                for each in gathered.unreadable
            ],
            output=recipe.output,
            threshold=judge.decision if recipe.output == "sigmoid" else recipe.threshold,
            labels=list(network.labels),
            framework=network.weights.source,
            machine=machine,
            versions=tool_versions(),
            notes=[*dataset.notes, *_repeated(gathered), *left_out, *no_decoders, *gathered.left_out],
            runs=[each.result for each in outcomes.values()],
            comparisons=[compare(first, second) for first, second in pairs(outcomes)],
            disagreements=differing[:MOST_SHOWN],
            disagreeing=len(differing),
            gates=[result for gate in gates for result in check_gate(gate, outcomes)],
        )
        return Evaluated(evaluation, write_reports(evaluation, request.results, pictures))


def require_gates(found: Evaluated) -> None:
    """Raise BuildError if a gate failed; the message names those that did, the summary has their numbers."""
    if found.failed:
        gates = found.evaluation.gates
        named = "; ".join(f"{each.run}: {each.gate}" for each in found.failed)
        raise BuildError(f"{len(found.failed)} of {len(gates)} gates failed: {named}", reason="gate_failed")


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the result as plain values; numbers that nothing defines are None."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(evaluation))
    return plain


def _needed(backends: Sequence[str], gates: Sequence[Gate]) -> dict[str, str]:
    """Return the forms that must be built and run here, and the option that names each.

    Raises:
        CallError: A gate is for a form that --backend leaves out.
    """
    needed = {name: f"--backend {name}" for name in backends}
    for gate in gates:
        if gate.form is None or gate.form in needed:
            continue
        if backends:
            raise CallError(
                f"--gate {gate.text!r}: is for {gate.form}, which --backend {' '.join(backends)} leaves out: add "
                f"--backend {gate.form}",
                reason="invalid_gate",
            )
        needed[gate.form] = f"--gate {gate.text!r}"
    return needed


def _framework_form(candidates: Sequence[Candidate]) -> ClassifierForm:
    """Return the form whose network is the framework's: TensorFlow's only if nothing else is built."""
    others = [each.form for each in candidates if not each.form.from_tensorflow]
    if others or not candidates:
        return others[0] if others else FORMS["onnx"]
    return candidates[0].form


def _shown(data: Path) -> str:
    """Return the name of a folder; of a table, with its folder's. A report holds no other path of the machine."""
    path = data.resolve()
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def _require_photos(dataset: Dataset, gathered: Gathered) -> None:
    if not gathered.photos:
        why = Counter(each.reason for each in gathered.unreadable)
        raise BuildError(
            f"{dataset.source}: none of {len(dataset.photos)} photos can be read "
            f"({', '.join(f'{count} {reason}' for reason, count in why.items())}): the recipe's formats say what the "
            "server takes",
            reason="no_photos",
        )


def _repeated(gathered: Gathered) -> list[str]:
    """Describe photos of equal bytes: they count twice, and under two labels one of them is wrong."""
    counts = Counter(gathered.hashes)
    repeated = {each for each, count in counts.items() if count > 1}
    if not repeated:
        return []
    truths: dict[str, set[tuple[int, ...]]] = {}
    for photo, digest in zip(gathered.photos, gathered.hashes, strict=True):
        if digest in repeated:
            truths.setdefault(digest, set()).add(photo.classes)
    torn = sum(len(each) > 1 for each in truths.values())
    more = f", {torn} of them under different labels" if torn else ""
    return [f"{len(repeated)} photos occur more than once, byte for byte{more}"]
