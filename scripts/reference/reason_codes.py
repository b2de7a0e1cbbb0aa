"""The page of the reason codes: their meaning and remedy from `jpeg_contract`, the messages from the source."""

from __future__ import annotations

from jpeg_contract.reason_codes import GROUPS, ReasonCode

from reference.raised import ELLIPSIS, Raised, raised
from reference.text import code, head

_INTRODUCTION = (
    f"A reason code is stable, for programs; its message is for people, and may change. Here, {ELLIPSIS} stands for a "
    "value in a message. A search on the site finds a code by a part of its message, too. "
    "[Errors](../errors.md) has the messages of Triton, TensorRT and Docker."
)
_PLACES = {
    "jpeg_contract": "configs, reports and command lines",
    "jpeg_preprocess": "the model `preprocess`",
    "jpeg_postprocess": "the model `postprocess`",
    "models": "the models in `model_repository`",
    "jpeg_runtime": "models and classifiers, in the server and in checks",
    "jpeg_build": "`jpeg-build`",
    "jpeg_serve": "`jpeg-serve`",
    "jpeg_client": "`jpeg_client` and `jpeg-classify`",
    "jpeg_web": "`jpeg-web`",
    "jpeg_bench": "`jpeg-bench`",
    "gateway": "the gateway",
}


def page() -> str:
    """Return the page."""
    places: dict[str, list[Raised]] = {}
    for each in raised():
        places.setdefault(each.code, []).append(each)
    groups = (
        f"## {title}\n\n" + "".join(_entry(name, entry, places.get(name, [])) for name, entry in entries.items())
        for title, entries in GROUPS.items()
    )
    return head("Reason codes", _INTRODUCTION) + "".join(groups).rstrip() + "\n"


def _entry(name: str, entry: ReasonCode, places: list[Raised]) -> str:
    rooms = [place for room, place in _PLACES.items() if any(each.room == room for each in places)]
    messages = sorted({shown for each in places if _says_something(shown := " ".join(each.message.split()))})
    listed = "".join(f"- {code(message)}\n" for message in messages)
    return (
        f"### `{name}`\n\n{entry.meaning} **Remedy:** {entry.remedy} **From:** {', '.join(rooms)}.\n\n"
        f"{listed}{chr(10) if listed else ''}"
    )


def _says_something(message: str) -> bool:
    """Whether there are words in a message beside what is put in."""
    return any(word.isalpha() for word in message.split())
