"""The NVIDIA GPU of this machine, as its driver describes it, and what GPU tools need to find."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jpeg_build.errors import BuildError

# CUdevice_attribute in CUDA's cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76

# The first compute capability of Ampere, from which on TensorRT can build engines for other GPUs, too.
AMPERE = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and its compute capability as (major, minor)."""

    name: str
    capability: tuple[int, int]

    @property
    def compute_capability(self) -> str:
        """As NVIDIA writes it, and reports and `cc_model_filenames` do: "9.0"."""
        return "{}.{}".format(*self.capability)

    @property
    def architecture(self) -> str:
        """As compilers write it: "sm90"."""
        return "sm{}{}".format(*self.capability)


def find_gpu() -> Gpu:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves visible, asked from the driver's own library.

    Raises BuildError if there is no driver or no GPU.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise _no_gpu("NVIDIA's driver is not installed here: there is no libcuda.so.1") from error
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    for status in (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(name, len(name), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
    ):
        if status:
            raise _no_gpu(f"NVIDIA's driver shows no GPU (CUDA error {status})")
    return Gpu(name.value.decode(), (major.value, minor.value))


def cache_folder() -> Path:
    """The folder for what is measured once and used again; made if it is not there.

    In the user's cache folder (XDG_CACHE_HOME, else ~/.cache), or below the temporary folder for a user without one.
    """
    folders = []
    if home := os.environ.get("XDG_CACHE_HOME"):
        folders.append(Path(home))
    else:
        with contextlib.suppress(RuntimeError):  # a user without a home, as in containers
            folders.append(Path.home() / ".cache")
    folders.append(Path(tempfile.gettempdir()) / f"cache-{os.getuid()}")
    for folder in folders:
        try:
            (folder / "jpeg_build").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refused = error
        else:
            return folder / "jpeg_build"
    raise BuildError(f"{refused.filename}: cannot be written: {refused.strerror}; set XDG_CACHE_HOME") from refused


@contextlib.contextmanager
def cuda_runtime_visible() -> Iterator[None]:
    """Let Polygraphy find libcudart in the wheels of `nvidia-cuda-runtime`, which the wheels of TensorRT bring.

    It looks through LD_LIBRARY_PATH and a few system folders; of the wheels' folders it knows at most one.
    """
    before = os.environ.get("LD_LIBRARY_PATH")
    wheels = [
        str(found.parent)
        for entry in sys.path
        for found in sorted(Path(entry or ".").glob("nvidia/*/lib/libcudart.so.*"))
    ]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([*([before] if before else []), *wheels])
    try:
        yield
    finally:
        if before is None:
            del os.environ["LD_LIBRARY_PATH"]
        else:
            os.environ["LD_LIBRARY_PATH"] = before


def _no_gpu(reason: str) -> BuildError:
    return BuildError(
        f"{reason}. A TensorRT engine is built and run on the kind of GPU that is to serve it: build it on such a "
        "machine, where NVIDIA's images have all that is needed (docker run --gpus all): "
        "nvcr.io/nvidia/tensorrt:YY.MM-py3 for tensorrt, nvcr.io/nvidia/pytorch:YY.MM-py3 for torch_tensorrt. No GPU "
        "is needed by the backends onnx and openvino, and by torch_tensorrt --no-trt"
    )
