"""The command that builds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter
from jpeg_contract.command_line import PositiveInteger, note, print_json
from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.remedies import DEFAULT_REPOSITORY
from jpeg_contract.tensors import ENSEMBLE

from jpeg_build.cli.arguments import ModelName, Weights, find_form
from jpeg_build.cli.recipes import recipe_of
from jpeg_build.cli.reporting import COMMAND, parity_line, work
from jpeg_build.errors import CallError
from jpeg_build.init.facts import NO_FACTS, Facts

if TYPE_CHECKING:
    from jpeg_contract.report import Report

OPT_BATCH = 16

Precision = Literal["fp32", "fp16", "bf16", "int8", "auto"]

ENGINES = Group("TensorRT engines (tensorrt, torch_tensorrt, tf_trt)", sort_key=10)


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
        calibration: Folder of some hundred JPEGs that int8 takes its ranges from (default: that of --photos). Without
            --photos, some of them are kept to compare int8 on.
        from_onnx: openvino, tensorrt: take the network from the repository's classifier_onnx; needs no PyTorch.
        if_needed: Do nothing if the repository already holds this very build.
        json: Print the report as JSON.
        trust_code: Run the Python file that the recipe names (kind = "module").
        name: Name of the model that clients request; several models live in one repository.
    """
    from jpeg_build.emitters import Options
    from jpeg_build.recipe.recipe import load_recipe

    form = find_form(backend, name)
    path, is_new = recipe_of(recipe, facts, checkpoint)
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

    from jpeg_build.build import build
    from jpeg_build.build.request import Request
    from jpeg_build.build.up_to_date import is_up_to_date

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
    with work() as step:
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


def _refuse_idle(form: ClassifierForm, engine: EngineOptions) -> None:
    """Raise CallError for an option that would do nothing."""
    for name in EngineOptions.__dataclass_fields__:
        if getattr(engine, name) == getattr(_NO_ENGINE_OPTIONS, name) or name in form.build_options:
            continue
        able = ", ".join(each.name for each in FORMS.values() if name in each.build_options)
        raise CallError(f"--{name.replace('_', '-')} has a meaning for {able} only, not for {form.name}")


def _summary(report: Report, form: ClassifierForm, version: int) -> str:
    from jpeg_contract.report import to_json

    plain = to_json(report)
    lines = [
        f"{form.model}/{version}: {report.recipe} in {report.precision}, "
        f"{report.artefact.bytes / 1e6:.1f} MB, {report.classes} classes",
        f"  {parity_line(plain['parity'], plain['tolerance'])}",
    ]
    for precision, images in (report.images_per_second or {}).items():
        speed = "outside its tolerance, or cannot be built" if images is None else f"{images:.0f} images/s"
        chosen = ", chosen" if precision == report.precision else ""
        lines.append(f"  {precision}: {speed}{chosen}")
    return "\n".join(lines)
