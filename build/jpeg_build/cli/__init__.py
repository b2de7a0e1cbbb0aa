"""The command `jpeg-build`."""

from __future__ import annotations

from collections.abc import Sequence

from jpeg_contract.command_line import FAILED, WRONG_CALL, make_app, run_app

from jpeg_build.cli.building import build_command
from jpeg_build.cli.examining import evaluate, inspect, verify
from jpeg_build.cli.recipes import init
from jpeg_build.cli.reporting import COMMAND
from jpeg_build.cli.serving import combine, remove, use
from jpeg_build.errors import BuildError, CallError, RecipeError
from jpeg_build.extras import EXTRAS

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
app.command(build_command, name="build")
app.default(build_command)
for _command in (init, use, combine, remove, verify, evaluate, inspect):
    app.command(_command)


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
