"""The command `jpeg-build`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jpeg_build.commands import install_command, reload_command
from jpeg_build.errors import BuildError, CallError, RecipeError
from jpeg_build.targets import TARGETS

EPILOG = """\
other commands, each with a --help of its own:
  jpeg-build use BACKEND        let the ensemble use another classifier, or another version of it
  jpeg-build verify BACKEND     compare a classifier with its network again, here or on a running server
  jpeg-build inspect BACKEND    show what is inside an artefact

RECIPE says how the images are prepared, which network it is and where its weights come from; docs/recipes.md
explains every key, docs/classifiers.md the backends. A build makes the artefact, compares it with the network itself
on photos, and only then puts artefact, configs and report into the model repository. If anything fails, what was
there before stays.

examples:
  jpeg-build mobilenet_v2                                       ONNX Runtime, fp32
  jpeg-build mine.toml --backend openvino --precision auto      the fastest precision on this machine
  jpeg-build mine.toml --backend tensorrt --precision fp16 --version 2

exit status: 0 done, or already up to date with --if-needed; 1 it failed; 2 the call was wrong
"""

OPT_BATCH = 16
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "auto")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS.get(given[0]) if given else None
    parser, work = (command[0](), command[1]) if command else (_build_parser(), _build)
    options = parser.parse_args(given[1:] if command else given)
    try:
        try:
            # Frameworks tell of their downloads on stdout, which is the report's.
            with contextlib.redirect_stdout(sys.stderr):
                answer = work(options)
        except (CallError, RecipeError) as error:
            return _fail(str(error), 2)
        except BuildError as error:
            return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is not installed: {install_command('build')}", 1)
    except OSError as error:
        remedy = ": make room and build again" if error.errno == errno.ENOSPC else ""
        return _fail(f"{error.filename or options.model_repository}: {error.strerror or error}{remedy}", 1)
    except MemoryError as error:
        return _fail(f"the memory is not enough: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    if answer is not None:
        print(json.dumps(answer, indent=2))
    return 0


def _build(options: argparse.Namespace) -> object:
    from jpeg_build.emitters import Options
    from jpeg_build.recipe import find_recipe, load_recipe

    recipe = load_recipe(find_recipe(options.recipe))
    if options.opt_batch is None:
        options.opt_batch = max(options.min_batch, min(OPT_BATCH, options.max_batch))
    if not options.min_batch <= options.opt_batch <= options.max_batch:
        raise CallError(
            f"--min-batch {options.min_batch}, --opt-batch {options.opt_batch} and --max-batch {options.max_batch} are "
            "not in this order"
        )
    _refuse_idle(options)
    from jpeg_build.build import Request, build, is_up_to_date, say_on_stderr
    from jpeg_build.photos import PHOTOS

    request = Request(
        recipe=recipe,
        repository=options.model_repository,
        backend=options.backend,
        precision=options.precision,
        version=options.version,
        checkpoint=options.checkpoint,
        random_weights=options.weights == "none",
        from_onnx=options.from_onnx,
        photos=options.photos or PHOTOS,
        calibration=options.calibration,
        options=Options(
            min_batch=options.min_batch,
            opt_batch=options.opt_batch,
            max_batch=options.max_batch,
            workspace_bytes=None if options.workspace_mib is None else options.workspace_mib << 20,
            builder_level=options.builder_level,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            timing_cache=options.timing_cache,
            keep_onnx=options.keep_onnx,
            tool=options.tool,
            trt=not options.no_trt,
            per_gpu=options.per_gpu,
        ),
    )
    if options.if_needed and is_up_to_date(request):
        _tell(f"{recipe.name} is up to date")
        return None
    report, notes = build(request, say_on_stderr)
    for note in notes:
        _tell(f"note: {note}")
    return report


# Options that mean something to these backends only, with what they are if they are not given.
IDLE = {
    "min_batch": (1, ("tensorrt", "torch_tensorrt", "tf_trt")),
    "max_batch": (64, ("tensorrt", "torch_tensorrt", "tf_trt")),
    "workspace_mib": (None, ("tensorrt", "torch_tensorrt", "tf_trt")),
    "builder_level": (None, ("tensorrt",)),
    "version_compatible": (False, ("tensorrt", "torch_tensorrt")),
    "hardware_compatible": (False, ("tensorrt", "torch_tensorrt")),
    "timing_cache": (None, ("tensorrt", "torch_tensorrt")),
    "keep_onnx": (None, ("tensorrt",)),
    "per_gpu": (False, ("tensorrt",)),
    "tool": ("polygraphy", ("tensorrt",)),
    "no_trt": (False, ("torch_tensorrt", "tf_trt")),
}


def _refuse_idle(options: argparse.Namespace) -> None:
    """Raises CallError for an option that would do nothing."""
    from jpeg_build.built_network import BACKENDS

    for name, (default, backends) in IDLE.items():
        if getattr(options, name) != default and options.backend not in backends:
            raise CallError(
                f"--{name.replace('_', '-')} means something to {', '.join(backends)} only, not to {options.backend}"
            )
    if options.from_onnx and options.backend not in BACKENDS:
        raise CallError(f"--from-onnx is for {' and '.join(BACKENDS)}, not for {options.backend}")
    if options.from_onnx and (options.checkpoint is not None or options.weights == "none"):
        raise CallError(
            "--from-onnx takes the weights that are in the file: give it without --checkpoint and --weights"
        )
    if options.calibration is not None and options.precision not in ("int8", "auto"):
        raise CallError(f"--calibration is for int8 (or auto); {options.precision} needs none")


def _use(options: argparse.Namespace) -> object:
    from jpeg_build.use import use

    for line in use(options.model_repository, TARGETS[options.backend], options.version):
        _tell(line)
    _tell(f"a server takes it when it starts; one that runs, with: {reload_command(options.model_repository)}")
    return None


def _verify(options: argparse.Namespace) -> object:
    from jpeg_build.build import say_on_stderr
    from jpeg_build.verify import Verification, verify

    return verify(
        Verification(
            repository=options.model_repository,
            target=TARGETS[options.backend],
            recipe=options.recipe,
            version=options.version,
            server=options.server,
            checkpoint=options.checkpoint,
            random_weights=options.weights == "none",
            photos=options.photos,
            speed=options.speed,
        ),
        say_on_stderr,
    )


def _inspect(options: argparse.Namespace) -> object:
    from jpeg_build.inspect_artefact import inspect_artefact

    return inspect_artefact(options.model_repository, options.what, options.version)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-build",
        description="Make a classifier for the model repository from a trained network, and check it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe in build/recipes, or path of a .toml file")
    parser.add_argument(
        "--backend",
        choices=list(TARGETS),
        default="onnx",
        help="what runs the classifier: ONNX Runtime or OpenVINO on a CPU, TensorRT, Torch-TensorRT or TF-TRT on a GPU "
        "(default: onnx)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="precision of the artefact; auto builds all that the backend has, measures them on this machine and takes "
        "the fastest within its tolerance (default: fp32)",
    )
    parser.add_argument(
        "--version",
        type=_positive,
        metavar="N",
        help="number of the version to build, beside those that are there (default: the newest there is, or 1)",
    )
    _add_weights(parser)
    _add_repository(parser, made="; made if it is not there")
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder of JPEGs, searched through, that the artefact is checked on (default: the project's photos/)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="folder of JPEGs, searched through, that int8 takes its ranges from: some hundred, as the server will get "
        "(default: the folder of --photos)",
    )
    parser.add_argument(
        "--from-onnx",
        action="store_true",
        help="openvino, tensorrt: take the network from classifier_onnx of the model repository, which was checked "
        "when it was built (fp32, same recipe): needs neither PyTorch nor the weights (default: from the recipe)",
    )
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="do nothing if the repository already holds this very build (default: always build)",
    )
    _add_engine_options(parser)
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    engines = parser.add_argument_group("TensorRT engines (tensorrt, torch_tensorrt, tf_trt)")
    for name, batch, meaning, default in (
        ("min", 1, "smallest batch that the engine takes", "1"),
        ("opt", None, "batch that it is tuned for", f"{OPT_BATCH}, or --max-batch if that is less"),
        ("max", 64, "largest batch that it takes, and max_batch_size of the config", "64"),
    ):
        engines.add_argument(
            f"--{name}-batch", type=_positive, default=batch, metavar="N", help=f"{meaning} (default: {default})"
        )
    engines.add_argument(
        "--workspace-mib",
        type=_positive,
        metavar="MIB",
        help="memory that TensorRT may use for one layer (default: all that the GPU has)",
    )
    engines.add_argument(
        "--builder-level",
        type=int,
        choices=range(6),
        metavar="0-5",
        help="tensorrt: how long to search for the fastest kernels; lower builds quicker (default: TensorRT's own, 3)",
    )
    engines.add_argument(
        "--version-compatible",
        action="store_true",
        help="let later TensorRT versions of the same major load the engine; not tf_trt (default: this version only)",
    )
    engines.add_argument(
        "--hardware-compatible",
        action="store_true",
        help="let the engine run on all GPUs from Ampere on, for some speed; not tf_trt (default: this kind of GPU)",
    )
    engines.add_argument(
        "--per-gpu",
        action="store_true",
        help="tensorrt: keep one engine for each kind of GPU, chosen by compute capability (default: one engine)",
    )
    engines.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="measured kernels, read and renewed, which make the next build quicker; not tf_trt "
        "(default: one for each version and kind of GPU in the user's cache folder)",
    )
    engines.add_argument(
        "--keep-onnx",
        type=Path,
        metavar="FILE",
        help="tensorrt: also write the ONNX network that the engine is built from, for trtexec (default: no)",
    )
    engines.add_argument(
        "--tool",
        choices=["polygraphy", "trtexec"],
        default="polygraphy",
        help="tensorrt: what builds the engine; trtexec must be on the PATH, as in NVIDIA's images "
        "(default: polygraphy, which is TensorRT's Python API)",
    )
    engines.add_argument(
        "--no-trt",
        action="store_true",
        help="torch_tensorrt, tf_trt: the plain TorchScript or SavedModel, which needs neither TensorRT nor a GPU "
        "(default: with TensorRT engines inside)",
    )


def _use_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-build use",
        description="Let the ensemble use another classifier: changes one word in its config, and nothing else.",
    )
    _add_backend(parser)
    parser.add_argument(
        "--version",
        type=_version,
        metavar="N|newest",
        help="also change which version the classifier serves: a number, or newest (default: as it is)",
    )
    _add_repository(parser)
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-build verify",
        description="Compare a classifier with the network it was built from, as the build did.",
        epilog="exit status: 0 within tolerance; 1 outside, or it cannot be compared; 2 the call was wrong",
    )
    _add_backend(parser)
    parser.add_argument("--recipe", help="name or path (default: the recipe that the report names, from build/recipes)")
    parser.add_argument(
        "--version", type=_version, metavar="N|newest", help="version to verify (default: the one that is served)"
    )
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="ask the classifier on a running server, by gRPC (default: run the artefact here)",
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of JPEGs (default: the project's photos/)")
    parser.add_argument(
        "--speed",
        action="store_true",
        help="also measure images a second in batches of 1, 8, 32 and 64, host memory to host memory (default: no)",
    )
    _add_weights(parser)
    _add_repository(parser)
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-build inspect",
        description="Show what is inside an artefact: tensors, operators or layers, size, and its report.",
    )
    parser.add_argument(
        "what", metavar="BACKEND|FILE", help=f"{', '.join(TARGETS)}, or the path of an artefact of one of these kinds"
    )
    parser.add_argument(
        "--version", type=_version, metavar="N|newest", help="version to show (default: the one that is served)"
    )
    _add_repository(parser)
    return parser


COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], object]]] = {
    "use": (_use_parser, _use),
    "verify": (_verify_parser, _verify),
    "inspect": (_inspect_parser, _inspect),
}


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backend", metavar="BACKEND", choices=list(TARGETS), help=", ".join(TARGETS))


def _add_repository(parser: argparse.ArgumentParser, made: str = "") -> None:
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help=f"the model repository{made} (default: model_repository)",
    )


def _add_weights(parser: argparse.ArgumentParser) -> None:
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="weights instead of the recipe's: a state dict for torchvision networks, read by torch.load with "
        "weights_only=True; a Keras weights file for tf_trt (default: the weights that the recipe names)",
    )
    weights.add_argument(
        "--weights",
        choices=["recipe", "none"],
        default="recipe",
        help="none: random weights from a fixed seed, for benchmarks only (default: recipe)",
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _version(text: str) -> str:
    return text if text == "newest" else str(_positive(text))


def _tell(message: str) -> None:
    print(f"jpeg-build: {message}", file=sys.stderr)


def _fail(message: str, status: int) -> int:
    _tell(message)
    return status
