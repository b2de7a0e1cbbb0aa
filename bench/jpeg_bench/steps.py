"""The ensemble's steps, opened in this process: the same files, settings and libraries as in the server, no Triton."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_preprocess import Postprocessor, PostprocessSettings, PreprocessSettings, open_preprocessor, read_labels
from numpy.typing import NDArray

from jpeg_bench.errors import BenchError

ENSEMBLE = "jpeg_classifier"
TOP_K = 5

# What these run on if the config leaves it to Triton (KIND_AUTO) and there is a GPU.
_GPU_FIRST = ("tensorrt", "pytorch", "tensorflow")
_GPU = Path("/dev/nvidia0")

Pixels = Any  # NHWC uint8, in host memory (NumPy) or on a GPU (CuPy)
Decode = Callable[[Sequence[bytes]], Pixels]
Classify = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True)
class _Backend:
    """How the project's own backend of that name loads an artefact. one_thread: parameters that keep it to one."""

    module: str
    load: str
    file: str
    one_thread: dict[str, str]


_BACKENDS = {
    "onnxruntime": _Backend("onnx_runtime", "load_session", "model.onnx", {"intra_op_thread_count": "1"}),
    "openvino": _Backend(
        "openvino_runtime", "load_model", "model.xml", {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"}
    ),
    "tensorrt": _Backend("tensorrt_engine", "load_engine", "model.plan", {}),
    "pytorch": _Backend("torch_script", "load_script", "model.pt", {}),
    "tensorflow": _Backend("tensorflow", "load_saved_model", "model.savedmodel", {}),
}


@dataclass(frozen=True)
class Steps:
    """What the ensemble of a repository does, as far as this process needs it. Raises nothing: see `read_steps`."""

    preprocess: PreprocessSettings
    labels: tuple[str, ...]
    backend: str
    classifier: str
    args: dict[str, str]
    max_batch_size: int

    @property
    def on_gpu(self) -> bool:
        """Whether the classifier or the decoder runs on a GPU."""
        return self.args["model_instance_kind"] == "GPU" or self.decodes_on_gpu

    @property
    def decodes_on_gpu(self) -> bool:
        """Whether the pixels come into being on a GPU."""
        return bool(self.preprocess.decoder == "gpu")

    @property
    def can_be_one_thread(self) -> bool:
        """Whether the classifier can be told to compute in the thread that calls it."""
        return bool(_BACKENDS[self.backend].one_thread)

    def open_decode(self, threads: int = 0) -> Decode:
        """What decodes batches. threads: 0 is what the repository says. The function raises BenchError for an image
        that is refused: a ceiling over images that are not decoded would be none."""
        settings = replace(self.preprocess, threads=threads) if threads else self.preprocess
        preprocessor = open_preprocessor(settings)

        def decode(images: Sequence[bytes]) -> Pixels:
            decoded = preprocessor.decode(images)
            if any(decoded.errors):
                raise BenchError(f"a photo cannot be decoded: {next(error for error in decoded.errors if error)}")
            return decoded.pixels

        return decode

    def open_classify(self, *, one_thread: bool = False, largest: int = 0) -> Classify:
        """What classifies batches, loaded anew by the project's backend.

        one_thread: in the thread that calls it. largest: the largest batch that will come, if that is beyond
        max_batch_size. Raises BenchError with the backend's reason.
        """
        from jpeg_backend.model_config import BackendConfigError, ModelConfig

        backend = _BACKENDS[self.backend]
        try:
            module = importlib.import_module(f"jpeg_backend.{backend.module}")
            config = ModelConfig.from_triton(self.args, default_filename=backend.file)
            config = replace(config, max_batch_size=max(largest, config.max_batch_size))
            if one_thread:
                config = replace(config, parameters={**config.parameters, **backend.one_thread})
            loaded = getattr(module, backend.load)(config)
        except (BackendConfigError, ImportError) as error:
            raise BenchError(f"{self.classifier}: {error}") from error
        if hasattr(loaded, "graph_sizes"):  # a DeviceRunner takes the parts of several requests
            return lambda pixels: loaded([pixels])[0]
        return lambda pixels: loaded(pixels if isinstance(pixels, np.ndarray) else pixels.get())

    def open_postprocess(self) -> Callable[[NDArray[np.float32]], Any]:
        """What makes labels of logits; the function raises BenchError if there are none."""
        postprocessor = Postprocessor(self.labels)
        k = min(TOP_K, postprocessor.classes)

        def postprocess(logits: NDArray[np.float32]) -> Any:
            answer = postprocessor(logits, [b""] * len(logits), k)
            if any(answer.errors.ravel().tolist()):
                raise BenchError("the classifier's output is not finite")
            return answer

        return postprocess


def read_steps(repository: Path) -> Steps:
    """What the ensemble `jpeg_classifier` of a repository names. Raises BenchError if it cannot be run here."""
    from google.protobuf import json_format
    from jpeg_serve.models import read_models

    models, problems = read_models(repository)
    if ENSEMBLE not in models or not models[ENSEMBLE].is_ensemble:
        why = f" ({problems[0]})" if problems else ""
        raise BenchError(f"{repository} has no ensemble {ENSEMBLE}{why}: name the repository with --model-repository")
    names = [step.model_name for step in models[ENSEMBLE].config.ensemble_scheduling.step]
    missing = [name for name in names if name not in models]
    chosen = [models[name] for name in names if name in models and models[name].built_as]
    if missing or len(chosen) != 1 or not {"preprocess", "postprocess"} <= {*names}:
        raise BenchError(f"{repository}: the ensemble's steps are {', '.join(names)}; run jpeg-serve check")
    classifier = chosen[0]
    if classifier.backend not in _BACKENDS:
        raise BenchError(f"{classifier.name} runs on the backend {classifier.backend}, which is none of this project's")
    served = [version for version, file in classifier.artefacts() if file.exists()]
    if not served:
        raise BenchError(f"{classifier.name} is not built: jpeg-build RECIPE --backend {classifier.built_as}")
    config = json_format.MessageToDict(classifier.config, preserving_proto_field_name=True)
    kinds = {group.get("kind", "KIND_AUTO") for group in config.get("instance_group", [{}])}
    on_gpu = "KIND_GPU" in kinds or ("KIND_AUTO" in kinds and classifier.backend in _GPU_FIRST and _GPU.exists())
    settings = {name: str(value.string_value) for name, value in models["preprocess"].config.parameters.items()}
    classes = int(classifier.config.output[0].dims[0])
    labels_file = models["postprocess"].parameter("labels_file") or PostprocessSettings.labels_file
    return Steps(
        preprocess=PreprocessSettings.from_parameters(settings),
        labels=tuple(read_labels(models["postprocess"].folder / labels_file, classes=classes)),
        backend=classifier.backend,
        classifier=classifier.name,
        args={
            "model_config": json.dumps(config),
            "model_name": classifier.name,
            "model_repository": str(classifier.folder.resolve()),
            "model_version": str(served[-1].number),
            "model_instance_kind": "GPU" if on_gpu else "CPU",
            "model_instance_device_id": "0",
        },
        max_batch_size=int(classifier.config.max_batch_size),
    )
