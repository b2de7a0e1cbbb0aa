"""The numbers of `make accuracy`, and their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

FRAMEWORK = "framework"
HEAD = ("network", "photos", "form, precision, decoder", "top-1 [95 %]", "top-5", "as the framework", "p")
NOTHING = "-"


class Row(msgspec.Struct, frozen=True):
    """A run. top1: value and interval; top5 is None where there are no more than five classes; p is McNemar's."""

    form: str
    precision: str
    decoder: str
    top1: tuple[float, float, float]
    top5: float | None
    agreement: float | None
    p: float | None

    @property
    def numbers(self) -> tuple[str, ...]:
        """What the table says of it."""
        value, low, high = (100 * each for each in self.top1)
        agreement = NOTHING if self.agreement is None else f"{100 * self.agreement:.1f} %"
        top5 = NOTHING if self.top5 is None else f"{100 * self.top5:.1f} %"
        return f"{value:.1f} % [{low:.1f}, {high:.1f}]", top5, agreement, NOTHING if self.p is None else f"{self.p:.2g}"


class Measured(msgspec.Struct, frozen=True):
    """A network on a set of photos. status: of jpeg-build evaluate; labelled: whether its accuracy means something."""

    network: str
    set: str
    labelled: bool
    photos: int
    seconds: float
    status: int
    machine: str
    versions: Mapping[str, str]
    notes: list[str]
    rows: list[Row]

    @staticmethod
    def of(
        network: str, photos: str, evaluation: Mapping[str, Any], *, labelled: bool, seconds: float, status: int
    ) -> Measured:
        """Take from evaluation.json what the table needs; `evaluation` is empty if there is none."""
        against = {each["first"]: each for each in evaluation.get("comparisons", []) if each["second"] == FRAMEWORK}
        machine = evaluation.get("machine", {})
        return Measured(
            network=network,
            set=photos,
            labelled=labelled,
            photos=evaluation.get("photos", 0),
            seconds=seconds,
            status=status,
            machine=", ".join([machine["cpu"], f"{machine['cores']} CPUs", *machine["gpus"]]) if machine else "",
            versions=evaluation.get("versions", {}),
            notes=evaluation.get("notes", []),
            rows=[_row(each, against.get(each["name"])) for each in evaluation.get("runs", [])],
        )


def _row(run: Mapping[str, Any], pair: Mapping[str, Any] | None) -> Row:
    share = run["accuracy"]
    few = run["top_k"] is None or run["k"] < 5
    return Row(
        form=run["form"],
        precision=run["precision"],
        decoder=run["decoder"],
        top1=(share["value"], share["low"], share["high"]),
        top5=None if few else run["top_k"]["value"],
        agreement=None if pair is None else pair["agreement"]["value"],
        p=None if pair is None else pair["p"],
    )


class NotBuilt(msgspec.Struct, frozen=True):
    """A form and precision that this machine did not build. message: the last line of jpeg-build."""

    network: str
    form: str
    precision: str
    reason: str
    message: str


class Summary(msgspec.Struct, frozen=True):
    """summary.json. seconds: of builds and evaluations."""

    date: str
    seconds: float
    measured: list[Measured]
    not_built: list[NotBuilt]


def to_markdown(summary: Summary) -> str:
    """Return the table; runs of equal numbers share a row."""
    machines = dict.fromkeys(each.machine for each in summary.measured if each.machine)
    lines = [f"{'; '.join(machines)}; {summary.date}; {summary.seconds:.0f} s.", "", _line(HEAD), _line(["---"] * 7)]
    for each in summary.measured:
        lines += [_line(row) for row in _rows(each)]
    lines += [
        f"{'' if number else chr(10)}- Not built: {each.network} {each.form} {each.precision} ({each.reason})"
        for number, each in enumerate(summary.not_built)
    ]
    return "\n".join(lines) + "\n"


def _rows(found: Measured) -> Iterator[tuple[str, ...]]:
    first = found.network, f"{found.set}, {found.photos}"
    if not found.rows:
        yield *first, f"not evaluated: status {found.status}", *[NOTHING] * 4
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found.rows:
        accuracy, top5, agreement, p = row.numbers
        shown = (accuracy, top5, agreement, p) if found.labelled else (NOTHING, NOTHING, agreement, NOTHING)
        groups.setdefault(shown, []).append(row)
    for numbers, rows in groups.items():
        yield *first, _names(rows), *numbers
        first = "", ""


def _names(rows: Sequence[Row]) -> str:
    """Name runs: the decoders of a form and precision together, then the forms of the same decoders."""
    decoders: dict[str, list[str]] = {}
    for row in rows:
        name = FRAMEWORK if row.form == FRAMEWORK else f"{row.form} {row.precision}"
        decoders.setdefault(name, []).append(row.decoder)
    names: dict[str, list[str]] = {}
    for name, each in decoders.items():
        names.setdefault("" if name == FRAMEWORK else f", {' and '.join(each)}", []).append(name)
    return "; ".join(f"{', '.join(each)}{decoder}" for decoder, each in names.items())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
