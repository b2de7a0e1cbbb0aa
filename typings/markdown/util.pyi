from typing import Generic, TypeVar

_Item = TypeVar("_Item")

class Registry(Generic[_Item]):
    def register(self, item: _Item, name: str, priority: float) -> None: ...

class AtomicString(str): ...
