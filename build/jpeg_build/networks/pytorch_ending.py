"""The operator that a network of PyTorch ends in: a single output that lies in [0, 1] may be a logit by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jpeg_contract.settings import Head
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_HEADS: Mapping[str, Head] = {
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "hardsigmoid": "sigmoid",
    "hardsigmoid_": "sigmoid",
    "softmax": "softmax",
    "_softmax": "softmax",
}

# Operators that change the form of a tensor, and not its values.
_FORM = {
    "_to_copy",
    "_unsafe_view",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "dropout",
    "flatten",
    "reshape",
    "squeeze",
    "to",
    "unsqueeze",
    "view",
}


class Endings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records, while a network runs, which tensors are those of a sigmoid or softmax."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The tensors are kept, so that no other gets the identity of one that is gone.
        self._found: dict[int, tuple[Tensor, Head]] = {}

    def __torch_dispatch__(
        self, operator: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and record what it returns."""
        result = operator(*args, **(kwargs or {}))
        name = operator._schema.name.removeprefix("aten::")
        head = _HEADS.get(name)
        if head is None and name in _FORM:
            head = self.of(args[0])
        if isinstance(result, Tensor):
            self._found.pop(id(result), None)
            if head is not None:
                self._found[id(result)] = result, head
        return result

    def of(self, tensor: Any) -> Head | None:
        """Return "sigmoid" or "softmax" if that made the values of a tensor; None otherwise, and if it is unknown."""
        return self._found[id(tensor)][1] if id(tensor) in self._found else None
