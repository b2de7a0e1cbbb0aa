"""Find the reason codes that the code can give, and the messages that come with them, in the source itself.

A code is a literal. It stands in one of four places: the attribute `reason` of a class; the argument for a parameter or
a field with the name `reason`, or one that ends so; a variable with this name; and the end of a message, in brackets.
"""

from __future__ import annotations

import ast
import collections
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# Not all below the model repository: builds place their folders there, which may be gone before they are read.
ROOMS = {
    "jpeg_contract": "contract/jpeg_contract/**/*.py",
    "jpeg_preprocess": "preprocess/jpeg_preprocess/**/*.py",
    "jpeg_postprocess": "postprocess/jpeg_postprocess/**/*.py",
    "jpeg_runtime": "runtime/jpeg_runtime/**/*.py",
    "jpeg_build": "build/jpeg_build/**/*.py",
    "jpeg_serve": "serve/jpeg_serve/**/*.py",
    "jpeg_client": "client/jpeg_client/**/*.py",
    "jpeg_web": "client/jpeg_web/**/*.py",
    "jpeg_bench": "bench/jpeg_bench/**/*.py",
    "models": "model_repository/*/1/model.py",
}
GATEWAY = ("deploy/gateway/nginx.conf.template", "deploy/gateway/gateway.sh")

# Codes that the code puts together, by the file that does.
PUT_TOGETHER = {
    "client/jpeg_client/streams.py": ("invalid_batch_size", "invalid_concurrency"),
    "client/jpeg_web/application.py": ("invalid_k", "invalid_threshold", "invalid_timeout_s"),
}
# Of HTTP, where the application has no path or method; it takes the phrase of the status.
_OF_HTTP = ("not_found", "method_not_allowed")

ELLIPSIS = "…"
_NAME = r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*"
_CODE = re.compile(_NAME)
_IN_BRACKETS = re.compile(rf"(?P<message>.*) \[(?P<code>{_NAME})\]\s*", re.DOTALL)
_OF_GATEWAY = re.compile(
    rf'(?P<message>[^"\n]*) \[(?P<code>{_NAME})\]"|"reason":"(?P<web_code>{_NAME})","message":"(?P<web_message>[^"]*)"'
)
# Tables of a recipe, which stand in brackets, too.
_TABLES = frozenset({"geometry", "normalisation", "source", "tensorflow"})
# Their `reason` is the label of a metric, or Triton's text.
_OTHER_REASONS = frozenset({"Refused", "Series", "ModelState", "certificate_error", "_certificate_error"})
# Of the bench's recorder, whose `reason` is a text.
_NO_CODES = frozenset({"bench/jpeg_bench/paced_sender.py"})


@dataclass(frozen=True, order=True)
class Raised:
    """A place that gives a code.

    Attributes:
        code: The reason code.
        room: The package, such as "jpeg_serve", or "gateway".
        place: The file.
        maker: The class or function that takes the code; empty for none.
        message: The text, with an ellipsis for each value that is put in; empty if it is made elsewhere.
    """

    code: str
    room: str
    place: str
    maker: str = ""
    message: str = ""


class PutTogetherError(ValueError):
    """A reason code is put together, so that nobody finds it by a search."""


@dataclass(frozen=True)
class _Module:
    room: str
    place: str
    tree: ast.Module
    constants: Mapping[str, str]


def sources() -> list[tuple[str, Path]]:
    """Return the files of Python code of all packages and models, each with its package."""
    return [(room, file) for room, pattern in ROOMS.items() for file in sorted(CHECKOUT.glob(pattern))]


@functools.cache
def raised() -> tuple[Raised, ...]:
    """Return every place.

    Raises:
        PutTogetherError: A code is not a literal, and not in PUT_TOGETHER.
    """
    modules = [_module(room, file) for room, file in sources()]
    positions, own_codes = _positions(modules), _codes_of_classes(modules)
    found = {each for module in modules for each in _in_module(module, positions, own_codes)}
    for name in GATEWAY:
        for match in _OF_GATEWAY.finditer((CHECKOUT / name).read_text(encoding="utf-8")):
            code, message = match["code"] or match["web_code"], match["message"] or match["web_message"]
            found.add(Raised(code, "gateway", name, "", message.rpartition('":')[2].strip(" '{")))
    found |= {Raised(code, "jpeg_web", "client/jpeg_web/application.py", "_error") for code in _OF_HTTP}
    return tuple(sorted(found))


def _module(room: str, file: Path) -> _Module:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    return _Module(room, str(file.relative_to(CHECKOUT)), tree, constants)


def _positions(modules: Iterable[_Module]) -> dict[str, set[int]]:
    """Return the positions at which functions and classes take a reason, by their names."""
    positions: dict[str, set[int]] = collections.defaultdict(set)

    def note(name: str, parameters: list[str]) -> None:
        if name not in _OTHER_REASONS:
            positions[name].update(place for place, parameter in enumerate(parameters) if _is_reason(parameter))

    for node in (node for module in modules for node in ast.walk(module.tree)):
        if isinstance(node, ast.ClassDef):
            fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            note(node.name, [each.id for each in fields if isinstance(each, ast.Name)])
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    note(node.name, [argument.arg for argument in each.args.args[1:]])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name != "__init__":
            names = [argument.arg for argument in node.args.args]
            note(node.name, names[1:] if names[:1] in (["self"], ["cls"]) else names)
    return positions


def _codes_of_classes(modules: Iterable[_Module]) -> dict[str, str]:
    """Return the reason of each class that has or inherits one, by its name."""
    own: dict[str, str] = {}
    bases: dict[str, list[str]] = {}
    for node in (node for module in modules for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)):
        bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
        for each in node.body:
            if isinstance(reason := _assigned_reason(each), ast.Constant):
                own[node.name] = str(reason.value)

    def inherited(name: str) -> str | None:
        return own.get(name) or next(filter(None, map(inherited, bases.get(name, []))), None)

    return {name: code for name in bases if (code := inherited(name)) is not None}


def _is_reason(name: str | None) -> bool:
    """Whether a parameter of this name takes a reason: `reason`, `busy_reason`."""
    return name is not None and (name == "reason" or name.endswith("_reason"))


def _assigned_reason(node: ast.AST) -> ast.expr | None:
    if isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "reason" for target in node.targets
    ):
        return node.value
    return None


def _in_module(module: _Module, positions: Mapping[str, set[int]], own_codes: Mapping[str, str]) -> Iterator[Raised]:
    def found(code: str, maker: str = "", message: str = "") -> Raised:
        return Raised(code, module.room, module.place, maker, message)

    parts = {id(part) for node in ast.walk(module.tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and module.place not in _NO_CODES:
            maker = _name(node.func)
            if maker in _OTHER_REASONS:
                continue
            reasons = [keyword.value for keyword in node.keywords if _is_reason(keyword.arg)]
            reasons += [node.args[place] for place in positions.get(maker, ()) if place < len(node.args)]
            codes = [code for reason in reasons for code in _codes(reason, module)]
            if not reasons and maker in own_codes:
                codes = [own_codes[maker]]
            messages = [text for each in node.args if each not in reasons for text in _texts(each) if " " in text]
            yield from (found(code, maker, text) for code in codes for text in messages or [""])
        elif (assigned := _assigned_reason(node)) is not None:
            yield from (found(code) for code in _codes(assigned, module))
        elif isinstance(node, (ast.Constant, ast.JoinedStr)) and id(node) not in parts:
            for text in _texts(node):
                match = _IN_BRACKETS.fullmatch(text)
                if match and match["code"] not in _TABLES:
                    yield found(match["code"], "", match["message"])


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _codes(reason: ast.expr, module: _Module) -> Iterator[str]:
    """Yield the literals that an expression can be; none for what was a reason before."""
    if isinstance(reason, ast.Constant):
        if isinstance(reason.value, str) and _CODE.fullmatch(reason.value):
            yield reason.value
    elif isinstance(reason, ast.Name) and reason.id in module.constants:
        yield module.constants[reason.id]
    elif isinstance(reason, ast.IfExp):
        yield from _codes(reason.body, module)
        yield from _codes(reason.orelse, module)
    elif isinstance(reason, ast.BoolOp):
        for each in reason.values:
            yield from _codes(each, module)
    elif isinstance(reason, ast.JoinedStr) and re.match(_NAME, _texts(reason)[0]):
        if module.place not in PUT_TOGETHER:
            raise PutTogetherError(
                f"{module.place}:{reason.lineno}: the reason code is put together: write it as a literal, or add what "
                "it can be to PUT_TOGETHER in scripts/reference/raised.py"
            )
        yield from PUT_TOGETHER[module.place]


def _texts(node: ast.expr) -> list[str]:
    """Return what a text can be, with an ellipsis for each value that is put in."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else ELLIPSIS for part in node.values)
        return ["".join(parts)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        rights = _texts(node.right) or [ELLIPSIS]
        return [left + right for left in _texts(node.left) or [ELLIPSIS] for right in rights]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    return []
