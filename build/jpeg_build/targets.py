"""The backends that a classifier can be built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One backend, as `--backend` names it.

    triton_backend, platform: of the config; platform is empty where Triton knows none. artefact: the file or folder
    that Triton loads from a version's folder. precisions: the first is the default. needs_gpu: there is no form of it
    for the CPU.
    """

    name: str
    triton_backend: str
    platform: str
    artefact: str
    precisions: tuple[str, ...]
    needs_gpu: bool

    @property
    def model(self) -> str:
        """Name of the classifier in the model repository: `classifier_onnx`."""
        return f"classifier_{self.name}"


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "onnxruntime", "onnxruntime_onnx", "model.onnx", ("fp32", "fp16", "int8"), False),
        Target("openvino", "openvino", "", "model.xml", ("fp32", "fp16", "bf16", "int8"), False),
        Target("tensorrt", "tensorrt", "tensorrt_plan", "model.plan", ("fp32", "fp16", "int8"), True),
        Target("torch_tensorrt", "pytorch", "pytorch_libtorch", "model.pt", ("fp32", "fp16"), False),
        Target("tf_trt", "tensorflow", "tensorflow_savedmodel", "model.savedmodel", ("fp32", "fp16"), False),
    )
}
