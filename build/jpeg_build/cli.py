"""The command `jpeg-build`."""

from __future__ import annotations

import contextlib
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
from jpeg_contract.remedies import DEFAULT_REPOSITORY, reload_command

from jpeg_build.errors import BuildError, CallError, RecipeError

if TYPE_CHECKING:
    from jpeg_contract.report import Report

COMMAND = "jpeg-build"

OPT_BATCH = 16

Precision = Literal["fp32", "fp16", "bf16", "int8", "auto"]
Weights = Literal["recipe", "none"]

ENGINES = Group("TensorRT engines (tensorrt, torch_tensorrt, tf_trt)", sort_key=10)

app = make_app(
    COMMAND,
    "Make a classifier for the model repository from a trained network, and check it.",
    """\
jpeg-build RECIPE is short for jpeg-build build RECIPE. A recipe says how images are prepared, which network it is, and
where its weights come from; docs/recipes.md explains every key, docs/classifiers.md the backends. A build makes the
artefact, runs it in batches as the server does, compares it with the network itself, and only then puts artefact,
configs and report into the model repository. If anything fails, the repository stays as it was.

examples:

    jpeg-build mobilenet_v2
    jpeg-build mine.toml --backend openvino --precision auto
    jpeg-build mine.toml --backend tensorrt --precision fp16 --version 2
    jpeg-build use tensorrt

exit status: 0 done, or already up to date with --if-needed; 1 it failed; 2 the call was wrong""",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_app(
        app,
        arguments,
        extra="build",
        extras_of_packages=dict.fromkeys(("torch", "torchvision", "onnxscript"), "torch"),
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


Version = Annotated[str, Parameter(converter=_version_text)]


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
    engine: EngineOptions = _NO_ENGINE_OPTIONS,
) -> None:
    """Build and check a classifier.

    Args:
        recipe: Name of a recipe of this project, or path of a .toml file.
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
    """
    from jpeg_build.emitters import Options
    from jpeg_build.recipe import find_recipe, load_recipe

    form = _form(backend)
    loaded = load_recipe(find_recipe(recipe))
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
        backend=backend,
        precision=precision,
        version=version,
        checkpoint=checkpoint,
        random_weights=weights == "none",
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
        note(COMMAND, f"{loaded.name} is up to date")
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
        print(_summary(built.report, request.settled_version))


@app.command
def use(backend: str, /, *, version: Version | None = None, model_repository: Path = DEFAULT_REPOSITORY) -> None:
    """Let the ensemble use another classifier: change one word in its config, and nothing else.

    Args:
        backend: The classifier form.
        version: Also change which version the classifier serves: a number, or newest (default: as it is).
        model_repository: The model repository.
    """
    from jpeg_build.use import use as choose

    for line in choose(model_repository, _form(backend), version):
        note(COMMAND, line)
    note(COMMAND, f"a server loads it when it starts; a running one, with: {reload_command(model_repository)}")


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
    """
    from jpeg_build.verify import Verification
    from jpeg_build.verify import verify as compare

    if checkpoint is not None and weights == "none":
        raise CallError("--checkpoint and --weights none exclude each other")
    with _work() as step:
        found = compare(
            Verification(
                repository=model_repository,
                form=_form(backend),
                recipe=recipe,
                version=version,
                server=server,
                checkpoint=checkpoint,
                random_weights=weights == "none",
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
def inspect(
    artefact: str,
    /,
    *,
    version: Version | None = None,
    model_repository: Path = DEFAULT_REPOSITORY,
) -> None:
    """Show the inside of an artefact as JSON: tensors, operators or layers, size, and its report.

    Args:
        artefact: A classifier form, or the path of an artefact.
        version: Version to show: a number, or newest (default: the one that is served).
        model_repository: The model repository.
    """
    from jpeg_build.inspect_artefact import inspect_artefact

    with contextlib.redirect_stdout(sys.stderr):
        found = inspect_artefact(model_repository, artefact, version)
    print_json(found)


def _form(backend: str) -> ClassifierForm:
    if backend not in FORMS:
        raise CallError(f"there is no backend {backend!r}; there are {', '.join(FORMS)}")
    return FORMS[backend]


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


def _summary(report: Report, version: int) -> str:
    from jpeg_contract.report import to_json

    plain = to_json(report)
    lines = [
        f"classifier_{report.form}/{version}: {report.recipe} in {report.precision}, "
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
