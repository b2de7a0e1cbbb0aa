"""The command `jpeg-build`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
RECIPE says how the images are prepared, which network it is and where its weights come from; docs/recipes.md
explains every key. A build exports the network, compares the result with the network itself on photos and on
noise, and only then puts artefact, configs and report into the model repository. If anything fails, what was
there before stays.

exit status: 0 built, or already up to date with --if-needed; 1 the build failed; 2 the call was wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        from jpeg_build.errors import BuildError, RecipeError
        from jpeg_build.recipe import find_recipe, load_recipe

        try:
            recipe = load_recipe(find_recipe(options.recipe))
        except RecipeError as error:
            return _fail(str(error), 2)
        from jpeg_build.build import Request, build, is_up_to_date, notes, say_on_stderr
        from jpeg_build.photos import PHOTOS

        request = Request(
            recipe=recipe,
            repository=options.model_repository,
            backend=options.backend,
            precision=options.precision,
            checkpoint=options.checkpoint,
            random_weights=options.weights == "none",
            photos=options.photos or PHOTOS,
        )
        try:
            if options.if_needed and is_up_to_date(request):
                print(f"jpeg-build: {recipe.name} is up to date", file=sys.stderr)
                return 0
            # torchvision tells of its downloads on stdout, which is the report's.
            with contextlib.redirect_stdout(sys.stderr):
                report = build(request, say_on_stderr)
            for note in notes(request):
                print(f"jpeg-build: note: {note}", file=sys.stderr)
        except BuildError as error:
            return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is not installed: pip install 'triton-jpeg-classifier[build]'", 1)
    except OSError as error:
        remedy = ": make room and build again" if error.errno == errno.ENOSPC else ""
        return _fail(f"{error.filename or options.model_repository}: {error.strerror or error}{remedy}", 1)
    except MemoryError as error:
        return _fail(f"the memory is not enough: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    print(json.dumps(report, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jpeg-build",
        description="Make a classifier for the model repository from a trained network, and check it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe in build/recipes, or path of a .toml file")
    parser.add_argument(
        "--backend", choices=["onnx"], default="onnx", help="what the classifier is made for (default: onnx)"
    )
    parser.add_argument(
        "--precision", choices=["fp32"], default="fp32", help="precision of the artefact (default: fp32)"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="state dict to load instead of torchvision's weights, read by torch.load with weights_only=True "
        "(default: the weights that the recipe names)",
    )
    weights.add_argument(
        "--weights",
        choices=["recipe", "none"],
        default="recipe",
        help="none: random weights from a fixed seed, for benchmarks only (default: recipe)",
    )
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help="where to build; made if it is not there (default: model_repository)",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder of JPEGs, searched through, that the artefact is checked on (default: the project's photos/)",
    )
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="do nothing if the repository already holds this very build (default: always build)",
    )
    return parser


def _fail(message: str, status: int) -> int:
    print(f"jpeg-build: {message}", file=sys.stderr)
    return status
