"""The part of the Python backend's module that this project uses; Triton ships it without types."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

class TritonModelException(Exception): ...

class TritonError:
    INVALID_ARG: int
    INTERNAL: int
    UNAVAILABLE: int
    def __init__(self, message: str, code: int = ...) -> None: ...

class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None: ...
    def shape(self) -> list[int]: ...
    def as_numpy(self) -> NDArray[Any]: ...
    def is_cpu(self) -> bool: ...
    def to_dlpack(self) -> object: ...  # a PyCapsule
    @staticmethod
    def from_dlpack(name: str, array: Any) -> Tensor: ...  # what has __dlpack__, such as a CuPy array

class InferenceRequest:
    def parameters(self) -> str: ...

class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = ..., error: TritonError | None = ...) -> None: ...

class Logger:
    @staticmethod
    def log_info(message: str) -> None: ...
    @staticmethod
    def log_warn(message: str) -> None: ...
    @staticmethod
    def log_error(message: str) -> None: ...

def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None: ...

class MetricFamily:
    COUNTER: object
    GAUGE: object
    HISTOGRAM: object
    def __init__(self, name: str, description: str, kind: object) -> None: ...
