"""The backends that a classifier can be built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One backend, as `--backend` names it.

    triton_backend, platform: of the config; platform is empty where Triton knows none. artefact: the file or folder
    that Triton loads from a version's folder. precisions: the first is the default. instance_kind: where Triton runs
    it: CPU, GPU, or AUTO, which is for what runs on either.
    """

    name: str
    triton_backend: str
    platform: str
    artefact: str
    precisions: tuple[str, ...]
    instance_kind: str

    @property
    def model(self) -> str:
        """Name of the classifier in the model repository: `classifier_onnx`."""
        return f"classifier_{self.name}"


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "onnxruntime", "onnxruntime_onnx", "model.onnx", ("fp32", "fp16", "int8"), "AUTO"),
        Target("openvino", "openvino", "", "model.xml", ("fp32", "fp16", "bf16", "int8"), "CPU"),
        Target("tensorrt", "tensorrt", "tensorrt_plan", "model.plan", ("fp32", "fp16", "int8"), "GPU"),
        Target("torch_tensorrt", "pytorch", "pytorch_libtorch", "model.pt", ("fp32", "fp16"), "AUTO"),
        Target("tf_trt", "tensorflow", "tensorflow_savedmodel", "model.savedmodel", ("fp32", "fp16"), "AUTO"),
    )
}

# The same by the classifiers' names in the model repository.
BY_MODEL = {target.model: target for target in TARGETS.values()}
