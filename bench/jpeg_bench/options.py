"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from jpeg_contract.command_line import Parameter, PositiveInteger, PositiveSeconds, cyclopts, positive
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.remedies import DEFAULT_REPOSITORY
from jpeg_contract.resources import PHOTOS as PROJECT_PHOTOS
from jpeg_contract.tensors import ENSEMBLE

from jpeg_bench.errors import InvalidOption
from jpeg_bench.load import Load, Protocol, RequestDistribution
from jpeg_bench.photos import Encoding, Photos, mix_photos, read_photos


def _parts(tokens: Sequence[Any]) -> list[str]:
    return [part.strip() for token in tokens for part in token.value.split(",")]


def _integers(_kind: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    for part in (parts := _parts(tokens)):
        if not part.isdecimal():
            raise ValueError(f"{part!r} is not a positive integer")
    return tuple(map(int, parts))


def _numbers(_kind: Any, tokens: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(float, _parts(tokens)))


def comma_separated(kind: Any, tokens: Sequence[Any]) -> Any:
    """Convert "grpc,http" to a tuple, for cyclopts."""
    return cyclopts.convert(kind, _parts(tokens))


def _image_sizes(_kind: Any, tokens: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    sizes = []
    for part in _parts(tokens):
        width, _, height = part.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise ValueError(f"{part!r} is not WIDTHxHEIGHT in pixels")
        sizes.append((int(width), int(height)))
    return tuple(sizes)


def _not_negative(_kind: Any, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{value} is below 0")


def joined(values: Sequence[Any]) -> str | None:
    """Show a tuple as it is typed, for cyclopts; None hides an empty one."""
    return ",".join(map(str, values)) or None


_NAMES = Parameter(converter=comma_separated, show_default=joined)

# Options whose values are separated by commas.
PositiveIntegers = Annotated[tuple[int, ...], Parameter(converter=_integers, show_default=joined, validator=positive)]
PositiveNumbers = Annotated[tuple[float, ...], Parameter(converter=_numbers, show_default=joined, validator=positive)]
Protocols = Annotated[tuple[Protocol, ...], _NAMES]

Goal = Literal["throughput", "latency"]
"""`throughput`: most images per second. `latency`: the smallest median latency of a request."""


@Parameter(name="*")
@dataclass(frozen=True)
class RepositoryOptions:
    """The model repository.

    Attributes:
        model_repository: Model repository to measure.
    """

    model_repository: Path = DEFAULT_REPOSITORY


@Parameter(name="*")
@dataclass(frozen=True)
class TargetOptions:
    """The server.

    Attributes:
        url: Running server, grpc://HOST:PORT or http://HOST:PORT. By default a server is started on free ports.
        model: Name of the ensemble.
        protocol: Protocols, separated by commas. By default every protocol whose address is known.
    """

    url: str | None = None
    model: str = ENSEMBLE
    protocol: Protocols = ()


@Parameter(name="*")
@dataclass(frozen=True)
class PhotoOptions:
    """The photos.

    Attributes:
        photos: Folder of JPEGs.
        photo_size: WIDTHxHEIGHT to resize the photos to, encoded with quality 90; several sizes, separated by commas,
            are mixed. By default they are unchanged.
        grain: Noise of up to so many counts that is added to resized photos: 8 for the bytes of a phone's photos.
        progressive: Encode resized photos as progressive JPEGs.
    """

    photos: Annotated[Path, Parameter(show_default="photos of this project")] = PROJECT_PHOTOS
    photo_size: Annotated[tuple[tuple[int, int], ...], Parameter(converter=_image_sizes, n_tokens=1)] = ()
    grain: Annotated[int, Parameter(validator=_not_negative)] = 0
    progressive: bool = False

    @property
    def encoding(self) -> Encoding:
        """How resized photos are encoded."""
        return Encoding(self.grain, self.progressive)

    def read(self) -> Photos:
        """Read the photos.

        Raises:
            BenchError: There are none.
            InvalidOption: An option needs --photo-size.
        """
        if not self.photo_size:
            if self.encoding != Encoding():
                raise InvalidOption("--grain and --progressive change resized photos: add --photo-size WIDTHxHEIGHT")
            return read_photos(self.photos)
        return mix_photos([read_photos(self.photos, size, self.encoding) for size in self.photo_size])


@Parameter(name="*")
@dataclass(frozen=True)
class TimeOptions:
    """The duration of a measurement.

    Attributes:
        seconds: Duration of each measurement in seconds.
    """

    seconds: PositiveSeconds = 5.0


@Parameter(name="*")
@dataclass(frozen=True)
class ClientOptions:
    """The clients.

    Attributes:
        warmup_s: Seconds of load before each measurement.
        client_processes: Client processes, doubled if one uses 80 % of a CPU. By default a quarter of the CPUs.
    """

    warmup_s: Annotated[float, Parameter(validator=_not_negative)] = 1.0
    client_processes: PositiveInteger | None = None

    @property
    def processes(self) -> int:
        """Number of client processes. They share the CPUs with the server."""
        return self.client_processes or max(1, usable_cpus() // 4)

    def closed_loop(self, concurrency: int, seconds: float) -> Load:
        """Return a closed loop with these clients."""
        return Load(concurrency=concurrency, client_processes=self.processes, warmup_s=self.warmup_s, seconds=seconds)

    def open_loop(self, request_rate: float, distribution: RequestDistribution, seconds: float) -> Load:
        """Return an open loop with these clients."""
        return Load(
            request_rate=request_rate,
            distribution=distribution,
            client_processes=self.processes,
            warmup_s=self.warmup_s,
            seconds=seconds,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class OpenLoopOptions:
    """The requests of an open loop.

    Attributes:
        request_distribution: Intervals between the requests of an open loop.
    """

    request_distribution: RequestDistribution = "poisson"


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """The output.

    Attributes:
        as_json: Print the result as JSON instead of a summary.
    """

    as_json: Annotated[bool, Parameter(name="--json")] = False


REPOSITORY = RepositoryOptions()
TARGET = TargetOptions()
PHOTOS = PhotoOptions()
TIME = TimeOptions()
CLIENTS = ClientOptions()
OPEN_LOOP = OpenLoopOptions()
OUTPUT = OutputOptions()
