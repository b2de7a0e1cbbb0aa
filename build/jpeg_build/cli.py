"""The command `jpeg-build`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter
from jpeg_contract.command_line import (
    FAILED,
    WRONG_CALL,
    PositiveInteger,
    Progress,
    make_app,
    note,
    print_json,
    progress,
    run_app,
)
from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.model_names import ModelNames, why_no_ensemble
from jpeg_contract.remedies import DEFAULT_REPOSITORY, reload_command
from jpeg_contract.settings import Decoder
from jpeg_contract.tensors import ENSEMBLE

from jpeg_build.errors import BuildError, CallError, RecipeError
from jpeg_build.extras import EXTRAS
from jpeg_build.init.facts import NO_FACTS, Facts, Prompt

if TYPE_CHECKING:
    from jpeg_contract.report import Report

    from jpeg_build.init.write import Written

COMMAND = "jpeg-build"

OPT_BATCH = 16

DEFAULT_RESULTS = Path("evaluation")

Precision = Literal["fp32", "fp16", "bf16", "int8", "auto"]
Weights = Literal["recipe", "none"]

ENGINES = Group("TensorRT engines (tensorrt, torch_tensorrt, tf_trt)", sort_key=10)

app = make_app(
    COMMAND,
    "Make a classifier for the model repository from a trained network, and check it.",
    """\
jpeg-build RECIPE is short for jpeg-build build RECIPE. A recipe says how images are prepared, which network it is, and
where its weights come from; docs/recipes.md explains every key, docs/classifiers.md the backends. Instead of RECIPE, a
network may be given: its recipe is written first, as jpeg-build init does. A build makes the
artefact, runs it in batches as the server does, compares it with the network itself, and only then puts artefact,
configs and report into the model repository. If anything fails, the repository stays as it was.

examples:

    jpeg-build mobilenet_v2
    jpeg-build timm:convnext_tiny.fb_in22k
    jpeg-build mine.onnx --labels labels.txt --resize-size 256 --scale -1..1
    jpeg-build mine.toml --backend openvino --precision auto
    jpeg-build mine.toml --backend tensorrt --precision fp16 --version 2
    jpeg-build use tensorrt
    jpeg-build evaluate mine.toml --data photos --gate "top1 >= fp32 - 0.5%"

exit status: 0 done, or already up to date with --if-needed; 1 it failed; 2 the call was wrong""",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_app(
        app,
        arguments,
        extra="build",
        extras_of_packages=EXTRAS,
        statuses={
            CallError: WRONG_CALL,
            RecipeError: WRONG_CALL,
            BuildError: FAILED,
            MemoryError: FAILED,
        },
    )


def _version_text(_kind: Any, tokens: Sequence[Any]) -> str:
    text = str(tokens[0].value)
    if text != "newest" and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"{text!r} is neither a number from 1 on nor newest")
    return text


def _model_name(_kind: Any, tokens: Sequence[Any]) -> str:
    name = str(tokens[0].value)
    if reason := why_no_ensemble(name):
        raise ValueError(reason)
    return name


def _percent(_kind: Any, value: float | None) -> None:
    if value is not None and not 0 < value <= 100:
        raise ValueError("must be above 0, and at most 100")


Version = Annotated[str, Parameter(converter=_version_text)]
ModelName = Annotated[str, Parameter(converter=_model_name)]
Percent = Annotated[float, Parameter(validator=_percent)]


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """Options of TensorRT engines.

    Attributes:
        min_batch: Smallest batch that the engine takes.
        opt_batch: Batch that it is tuned for (default: 16, or --max-batch if that is less).
        max_batch: Largest batch that it takes, and max_batch_size of the config.
        workspace_mib: Memory in MiB that TensorRT may use for one layer (default: all that the GPU has).
        builder_level: tensorrt: how long to search for the fastest kernels, 0 to 5 (default: TensorRT's own, 3).
        version_compatible: Let later TensorRT versions of the same major load the engine; not tf_trt.
        hardware_compatible: Let the engine run on all GPUs of Ampere or later, for some speed; not tf_trt.
        per_gpu: tensorrt: keep one engine for each kind of GPU, chosen by compute capability.
        timing_cache: File of measured kernels, read and renewed (default: one for each TensorRT and kind of GPU).
        keep_onnx: tensorrt: also write the ONNX network that the engine is built from, for trtexec.
        tool: tensorrt: the builder; trtexec must be on the PATH, as in NVIDIA's images.
        no_trt: torch_tensorrt, tf_trt: plain TorchScript or SavedModel, which needs neither TensorRT nor a GPU.
    """

    min_batch: Annotated[PositiveInteger, Parameter(group=ENGINES)] = 1
    opt_batch: Annotated[PositiveInteger | None, Parameter(group=ENGINES)] = None
    max_batch: Annotated[PositiveInteger, Parameter(group=ENGINES)] = 64
    workspace_mib: Annotated[PositiveInteger | None, Parameter(group=ENGINES)] = None
    builder_level: Annotated[Literal[0, 1, 2, 3, 4, 5] | None, Parameter(group=ENGINES)] = None
    version_compatible: Annotated[bool, Parameter(group=ENGINES)] = False
    hardware_compatible: Annotated[bool, Parameter(group=ENGINES)] = False
    per_gpu: Annotated[bool, Parameter(group=ENGINES)] = False
    timing_cache: Annotated[Path | None, Parameter(group=ENGINES)] = None
    keep_onnx: Annotated[Path | None, Parameter(group=ENGINES)] = None
    tool: Annotated[Literal["polygraphy", "trtexec"], Parameter(group=ENGINES)] = "polygraphy"
    no_trt: Annotated[bool, Parameter(group=ENGINES)] = False


_NO_ENGINE_OPTIONS = EngineOptions()


@app.command(name="build")
@app.default
def build_command(
    recipe: str,
    /,
    *,
    backend: str = "onnx",
    precision: Precision = "fp32",
    version: PositiveInteger | None = None,
    checkpoint: Path | None = None,
    weights: Weights = "recipe",
    model_repository: Path = DEFAULT_REPOSITORY,
    photos: Path | None = None,
    calibration: Path | None = None,
    from_onnx: bool = False,
    if_needed: bool = False,
    json: bool = False,
    trust_code: bool = False,
    name: ModelName = ENSEMBLE,
    facts: Facts = NO_FACTS,
    engine: EngineOptions = _NO_ENGINE_OPTIONS,
) -> None:
    """Build and check a classifier.

    Args:
        recipe: Name of a recipe of this project, path of a .toml file, or a network (SOURCE of jpeg-build init).
        backend: The classifier form: onnx and openvino for CPUs; tensorrt, torch_tensorrt and tf_trt for GPUs.
        precision: Of the artefact; auto builds all, measures them on this machine, and takes the fastest in tolerance.
        version: Number of the version to build, beside existing ones (default: the newest there is, or 1).
        checkpoint: Weights instead of the recipe's: a state dict for torchvision networks, a Keras file for tf_trt.
        weights: none takes random weights from a fixed seed, for benchmarks only.
        model_repository: The model repository; made if it is not there.
        photos: Folder of JPEGs, searched through, that the artefact is checked on (default: the project's photos).
        calibration: Folder of some hundred JPEGs that int8 takes its ranges from (default: that of --photos).
        from_onnx: openvino, tensorrt: take the network from the repository's classifier_onnx; needs no PyTorch.
        if_needed: Do nothing if the repository already holds this very build.
        json: Print the report as JSON.
        trust_code: Run the Python file that the recipe names (kind = "module").
        name: Name of the model that clients request; several models live in one repository.
    """
    from jpeg_build.emitters import Options
    from jpeg_build.recipe.recipe import load_recipe

    form = _form(backend, name)
    path, is_new = _find_recipe(recipe, facts, checkpoint)
    loaded = load_recipe(path)
    if is_new:
        checkpoint = None  # The recipe names it.
    opt_batch = (
        max(engine.min_batch, min(OPT_BATCH, engine.max_batch)) if engine.opt_batch is None else engine.opt_batch
    )
    if not engine.min_batch <= opt_batch <= engine.max_batch:
        raise CallError(
            f"--min-batch {engine.min_batch}, --opt-batch {opt_batch} and --max-batch {engine.max_batch} are not in "
            "this order"
        )
    _refuse_idle(form, engine)
    if from_onnx and not form.from_onnx:
        able = " and ".join(each.name for each in FORMS.values() if each.from_onnx)
        raise CallError(f"--from-onnx is for {able}, not for {form.name}")
    if checkpoint is not None and weights == "none":
        raise CallError("--checkpoint and --weights none exclude each other")
    if from_onnx and (checkpoint is not None or weights == "none"):
        raise CallError("--from-onnx takes the weights in the file: leave out --checkpoint and --weights")
    if calibration is not None and precision not in ("int8", "auto"):
        raise CallError(f"--calibration is for int8 (or auto); {precision} needs none")
    from jpeg_contract.resources import PHOTOS

    from jpeg_build.build import Request, build, is_up_to_date

    request = Request(
        recipe=loaded,
        repository=model_repository,
        ensemble=name,
        backend=backend,
        precision=precision,
        version=version,
        checkpoint=checkpoint,
        random_weights=weights == "none",
        trust_code=trust_code,
        from_onnx=from_onnx,
        photos=photos or PHOTOS,
        calibration=calibration,
        options=Options(
            min_batch=engine.min_batch,
            opt_batch=opt_batch,
            max_batch=engine.max_batch,
            workspace_bytes=None if engine.workspace_mib is None else engine.workspace_mib << 20,
            builder_level=engine.builder_level,
            version_compatible=engine.version_compatible,
            hardware_compatible=engine.hardware_compatible,
            timing_cache=engine.timing_cache,
            keep_onnx=engine.keep_onnx,
            tool=engine.tool,
            trt=not engine.no_trt,
            per_gpu=engine.per_gpu,
        ),
    )
    if if_needed and is_up_to_date(request):
        note(COMMAND, f"{loaded.name} is up to date{'' if name == ENSEMBLE else f' as {name}'}")
        return
    with _work() as step:
        built = build(request, step)
    for line in built.notes:
        note(COMMAND, f"note: {line}")
    for line in built.warnings:
        note(COMMAND, f"warning: {line}")
    if json:
        from jpeg_contract.report import to_json

        print_json(to_json(built.report))
    else:
        print(_summary(built.report, form, request.settled_version))


@app.command
def init(
    source: str,
    /,
    *,
    output: Path | None = None,
    checkpoint: Path | None = None,
    force: bool = False,
    facts: Facts = NO_FACTS,
) -> None:
    """Write the recipe of a network. What nobody but you knows comes from the options, or from questions on a terminal.

    Args:
        source: timm:NAME, hf:FOLDER or hf:NAME, torchvision:NAME[:WEIGHTS], ultralytics:FILE.pt,
            module:FILE.py:FUNCTION, keras:NAME, or the path of a file (.onnx, .keras, .h5, .pt, .pth, .pt2,
            .safetensors) or folder (SavedModel, Hugging Face).
        output: The recipe's .toml file (default: beside the network's file, otherwise in the working directory).
        checkpoint: Weights for a network that SOURCE names: timm, torchvision, module or keras.
        force: Replace a recipe that is there.
    """
    from jpeg_build.init.write import NewRecipe, write_recipe

    wanted = NewRecipe(source, facts, output, checkpoint, force=force)
    with contextlib.redirect_stdout(sys.stderr):
        written = write_recipe(wanted, _prompt(), _note)
    _report_recipe(written)
    note(COMMAND, f"check it, and build it with: {shlex.join(['jpeg-build', str(written.path)])}")
    print(written.path)


@app.command
def use(
    backend: str,
    /,
    *,
    version: Version | None = None,
    split: Percent | None = None,
    shadow: Percent | None = None,
    name: ModelName = ENSEMBLE,
    model_repository: Path = DEFAULT_REPOSITORY,
) -> None:
    """Let a model use another classifier: change one word in its config, and nothing else. Ends a split or shadow.

    Args:
        backend: The classifier form.
        version: Also change which version the classifier serves: a number, or newest (default: as it is).
        split: Let it answer this part of the requests, in percent (default: all), beside the classifier in use.
        shadow: Compare its labels on this part of the requests, in percent (default: none), and answer none.
        name: Name of the model.
        model_repository: The model repository.
    """
    from jpeg_build.repository.use import Trial, try_beside
    from jpeg_build.repository.use import use as choose

    form = _form(backend, name)
    if split is not None and shadow is not None:
        raise CallError("--split and --shadow exclude each other")
    if split is None and shadow is None:
        lines = choose(model_repository, form, version)
    else:
        trial = Trial("split", split) if split is not None else Trial("shadow", shadow or 0)
        lines = try_beside(model_repository, form, version, trial)
    for line in lines:
        note(COMMAND, line)
    note(COMMAND, f"a server loads it when it starts; a running one, with: {reload_command(model_repository)}")


@app.command
def combine(name: ModelName, /, *models: str, model_repository: Path = DEFAULT_REPOSITORY) -> None:
    """Make a model that runs the networks of several others on one decoded image.

    Args:
        name: Of the new model.
        models: The others, at least two, that take the same pixels.
        model_repository: The model repository.
    """
    from jpeg_build.repository.combine import combine as write

    if len(models) < 2:
        raise CallError("name at least two models to combine")
    for line in write(model_repository, ModelNames(name), models):
        note(COMMAND, line)
    note(COMMAND, f"a running server loads it with: {reload_command(model_repository)}")


@app.command
def remove(name: str, /, *, model_repository: Path = DEFAULT_REPOSITORY) -> None:
    """Remove a model, and what only it uses: its classifiers of all forms and versions, labels, configs.

    Args:
        name: Of the model.
        model_repository: The model repository.
    """
    from jpeg_build.repository.remove import remove as delete

    for line in delete(model_repository, name):
        note(COMMAND, line)
    note(COMMAND, f"a running server lets go of it with: {reload_command(model_repository)}")


@app.command
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
    with _work() as step:
        found = compare(
            Verification(
                repository=model_repository,
                form=_form(backend, name),
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
    print(f"  {_parity_line(found['parity'], found['tolerance'])}")
    for size, images in found.get("images_per_second", {}).items():
        print(f"  batches of {size}: {images:g} images/s")


@app.command
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
        backends=[_form(each, name).name for each in backend],
        decoders=decoder,
        checkpoint=checkpoint,
        trust_code=trust_code,
        limit=limit,
        gates=gate,
        fresh=fresh,
    )
    with _work() as step:
        found = measure(request, step)
    if json:
        print_json(to_json(found.evaluation))
    else:
        print("\n".join(summary_lines(found.evaluation)))
    note(COMMAND, f"the report is {found.files[-1]}")
    require_gates(found)


@app.command
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


def _find_recipe(text: str, facts: Facts, checkpoint: Path | None) -> tuple[Path, bool]:
    """Return the path of a recipe, and whether it was found for a network that was given in its place."""
    from jpeg_build.init.write import NewRecipe, find_or_write, is_network
    from jpeg_build.recipe.recipe import find_recipe, is_recipe

    if not is_recipe(text) and is_network(text):
        wanted = NewRecipe(text, facts, checkpoint=checkpoint)
        with contextlib.redirect_stdout(sys.stderr):
            written = find_or_write(wanted, _prompt(), _note)
        _report_recipe(written)
        return written.path, True
    path = find_recipe(text)
    if given := ["network"] * (facts.network is not None) + [*facts.given()]:
        option = f"--{given[0].replace('_', '-')}"
        raise CallError(f"{option} is for a network without a recipe, and {path} is a recipe: edit it")
    return path, False


def _report_recipe(written: Written) -> None:
    """Report a recipe that was written, or that is used as it is."""
    for line in written.notes:
        note(COMMAND, f"note: {line}")
    if written.is_new:
        labels = "" if written.labels is None else f" and {written.labels}"
        note(COMMAND, f"wrote {written.path}{labels}")
    else:
        note(COMMAND, f"taking the recipe {written.path}")


def _note(message: str) -> None:
    note(COMMAND, message)


def _prompt() -> Prompt | None:
    """Return what puts questions to the user; None without a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    from rich.console import Console
    from rich.markup import escape
    from rich.prompt import Prompt as RichPrompt

    console = Console(stderr=True, highlight=False)

    def prompt(question: str, why: str, *, default: str | None, choices: Sequence[str] | None) -> str:
        console.print(f"[dim]{escape(why)}[/dim]")
        known = None if choices is None else list(choices)
        if default is None:
            return RichPrompt.ask(escape(question), console=console, choices=known)
        return RichPrompt.ask(
            escape(question), console=console, choices=known, default=default, show_default=bool(default)
        )

    return prompt


def _form(backend: str, name: str) -> ClassifierForm:
    if backend not in FORMS:
        raise CallError(f"there is no backend {backend!r}; there are {', '.join(FORMS)}")
    return FORMS[backend].of(name)


def _refuse_idle(form: ClassifierForm, engine: EngineOptions) -> None:
    """Raise CallError for an option that would do nothing."""
    for name in EngineOptions.__dataclass_fields__:
        if getattr(engine, name) == getattr(_NO_ENGINE_OPTIONS, name) or name in form.build_options:
            continue
        able = ", ".join(each.name for each in FORMS.values() if name in each.build_options)
        raise CallError(f"--{name.replace('_', '-')} has a meaning for {able} only, not for {form.name}")


@contextlib.contextmanager
def _work() -> Iterator[Progress]:
    """Report progress; frameworks report their downloads on stdout, which is the result's."""
    with progress(COMMAND) as step, contextlib.redirect_stdout(sys.stderr):
        yield step


def _summary(report: Report, form: ClassifierForm, version: int) -> str:
    from jpeg_contract.report import to_json

    plain = to_json(report)
    lines = [
        f"{form.model}/{version}: {report.recipe} in {report.precision}, "
        f"{report.artefact.bytes / 1e6:.1f} MB, {report.classes} classes",
        f"  {_parity_line(plain['parity'], plain['tolerance'])}",
    ]
    for precision, images in (report.images_per_second or {}).items():
        speed = "outside its tolerance, or cannot be built" if images is None else f"{images:.0f} images/s"
        chosen = ", chosen" if precision == report.precision else ""
        lines.append(f"  {precision}: {speed}{chosen}")
    return "\n".join(lines)


def _parity_line(parity: dict[str, Any], tolerance: dict[str, Any]) -> str:
    return (
        f"logits differ by at most {parity['relative_difference']:.2g} of the largest "
        f"({tolerance['relative_difference']:.2g} allowed), top-1 equal on {parity['top1_agreement']:.1%} of "
        f"{parity['photos']} photos, in batches of {', '.join(map(str, sorted(set(parity['batches']))))}"
    )
