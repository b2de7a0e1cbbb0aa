"""The stages of the ensemble in this process: files, settings and code of the server, without Triton."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jpeg_contract.errors import ReasonedError
from jpeg_contract.forms import ClassifierForm, form_of_backend
from jpeg_contract.gpus import find_gpus
from jpeg_contract.labels import read_labels
from jpeg_contract.remedies import build_command
from jpeg_contract.settings import Head, PostprocessSettings, PreprocessSettings
from jpeg_contract.tensors import ENSEMBLE, POSTPROCESS, PREPROCESS
from numpy.typing import NDArray

from jpeg_bench.errors import BenchError

if TYPE_CHECKING:
    from jpeg_contract.model_config import ModelConfig
    from jpeg_postprocess import TopKResponse

Pixels = Any
"""(N, H, W, 3) uint8, in host memory (NumPy) or on a GPU (CuPy)."""

Decode = Callable[[Sequence[bytes]], Pixels]
Classify = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True)
class Pipeline:
    """Opens the stages of an ensemble; see `read_pipeline`. It can be pickled.

    Attributes:
        preprocess: Settings of the model `preprocess`.
        labels: Labels of the classes.
        k: Labels per image.
        output: How logits become scores.
        threshold: Labels with a lower score are left out.
        classifier: Name of the classifier.
        args: Arguments of a Python model's `initialize`, as Triton makes them.
        max_batch_size: Maximum batch size of the classifier.
        classifier_on_gpu: Whether the classifier runs on a GPU.
    """

    preprocess: PreprocessSettings
    labels: tuple[str, ...]
    k: int
    output: Head
    threshold: float
    classifier: str
    args: Mapping[str, str]
    max_batch_size: int
    classifier_on_gpu: bool

    @property
    def decodes_on_gpu(self) -> bool:
        """Whether images are decoded on a GPU."""
        return self.preprocess.decoder == "gpu"

    @property
    def on_gpu(self) -> bool:
        """Whether the classifier or the decoder runs on a GPU."""
        return self.classifier_on_gpu or self.decodes_on_gpu

    def open_decoder(self, threads: int = 0) -> Decode:
        """Open the decoder.

        Args:
            threads: Number of threads; 0 takes the setting of the repository.

        Returns:
            Function from encoded images to pixels. It raises BenchError if an image cannot be decoded.
        """
        from jpeg_preprocess import open_preprocessor

        preprocessor = open_preprocessor(replace(self.preprocess, threads=threads or self.preprocess.threads))

        def decode(images: Sequence[bytes]) -> Pixels:
            decoded = preprocessor.decode(images)
            if error := next((error for error in decoded.errors if error is not None), None):
                raise BenchError(f"a photo cannot be decoded: {error}", reason=error.reason)
            return decoded.pixels

        return decode

    def open_classifier(self, *, cpus: int | None = None, max_batch_size: int = 0) -> Classify:
        """Open the classifier as the server does.

        Args:
            cpus: Number of CPUs; 1 computes in the calling thread, None takes all.
            max_batch_size: Largest batch if it exceeds the maximum of the config.

        Returns:
            Function from pixels to (N, classes) float32 logits in host memory.

        Raises:
            BenchError: The classifier cannot be opened.
        """
        from jpeg_runtime.loading import open_classifier
        from jpeg_runtime.serving_config import ServingConfig

        try:
            config = ServingConfig.from_triton(self.args, cpus=cpus)
            classifier = open_classifier(replace(config, max_batch_size=max(max_batch_size, config.max_batch_size)))
        except ReasonedError as error:
            raise BenchError(f"{self.classifier}: {error}", reason=error.reason) from error

        def classify(pixels: Pixels) -> NDArray[np.float32]:
            if isinstance(pixels, np.ndarray):
                return classifier(pixels)
            if classifier.takes_device_tensors:
                return classifier(classifier.from_capsule(pixels.__dlpack__()))
            return classifier(pixels.get())

        return classify

    def open_postprocessor(self) -> Callable[[NDArray[np.float32]], TopKResponse]:
        """Open the postprocessor.

        Returns:
            Function from logits to labels. It raises ImageError if the logits of all images are not finite, and
            BenchError if those of some are not.
        """
        from jpeg_postprocess import Postprocessor, TopKRequest

        postprocessor = Postprocessor(self.labels, self.output)

        def postprocess(logits: NDArray[np.float32]) -> TopKResponse:
            response = postprocessor(TopKRequest(logits, [b""] * len(logits), self.k, self.threshold))
            if any(response.errors.ravel().tolist()):
                raise BenchError("the classifier's output is not finite", reason="not_finite")
            return response

        return postprocess


def read_pipeline(repository: Path) -> Pipeline:
    """Read the ensemble of a model repository.

    Raises:
        BenchError: The repository has no complete ensemble, or its classifier is not built.
        SettingsError: A setting of a model is invalid.
        LabelFileError: The label file is invalid.
    """
    from jpeg_contract.model_config import chosen_classifier, parameters, to_triton_json
    from jpeg_serve.models import read_models

    models, problems = read_models(repository)
    if ENSEMBLE not in models:
        detail = f" ({problems[0]})" if problems else ""
        raise BenchError(
            f"{repository} has no ensemble {ENSEMBLE}{detail}: set --model-repository DIR", reason="ensemble_missing"
        )
    name = chosen_classifier(models[ENSEMBLE].config)
    for step in (PREPROCESS, name, POSTPROCESS):
        if step not in models:
            raise BenchError(
                f"{repository} has no model {step or 'classifier'}: run jpeg-serve check", reason="model_missing"
            )
    assert name is not None
    classifier = models[name]
    form = form_of_backend(classifier.backend)
    if form is None:
        raise BenchError(
            f"{name} has the backend {classifier.backend}, which is none of this project", reason="backend_unknown"
        )
    settings = PreprocessSettings.from_parameters(parameters(models[PREPROCESS].config))
    versions = [version for version, file in classifier.artefacts() if file.exists()]
    if not versions:
        raise BenchError(
            f"{name} is not built: {build_command(settings.recipe or 'RECIPE', form.name, repository)}",
            reason="artefact_missing",
        )
    config = type(classifier.config)()
    config.CopyFrom(classifier.config)
    config.backend = classifier.backend
    on_gpu = _runs_on_gpu(form, config)
    top_k = PostprocessSettings.from_parameters(parameters(models[POSTPROCESS].config))
    labels = read_labels(models[POSTPROCESS].folder / top_k.labels_file, classes=int(config.output[0].dims[0]))
    return Pipeline(
        preprocess=settings,
        labels=tuple(labels),
        k=min(top_k.default_k, len(labels)),
        output=top_k.output,
        threshold=top_k.threshold,
        classifier=name,
        args={
            "model_config": to_triton_json(config),
            "model_name": name,
            "model_repository": str(classifier.folder.resolve()),
            "model_version": str(versions[-1].number),
            "model_instance_kind": "GPU" if on_gpu else "CPU",
            "model_instance_device_id": "0",
        },
        max_batch_size=int(config.max_batch_size),
        classifier_on_gpu=on_gpu,
    )


def _runs_on_gpu(form: ClassifierForm, config: ModelConfig) -> bool:
    """Return whether the project's backend runs this classifier on a GPU."""
    from jpeg_contract.model_config import KIND_AUTO, KIND_GPU

    # With "native_on_gpu", the project's backend runs on CPUs only.
    if form.instance_kind == "CPU" or form.served_by == "native_on_gpu":
        return False
    kinds = {group.kind for group in config.instance_group} or {KIND_AUTO}
    return KIND_GPU in kinds or (KIND_AUTO in kinds and bool(find_gpus().found))
