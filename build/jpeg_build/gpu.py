"""The NVIDIA GPU that engines are built on, and the folder of their timing caches."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.folders import make_cache_folder
from jpeg_contract.gpus import Gpu, find_gpus

from jpeg_build.errors import BuildError


def require_gpu() -> Gpu:
    """Return the first GPU that CUDA_VISIBLE_DEVICES leaves visible.

    Raises:
        BuildError: There is no driver or no GPU.
    """
    gpus = find_gpus()
    if not gpus.found:
        raise BuildError(
            f"no usable GPU ({gpus.why_none}). A TensorRT engine is built and run on the kind of GPU that serves it: "
            "build it on such a machine, where NVIDIA's images have all that is needed (docker run --gpus all): "
            "nvcr.io/nvidia/tensorrt:YY.MM-py3 for tensorrt, nvcr.io/nvidia/pytorch:YY.MM-py3 for torch_tensorrt. The "
            "backends onnx and openvino, and torch_tensorrt --no-trt, need no GPU",
            reason="gpu_missing",
        )
    return gpus.found[0]


def this_capability() -> str | None:
    """Return the compute capability of this machine's first GPU, as "9.0"; None if there is none."""
    return next(iter(find_gpus().capabilities), None)


def cache_folder() -> Path:
    """Return the folder for measurements that later builds reuse; made if it is not there.

    Raises:
        BuildError: It cannot be written.
    """
    try:
        return make_cache_folder("jpeg-build")
    except OSError as error:
        raise BuildError(f"{error.filename}: cannot be written: {error.strerror}; set XDG_CACHE_HOME") from error
