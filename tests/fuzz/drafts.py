"""A request as a valid one and the mutations on it, so that it can be reduced by leaving mutations out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from fuzz.wire import Request


@dataclass(frozen=True)
class Mutation:
    """One change of a request.

    Attributes:
        name: The kind of change.
        arguments: What was drawn for it.
        apply: Changes a plan in place. It leaves a plan alone that other mutations have robbed of what it changes.
    """

    name: str
    arguments: dict[str, Any]
    apply: Callable[[Any], None]

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}"[:80] for name, value in self.arguments.items())
        return f"{self.name}({shown})"


@dataclass(frozen=True, repr=False)
class Draft:
    """A request to be made.

    Attributes:
        base: Name of the valid request.
        plan: Makes the valid request's plan.
        render: Turns a plan into what is sent.
        mutations: Applied in this order.
        labels: The best label of each image, which the response to the valid request must have; None if it has none.
        has_response: The valid request is answered with 200 or OK.
    """

    base: str
    plan: Callable[[], Any]
    render: Callable[[Any], Request]
    mutations: tuple[Mutation, ...] = ()
    labels: tuple[str, ...] | None = None
    has_response: bool = True

    def __repr__(self) -> str:
        return f"<{' '.join([self.base, *map(str, self.mutations)])}>"[:200]

    @property
    def is_valid(self) -> bool:
        """Whether nothing was changed, and the server must respond with the labels."""
        return not self.mutations and self.has_response

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its mutations."""
        return frozenset(mutation.name for mutation in self.mutations)

    def request(self) -> Request:
        """Return what is sent."""
        plan = self.plan()
        for mutation in self.mutations:
            mutation.apply(plan)
        return self.render(plan)

    def with_mutations(self, mutations: Sequence[Mutation]) -> Draft:
        """Return the same request with other mutations."""
        return replace(self, mutations=tuple(mutations))

    def reduced(self, fails: Callable[[Draft], bool]) -> Draft:
        """Leave out all mutations without which the draft still fails."""
        draft = self
        for mutation in self.mutations:
            smaller = draft.with_mutations([each for each in draft.mutations if each is not mutation])
            if fails(smaller):
                draft = smaller
        return draft


Apply = Callable[..., None]
T = TypeVar("T")


def mutation(apply: Apply, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Mutation]:
    """Return a strategy of mutations.

    Args:
        apply: Takes the plan and the arguments; its name is that of the mutation.
        arguments: Strategies of the arguments.
    """
    name = apply.__name__.strip("_")

    def make(drawn: dict[str, Any]) -> Mutation:
        # Later mutations may change what this one puts into a plan, and the strategies hand out the same objects again.
        return Mutation(name, drawn, lambda plan: apply(plan, **copy.deepcopy(drawn)))

    return st.fixed_dictionaries(arguments).map(make)


def choice(strategies: Sequence[st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """Choose one of the strategies, each equally often. `one_of` would weigh one of alternatives by their number."""
    return st.sampled_from(strategies).flatmap(lambda strategy: strategy)


def mutation_lists(kinds: Sequence[st.SearchStrategy[Mutation]]) -> st.SearchStrategy[tuple[Mutation, ...]]:
    """Return a strategy of none to three mutations, mostly one or two."""
    one = choice(kinds)
    return st.sampled_from((0, 1, 1, 1, 1, 2, 2, 3)).flatmap(lambda count: st.tuples(*[one] * count))


# Thresholds of valid requests, which leave the best label of each sample: its score is above 0.9.
THRESHOLDS = st.sampled_from((None, None, 0, 0.25, 0.75, "0.5", "1e-3"))

# Places in texts of any length; used modulo the length.
PLACES = st.integers(0, 2**20)

ODD_INTEGERS = st.sampled_from(
    (
        0,
        1,
        -1,
        2,
        3,
        5,
        8,
        9,
        63,
        64,
        65,
        255,
        256,
        1000,
        65535,
        65536,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**32,
        2**33,
        2**62,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        -2,
        -(2**31),
        -(2**32),
        -(2**63),
        -(2**63) - 1,
    )
)
# Places among a few; which binary block; bits to flip; and changes of a length.
FEW_PLACES = st.integers(0, 15)
BLOCKS = st.integers(0, 3)
MASKS = st.integers(1, 255)
SMALL_CHANGES = st.sampled_from((-5, -4, -1, 1, 2, 4, 100))
PARAMETER_NAMES = st.sampled_from(
    (
        "k",
        "K",
        "threshold",
        "Threshold",
        "priority",
        "timeout",
        "sequence_id",
        "sequence_start",
        "sequence_end",
        "binary_data_output",
        "headers",
        "binary_data",
        "binary_data_size",
        "classification",
        "triton_enable_empty_final_response",
        "",
        "x",
        "triton_x",
        "shared_memory_region",
        "shared_memory_offset",
        "shared_memory_byte_size",
        "unload_dependents",
        "triton_final",
        "max_tokens",
    )
)
ODD_TEXTS = st.sampled_from(
    (
        "",
        "0",
        "1",
        "-1",
        "x",
        "true",
        "LABEL",
        "IMAGE",
        "\x00",
        "a\x00b",
        "a\nb",
        "é",
        "\u2028",
        "%s%n",
        "../..",
        "x" * 5000,
        "1e5",
        "1e-5",
        "0.5",
        "nan",
        "0x1",
        "18446744073709551616",
        "null",
        "\ud7ff",
        "\U0001d54f" * 100,
    )
)

BOUNDED_SHAPE_VALUES = (0, 1, 2, 3, 8, 9, 32, 64, 65, -1, -2, 2**31, 2**32, 2**33, 2**61, 2**62, 2**63 - 1, -(2**63))
ODD_SHAPES = st.one_of(
    st.lists(st.sampled_from(BOUNDED_SHAPE_VALUES), max_size=5),
    st.sampled_from(
        (
            [2**32, 2**32],
            [2**33, 2**31, 1],
            [1, 2**62, 4],
            [-1, -1],
            [1, -1],
            [2**63 - 1, 2],
            [64, 2**58],
            [1] * 10,
            [1] * 2000,
            [0] * 3,
            [1, 0],
            [3, 1],
            [64, 1],
            [65, 1],
            [10**6, 1],
        )
    ),
)


def flipped(data: bytes, place: int, mask: int) -> bytes:
    """Change the bits of one byte."""
    if not data:
        return data
    place %= len(data)
    return data[:place] + bytes([data[place] ^ (mask or 1)]) + data[place + 1 :]


def resized(data: bytes, place: int, change: int) -> bytes:
    """Cut out, or insert, so many bytes at a place."""
    place %= len(data) + 1
    if change < 0:
        return data[:place] + data[place - change :]
    return data[:place] + b"\0A\xff\x80"[place % 4 : place % 4 + 1] * change + data[place:]


def with_integer(data: bytes, place: int, value: int) -> bytes:
    """Overwrite four bytes with a number, little-endian, at a place that is mostly where a length of BYTES lies."""
    place = 0 if place % 3 else place % (len(data) + 1)
    return data[:place] + (value % 2**32).to_bytes(4, "little") + data[place + 4 :]
