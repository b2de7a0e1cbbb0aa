"""Runs labelled photos through the network in its framework and through every artefact, with every decoder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.command_line import Progress
from jpeg_contract.gpus import find_gpus
from jpeg_contract.parameters import SettingsError
from jpeg_contract.settings import Decoder, Head, PreprocessSettings
from jpeg_contract.versions import tool_versions
from jpeg_preprocess import DevicePreprocessor, Preprocessor, open_preprocessor, unwrap
from jpeg_runtime.isolated import RuntimeFailure
from numpy.typing import NDArray

from jpeg_build.checks.as_served import open_isolated
from jpeg_build.checks.batches import Run as RunBatch
from jpeg_build.checks.batches import split_batches
from jpeg_build.errors import BuildError
from jpeg_build.evaluate.answers import Answer, AnswerFile, Timing, answers_of
from jpeg_build.evaluate.candidates import Candidate
from jpeg_build.evaluate.dataset import Photo
from jpeg_build.evaluate.machine import Machine
from jpeg_build.networks.network import Network
from jpeg_build.recipe.recipe import Recipe

FRAMEWORK = "framework"
FRAMEWORK_DECODER: Decoder = "full"

BATCH = 32
# Frameworks keep the activations of a whole batch.
FRAMEWORK_BATCH = 16

# Format of the answer files.
_FORMAT = 1
_REPORT_EVERY_S = 10.0


@dataclass(frozen=True)
class Run:
    """One classifier with one decoder.

    Attributes:
        name: "openvino.int8/scaled", or "framework".
        decoder: Of JPEGs.
        candidate: The artefact; None for the network in its framework.
        in_use: Whether the ensemble's requests are answered so now.
    """

    name: str
    decoder: Decoder
    candidate: Candidate | None = None
    in_use: bool = False


def runs_of(candidates: Sequence[Candidate], decoders: Collection[Decoder], served: Decoder) -> list[Run]:
    """Return the framework's run, and those of each artefact with each decoder. served: the repository's decoder."""
    built = [
        Run(f"{each.name}/{decoder}", decoder, each, each.in_use and decoder == served)
        for each in candidates
        for decoder in decoders
    ]
    return [Run(FRAMEWORK, FRAMEWORK_DECODER), *built]


@dataclass(frozen=True)
class Unreadable:
    """A photo that a decoder refuses: it is left out of all runs alike.

    Attributes:
        name: Of the photo.
        reason: Code.
        message: For people.
    """

    name: str
    reason: str
    message: str


@dataclass(frozen=True)
class Gathered:
    """What all runs answered.

    Attributes:
        photos: The photos that every run answered.
        hashes: SHA-256 of the bytes of each.
        unreadable: The others.
        answers: By run, by hash.
        timings: By run.
        left_out: A line for each run that this machine cannot do.
    """

    photos: list[Photo]
    hashes: list[str]
    unreadable: list[Unreadable]
    answers: Mapping[str, Mapping[str, Answer]]
    timings: Mapping[str, Sequence[Timing]]
    left_out: list[str]


@contextmanager
def open_decoders(
    settings: PreprocessSettings, wanted: Sequence[Decoder]
) -> Iterator[tuple[dict[Decoder, Preprocessor | DevicePreprocessor], list[str]]]:
    """Open the decoders that are wanted, and that of the framework; without a choice, all that this machine has.

    Args:
        settings: Of the repository; only the decoder is replaced.
        wanted: Names; none takes all.

    Returns:
        The decoders, and a line for each that is not available.

    Raises:
        BuildError: A decoder that was named is not available.
    """
    with ExitStack() as stack:
        opened: dict[Decoder, Preprocessor | DevicePreprocessor] = {}
        left_out = []
        names: tuple[Decoder, ...] = ("full", "scaled", "gpu") if find_gpus().found else ("full", "scaled")
        for name in dict.fromkeys((FRAMEWORK_DECODER, *(wanted or names))):
            try:
                opened[name] = open_preprocessor(replace(settings, decoder=name))
            except SettingsError as error:
                if wanted or name != "gpu":
                    raise BuildError(str(error), reason=error.reason) from error
                left_out.append(str(error))
                continue
            stack.callback(opened[name].close)
        yield opened, left_out


class _Runner:
    """A run with its answers, opened when it is first needed: with all answers in its file, it never is."""

    def __init__(self, run: Run, file: AnswerFile, opener: Callable[[], RunBatch]) -> None:
        self.run, self.file = run, file
        self._opener = opener
        self._function: RunBatch | None = None

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """Run a batch. Returns its logits, and the seconds that this took without opening. Raises BuildError."""
        try:
            if self._function is None:
                function = self._opener()
                function(np.zeros_like(pixels))  # the first batch of a size may compile or reserve
                self._function = function
            begun = time.perf_counter()
            return self._function(pixels), time.perf_counter() - begun
        except (BuildError, RuntimeFailure) as error:
            raise BuildError(f"{self.run.name}: {error}", reason=error.reason) from error


@dataclass(frozen=True)
class _Batch:
    """Photos with their bytes, and the SHA-256 of these."""

    photos: Sequence[Photo]
    data: Sequence[bytes]
    hashes: Sequence[str]


@dataclass
class Runner:
    """Runs photos through all runs.

    Attributes:
        recipe: Of the network.
        network: In its framework.
        settings: Of the repository's decoding.
        machine: It decides answers, too, to the last bit.
        folder: Of the answer files.
        required: Names of the forms that must run; others are left out if they cannot.
        progress: Takes the steps of the work.
    """

    recipe: Recipe
    network: Network
    settings: PreprocessSettings
    machine: Machine
    folder: Path
    required: Collection[str]
    progress: Progress
    left_out: list[str] = field(default_factory=list)

    @property
    def _head(self) -> Head:
        return self.recipe.output

    def gather(
        self,
        photos: Sequence[Photo],
        runs: Sequence[Run],
        decoders: Mapping[Decoder, Preprocessor | DevicePreprocessor],
    ) -> Gathered:
        """Run all photos that have no answer yet.

        Raises:
            BuildError: The network, or a form that must run, cannot.
        """
        hashes: dict[str, str] = {}
        unreadable: dict[str, Unreadable] = {}
        with ExitStack() as stack:
            # One process for each artefact, whatever decodes for it.
            processes: dict[str, RunBatch] = {}
            runners = [self._runner(run, processes, stack) for run in runs]
            meter = _Meter(len(photos), len(runners), self.progress)
            for first in range(0, len(photos), BATCH):
                batch = _read(photos[first : first + BATCH], unreadable)
                hashes.update(zip((photo.name for photo in batch.photos), batch.hashes, strict=True))
                for name, decoder in decoders.items():
                    mine = [each for each in runners if each.run.decoder == name]
                    gone = self._run_batch(mine, decoder, batch, unreadable)
                    runners = [each for each in runners if each not in gone]
                meter.count(min(first + BATCH, len(photos)))
        kept = [photo for photo in photos if photo.name not in unreadable]
        return Gathered(
            photos=kept,
            hashes=[hashes[photo.name] for photo in kept],
            unreadable=[unreadable[name] for name in sorted(unreadable)],
            answers={each.run.name: each.file.answers for each in runners},
            timings={each.run.name: each.file.timings for each in runners},
            left_out=self.left_out,
        )

    def _run_batch(
        self,
        runners: Sequence[_Runner],
        decoder: Preprocessor | DevicePreprocessor,
        batch: _Batch,
        unreadable: dict[str, Unreadable],
    ) -> list[_Runner]:
        """Decode what a run lacks, and run it. Returns the runs that cannot be done here."""
        lacking = sorted({place for each in runners for place in each.file.missing(batch.hashes)})
        if not lacking:
            return []
        pixels, errors, decode_s = _decode(decoder, [batch.data[place] for place in lacking])
        good = []
        for row, (place, error) in enumerate(zip(lacking, errors, strict=True)):
            if error is None:
                good.append((row, place))
            else:
                name = batch.photos[place].name
                unreadable[name] = Unreadable(name, error.reason, str(error))
        gone = []
        for runner in runners:
            missing = set(runner.file.missing(batch.hashes))
            rows = [(row, place) for row, place in good if place in missing]
            if not rows:
                continue
            images = np.ascontiguousarray(pixels[[row for row, _ in rows]])
            try:
                logits, seconds = runner(images)
            except BuildError as error:
                candidate = runner.run.candidate
                if candidate is None or candidate.form.name in self.required or runner.file.answers:
                    raise
                self.left_out.append(str(error))
                gone.append(runner)
                continue
            timing = Timing(len(rows), decode_s * len(rows) / len(lacking), seconds)
            runner.file.add(answers_of(logits, [batch.hashes[place] for _, place in rows], self._head), timing)
        return gone

    def _runner(self, run: Run, processes: dict[str, RunBatch], stack: ExitStack) -> _Runner:
        name = run.name.replace("/", ".")
        file = AnswerFile(self.folder / f"{name}-{self._key(run)[:16]}.jsonl")
        stack.callback(file.close)

        def opened() -> RunBatch:
            candidate = run.candidate
            if candidate is None:
                return split_batches(self.network.reference, FRAMEWORK_BATCH)
            if candidate.name not in processes:
                self.progress(f"opening {candidate.name}")
                processes[candidate.name] = stack.enter_context(open_isolated(candidate.args))
            return split_batches(processes[candidate.name], candidate.max_batch)

        return _Runner(run, file, opened)

    def _key(self, run: Run) -> str:
        """Return the digest of all that decides the answers of a run, beside the photos."""
        settings = replace(self.settings, decoder=run.decoder, threads=0, recipe="", recipe_sha256="")
        weights = self.network.weights
        decides: list[Any] = [
            _FORMAT,
            [self.recipe.sha256, weights.source, weights.sha256] if run.candidate is None else run.candidate.key,
            settings.to_parameters(),
            self.recipe.output,
            tool_versions(),
            self.machine.key,
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _read(photos: Sequence[Photo], unreadable: dict[str, Unreadable]) -> _Batch:
    batch, data = [], []
    for photo in photos:
        try:
            content = photo.file.read_bytes()
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            unreadable[photo.name] = Unreadable(photo.name, "file_unreadable", message)
            continue
        batch.append(photo)
        data.append(content)
    return _Batch(batch, data, [hashlib.sha256(each).hexdigest() for each in data])


def _decode(
    decoder: Preprocessor | DevicePreprocessor, images: Sequence[bytes]
) -> tuple[NDArray[np.uint8], list[Any], float]:
    """Decode as the model `preprocess` does. Returns pixels in host memory, errors, and seconds."""
    settings = decoder.settings
    begun = time.perf_counter()
    decoded = decoder.decode([unwrap(image, settings.limits, settings.formats) for image in images])
    pixels: Any = decoded.pixels
    on_host = pixels if isinstance(pixels, np.ndarray) else pixels.get()
    return on_host, list(decoded.errors), time.perf_counter() - begun


class _Meter:
    """Reports photos, rate and remaining time, at most every ten seconds."""

    def __init__(self, photos: int, runs: int, progress: Progress) -> None:
        self._photos, self._progress = photos, progress
        self._begun = self._reported = time.monotonic()
        progress(f"running {photos} photos through {runs} classifiers and decoders")

    def count(self, done: int) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_EVERY_S or done == self._photos:
            return
        self._reported = now
        rate = done / (now - self._begun)
        left = (self._photos - done) / rate
        self._progress(f"{done} of {self._photos} photos, {rate:.1f} photos/s, {_duration(left)} left")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
