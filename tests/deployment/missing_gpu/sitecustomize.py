"""Stands in for what runs an engine on a GPU: a "plan" of the stand-in trtexec is an ONNX file, and runs as one.

Python reads this at its start where the folder is on PYTHONPATH; it changes the command jpeg-build only.
"""

from __future__ import annotations

import contextlib
import sys
import types
from pathlib import Path

if any(Path(word).name == "jpeg-build" for word in sys.orig_argv[:3]):
    tensorrt = types.ModuleType("tensorrt")
    tensorrt.__version__ = "10.9.0.34"  # type: ignore[attr-defined]
    tensorrt.TacticSource = types.SimpleNamespace(__members__={})  # type: ignore[attr-defined]
    sys.modules["tensorrt"] = tensorrt

    from jpeg_build.emitters import onnx
    from jpeg_build.emitters import tensorrt as emitter

    @contextlib.contextmanager
    def engine(artefact: Path):
        yield types.SimpleNamespace(num_layers=1)

    emitter._tensorrt = lambda: tensorrt
    emitter._engine = engine
    emitter.opened = onnx.opened
