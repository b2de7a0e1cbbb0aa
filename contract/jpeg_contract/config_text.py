"""Changes to single fields of a config.pbtxt in its text, so that comments and everything else stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf import text_format

from jpeg_contract.model_config import (
    ModelConfig,
    ModelInstanceGroup,
    parse,
    set_parameters,
)

_TOKEN = re.compile(
    r"""(?P<skipped>\s+|\#[^\n]*)|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[^\s{}<>\[\]:,;"'\#]+)|(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_INDENT = re.compile(r"[ \t]*")
_OPEN, _CLOSE = {"{": "}", "<": ">"}, {"}", ">"}


@dataclass(frozen=True)
class Changes:
    """New values of the fields of a model's config that decide how fast it is. None leaves a field as it is.

    Attributes:
        count: Instances, `count` of the first instance group.
        kind: `KIND_CPU` or `KIND_GPU` of that group.
        delay_us: Longest wait of a request for others of its batch, in microseconds:
            `max_queue_delay_microseconds` of `dynamic_batching`.
        parameters: Texts of parameters, by their names.
    """

    count: int | None = None
    kind: str | None = None
    delay_us: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def apply(self, config: ModelConfig) -> ModelConfig:
        """Return a config with these values."""
        changed = ModelConfig()
        changed.CopyFrom(config)
        if self.count is not None or self.kind is not None:
            group = changed.instance_group[0] if changed.instance_group else changed.instance_group.add()
            if self.count is not None:
                group.count = self.count
            if self.kind is not None:
                group.kind = ModelInstanceGroup.Kind.Value(self.kind)
        if self.delay_us is not None:
            changed.dynamic_batching.max_queue_delay_microseconds = self.delay_us
        set_parameters(changed, self.parameters)
        return changed

    def lines(self) -> list[str]:
        """Return the values as lines of a config.pbtxt."""
        group = [f"count: {self.count}"] * (self.count is not None) + [f"kind: {self.kind}"] * (self.kind is not None)
        return [
            *([f"instance_group {{ {' '.join(group)} }}"] if group else []),
            *(
                [f"dynamic_batching {{ max_queue_delay_microseconds: {self.delay_us} }}"]
                if self.delay_us is not None
                else []
            ),
            *(
                f"parameters {{ key: {json.dumps(name)} value {{ string_value: {json.dumps(value)} }} }}"
                for name, value in self.parameters.items()
            ),
        ]


def change_text(text: str, changes: Changes) -> str:
    """Return the text of a config with new values; all else, comments too, stays as it is.

    A text that is written so unusually that a field cannot be changed in its place is written anew: then only the
    comments at its beginning stay.

    Args:
        text: Of a config.pbtxt that can be parsed.
        changes: The new values.

    Raises:
        google.protobuf.text_format.ParseError: The text cannot be parsed.
    """
    config = parse(text)
    wanted = changes.apply(config)
    if wanted == config:
        return text
    try:
        changed = _changed(text, changes)
        if parse(changed) == wanted:
            return changed
    except (text_format.ParseError, _Unusual):
        pass
    head = re.match(r"(?:[ \t]*(?:#[^\n]*)?\n)*", text)
    assert head is not None
    return head[0] + text_format.MessageToString(wanted, use_short_repeated_primitives=True)


class _Unusual(ValueError):
    """The text is written in a way that `_fields` does not read."""


@dataclass(frozen=True)
class _Field:
    """A field in the text.

    Attributes:
        name: Its name.
        begin: Where its value begins; of a message, behind the bracket.
        end: Where its value ends; of a message, before the bracket.
        is_message: Whether its value is a message.
    """

    name: str
    begin: int
    end: int
    is_message: bool


def _changed(text: str, changes: Changes) -> str:
    if changes.count is not None:
        text = _set(text, "instance_group", "count", str(changes.count))
    if changes.kind is not None:
        text = _set(text, "instance_group", "kind", changes.kind)
    if changes.delay_us is not None:
        text = _set(text, "dynamic_batching", "max_queue_delay_microseconds", str(changes.delay_us))
    for name, value in changes.parameters.items():
        text = _set_parameter(text, name, value)
    return text


def _set(text: str, message: str, name: str, value: str) -> str:
    """Set a field of the first message of a name."""
    found = _find(text, 0, len(text), message)
    if found is None:
        return f"{text.rstrip()}\n{message} {{\n  {name}: {value}\n}}\n"
    return _set_in(text, found, name, value)


def _set_in(text: str, message: _Field, name: str, value: str) -> str:
    if not message.is_message:
        raise _Unusual(message.name)
    old = _find(text, message.begin, message.end, name)
    if old is not None:
        return text[: old.begin] + value + text[old.end :]
    inside = text[message.begin : message.end]
    if "\n" not in inside:
        return (
            f"{text[: message.begin]} {name}: {value}{inside.rstrip() and ' ' + inside.strip()} {text[message.end :]}"
        )
    indent = _INDENT.match(text, text.rfind("\n", 0, message.begin) + 1)
    assert indent is not None
    return f"{text[: message.begin]}\n{indent[0]}  {name}: {value}{text[message.begin :]}"


def _set_parameter(text: str, name: str, value: str) -> str:
    literal = json.dumps(value)
    for each in _fields(text, 0, len(text)):
        key = _find(text, each.begin, each.end, "key") if each.name == "parameters" and each.is_message else None
        if key is not None and text[key.begin : key.end][1:-1] == name:
            holder = _find(text, each.begin, each.end, "value")
            if holder is None:
                raise _Unusual(name)
            return _set_in(text, holder, "string_value", literal)
    entry = f"parameters {{\n  key: {json.dumps(name)}\n  value {{\n    string_value: {literal}\n  }}\n}}\n"
    return f"{text.rstrip()}\n{entry}"


def _find(text: str, begin: int, end: int, name: str) -> _Field | None:
    return next((each for each in _fields(text, begin, end) if each.name == name), None)


def _fields(text: str, begin: int, end: int) -> Iterator[_Field]:
    """Yield the fields between two places of the text; those of a list of messages one by one."""
    tokens = _tokens(text, begin, end)
    for name in tokens:
        if name[0] in ",;":
            continue
        following = next(tokens, None)
        if following is not None and following[0] == ":":
            following = next(tokens, None)
        if following is None:
            raise _Unusual(name[0])
        word, start, stop = following
        if word == "[":
            yield from _elements(name[0], tokens, start)
        elif word in _OPEN:
            yield _Field(name[0], stop, _end_of_message(tokens), is_message=True)
        else:
            yield _Field(name[0], start, stop, is_message=False)


def _elements(name: str, tokens: Iterator[tuple[str, int, int]], begin: int) -> Iterator[_Field]:
    """Yield the messages of a list, or the list itself if it has none."""
    messages = 0
    for word, _, stop in tokens:
        if word in _OPEN:
            messages += 1
            yield _Field(name, stop, _end_of_message(tokens), is_message=True)
        elif word == "]":
            if not messages:
                yield _Field(name, begin, stop, is_message=False)
            return
    raise _Unusual(name)


def _end_of_message(tokens: Iterator[tuple[str, int, int]]) -> int:
    depth = 1
    for word, start, _ in tokens:
        depth += (word in _OPEN) - (word in _CLOSE)
        if depth == 0:
            return start
    raise _Unusual("a message without its end")


def _tokens(text: str, begin: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield words, texts and marks with their places; neither comments nor white space."""
    for match in _TOKEN.finditer(text, begin, end):
        if match.lastgroup != "skipped":
            yield match[0], match.start(), match.end()
