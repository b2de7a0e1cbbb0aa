"""The settings of a model repository that decide how fast it is served: which there are, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from jpeg_contract.folder_lock import FolderLock
from jpeg_contract.remedies import DEFAULT_REPOSITORY
from jpeg_contract.settings import Decoder, PreprocessSettings
from jpeg_contract.staging import REPOSITORY_LOCK, Staging
from jpeg_contract.tensors import LABEL, PIXELS
from jpeg_contract.versions import installed_version

from jpeg_bench.changed_repository import copied
from jpeg_bench.errors import BenchError
from jpeg_bench.tune_search import Knob, Move, Point, Space, Value

if TYPE_CHECKING:
    from jpeg_contract.config_text import Changes
    from jpeg_contract.model_config import ModelConfig
    from jpeg_serve.machine import Machine
    from jpeg_serve.models import Model

Role = Literal["preprocess", "classifier", "postprocess"]

ROLES: tuple[Role, ...] = ("preprocess", "classifier", "postprocess")

SERVERS = "servers"
_COUNT, _DELAY, _THREADS, _DECODER = "count", "delay_us", "threads", "decoder"

_DELAYS_US = (0, 500, 2000, 5000)
# Steps between numbers of processes: each is at least a quarter more than the one before, above 4.
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# Of two, one is always free of large requests, so that small ones pass them (docs/preprocessing.md).
_FEWEST_DECODERS = 2
# Per server. Each is a process, and each of a classifier a copy of the network.
_LEAST_LIMIT, _CLASSIFIER_LIMIT = 4, 8
# What `decoder: gpu` needs, as the extra gpu-decode brings it.
_GPU_DECODER_PACKAGES = ("cupy", "nvidia.nvimgcodec")

_STAGING = Staging(
    FolderLock(
        REPOSITORY_LOCK,
        BenchError,
        busy="a jpeg-build is at work there; nothing was written; write the choice when it is done",
        busy_reason="repository_busy",
    ),
    BenchError,
)


@dataclass(frozen=True)
class Cpus:
    """What the start values are derived from.

    Attributes:
        usable: CPUs that this process may use.
        gpus: GPUs that the models can use.
    """

    usable: int
    gpus: int

    def per_server(self, servers: int) -> int:
        """Return the CPUs of each of several servers, at least 1."""
        return max(1, self.usable // max(1, servers))


@dataclass(frozen=True)
class Tunable:
    """The settings of an ensemble that can be tuned.

    Attributes:
        repository: Model repository.
        ensemble: Name of the ensemble.
        models: Names of its three models.
        configs: Their configs.
        space: The settings to choose.
        start: Their present values; the number of servers is that of `jpeg-serve` without `--servers`.
        seeds: What CPUs and GPUs let expect.
        on_gpu: Whether a model may run on a GPU.
        fixed: What is not tuned, and why, as sentences.
    """

    repository: Path
    ensemble: str
    models: Mapping[Role, str]
    configs: Mapping[Role, ModelConfig]
    space: Space
    start: Point
    seeds: tuple[Point, ...]
    on_gpu: bool
    fixed: tuple[str, ...]

    def servers(self, point: Point) -> int:
        """Return the number of servers of a point."""
        return int(self.space.named(point)[SERVERS])

    def changes(self, point: Point) -> dict[str, Changes]:
        """Return what differs from the repository, by the names of its models."""
        from jpeg_contract.config_text import Changes

        new = {name: value for name, value in self.space.named(point).items() if value != self._present(name)}
        found = {}
        for role in ROLES:
            count, delay = new.get(f"{role}.{_COUNT}"), new.get(f"{role}.{_DELAY}")
            decoder = new.get(f"{role}.{_DECODER}")
            texts = {name: new[f"{role}.{name}"] for name in (_DECODER, _THREADS) if f"{role}.{name}" in new}
            changes = Changes(
                count=None if count is None else int(count),
                kind=None if decoder is None else "KIND_GPU" if decoder == "gpu" else "KIND_CPU",
                delay_us=None if delay is None else int(delay),
                parameters={name: str(value) for name, value in texts.items()},
            )
            if changes != Changes():
                found[self.models[role]] = changes
        return found

    def texts(self, point: Point) -> dict[str, str]:
        """Return the texts of the configs that differ from the repository's, by the names of the models."""
        from jpeg_contract.config_text import change_text

        return {
            model: change_text(self._path(model).read_text(encoding="utf-8"), changes)
            for model, changes in self.changes(point).items()
        }

    @contextmanager
    def copy(self, point: Point) -> Iterator[Path]:
        """Copy the repository with the values of a point until the block ends."""
        from jpeg_contract.model_config import CONFIG

        with copied(self.repository) as copy:
            for model, text in self.texts(point).items():
                (copy / model / CONFIG).write_text(text, encoding="utf-8")
            yield copy

    def write(self, point: Point) -> list[Path]:
        """Write the values of a point into the repository: all configs or none, each renamed into its place.

        Returns:
            The configs that were written.

        Raises:
            BenchError: A config was edited meanwhile, a jpeg-build holds the repository, or it cannot be written.
        """
        from jpeg_contract.model_config import CONFIG, ConfigError, read

        with _STAGING.folder(self.repository) as folder:
            for role, model in self.models.items():
                try:
                    unchanged = read(self._path(model)) == self.configs[role]
                except ConfigError:
                    unchanged = False
                if not unchanged:
                    raise BenchError(
                        f"{self._path(model)} was changed while it was tuned; nothing was written: tune again",
                        reason="config_changed",
                    )
            texts = self.texts(point)
            for model, text in texts.items():
                (folder / model).mkdir()
                staged = folder / model / CONFIG
                staged.write_text(text, encoding="utf-8")
                staged.chmod(self._path(model).stat().st_mode & 0o777)
            _STAGING.place(folder, self.repository)
        return [self._path(model) for model in texts]

    def _path(self, model: str) -> Path:
        from jpeg_contract.model_config import CONFIG

        return self.repository / model / CONFIG

    def _present(self, name: str) -> Value:
        return self.space.named(self.start)[name]


def read_tunable(repository: Path, ensemble: str, cpus: int, machine: Machine | None = None) -> Tunable:
    """Find the settings of an ensemble that can be tuned on this machine.

    Args:
        repository: Model repository.
        ensemble: Name of the ensemble.
        cpus: CPUs that the servers may use.
        machine: None describes this one.

    Raises:
        BenchError: The ensemble does not consist of three models of this project.
        SettingsError: A setting of `preprocess` is invalid.
    """
    from jpeg_contract.model_config import parameters
    from jpeg_serve.errors import RepositoryProblems
    from jpeg_serve.machine import backends_folder, this_machine
    from jpeg_serve.models import read_models, served_models
    from jpeg_serve.placement import place_servers

    models, _ = read_models(repository)
    steps = _steps(repository, ensemble, models)
    machine = machine or this_machine(backends=backends_folder(repository, None))
    served = served_models(models, [ensemble])
    default_servers = len(place_servers(0, served, machine))
    configs: dict[Role, ModelConfig] = {role: steps[role].config for role in ROLES}
    settings = PreprocessSettings.from_parameters(parameters(configs["preprocess"]))
    try:
        # The devices that each of two servers would see: none if it stays on CPUs.
        classifier_on_gpu = any(place_servers(2, [steps["classifier"]], machine))
        place_servers(2, served, machine)
        names_gpus = False
    except RepositoryProblems:
        classifier_on_gpu = names_gpus = True
    decoders = _decoders(settings.decoder, has_gpu=_has_gpu_decoder() and bool(machine.gpus.found))
    on_gpu = classifier_on_gpu or "gpu" in decoders
    found = Cpus(cpus, len(machine.gpus.found) if on_gpu else 0)
    servers = (default_servers,) if names_gpus else _servers(found, default_servers)
    builder = _Builder(found, default_servers, configs, settings, decoders, on_gpu=classifier_on_gpu)
    space = builder.space(servers)
    start = builder.start()
    return Tunable(
        repository=repository,
        ensemble=ensemble,
        models={role: steps[role].name for role in ROLES},
        configs=configs,
        space=space,
        start=start,
        seeds=builder.seeds(space, start),
        on_gpu=on_gpu,
        fixed=tuple(builder.fixed),
    )


class _Builder:
    """Puts the space together.

    Args:
        cpus: CPUs and GPUs.
        servers: What `jpeg-serve` starts by default.
        configs: Of the three models.
        settings: Of `preprocess`.
        decoders: Those to try, the present one first.
        on_gpu: Whether the classifier runs on a GPU.
    """

    def __init__(
        self,
        cpus: Cpus,
        servers: int,
        configs: Mapping[Role, ModelConfig],
        settings: PreprocessSettings,
        decoders: Sequence[Decoder],
        *,
        on_gpu: bool,
    ) -> None:
        self._cpus, self._servers, self._configs, self._settings = cpus, servers, configs, settings
        self._decoders, self._on_gpu = decoders, on_gpu
        self._present: dict[str, Value] = {}
        self._names: list[str] = []
        self.fixed: list[str] = []

    def space(self, servers: tuple[int, ...]) -> Space:
        """Return the settings and the moves between them."""
        knobs = [*self._counts(), Knob(SERVERS, servers), *self._of_preprocess(), *self._delays()]
        self._present[SERVERS] = self._servers
        self._names = [knob.name for knob in knobs]
        counts = [knob.name for knob in knobs if knob.name.endswith(f".{_COUNT}")]
        delays = [knob.name for knob in knobs if knob.name.endswith(f".{_DELAY}")]
        moves: list[Move] = []
        if len(counts) > 1:
            moves += [dict.fromkeys(counts, step) for step in (1, -1)]
        if len(servers) > 1:
            # Twice the servers with half of the processes each, and the other way round.
            moves += [{**dict.fromkeys(counts, -2 * step), SERVERS: step} for step in (1, -1)]
        if len(delays) > 1:
            moves.append(dict.fromkeys(delays, 1))
        names = self._names

        def normalise(point: Point) -> Point:
            # The threads of the CPU have nothing to do while a GPU decodes.
            values = dict(zip(names, point, strict=True))
            threads, decoder = f"preprocess.{_THREADS}", f"preprocess.{_DECODER}"
            if threads in values and values.get(decoder, self._settings.decoder) == "gpu":
                values[threads] = self._present[threads]
            return tuple(values.values())

        return Space(tuple(knobs), tuple(moves), frozenset([*counts, SERVERS]), normalise)

    def start(self) -> Point:
        """Return the present values."""
        return tuple(self._present[name] for name in self._names)

    def seeds(self, space: Space, start: Point) -> tuple[Point, ...]:
        """Return what the CPUs and GPUs let expect, for the present decoder and for the GPU's."""
        found = []
        for decoder in dict.fromkeys([self._settings.decoder, *self._decoders]):
            wanted = {f"{role}.{_COUNT}": self._expected(role, decoder) for role in ROLES}
            wanted[f"preprocess.{_DECODER}"] = decoder
            point = tuple(
                _nearest(knob.values, wanted[knob.name]) if knob.name in wanted else value
                for knob, value in zip(space.knobs, start, strict=True)
            )
            found.append(space.normalise(point))
        return tuple(dict.fromkeys(found))

    def _expected(self, role: Role, decoder: Decoder) -> Value:
        """Return a number of instances that suits the machine.

        A worker of Python keeps one core busy beside the threads of its libraries. A classifier on CPUs uses all of
        them in one instance, and so does the decoder in two. On a GPU, each image costs time on the CPU in
        `preprocess` and `postprocess`, and a second and third instance of the classifier copy while the first computes
        (docs/performance.md, "One H200").
        """
        cpus = self._cpus.per_server(self._servers)
        if role == "preprocess":
            return max(_FEWEST_DECODERS, cpus // 2) if decoder == "gpu" else _FEWEST_DECODERS
        if role == "classifier":
            return 1 + min(2, cpus // 6) if self._on_gpu else 1
        return max(1, cpus * 3 // 8) if self._on_gpu else 1

    def _counts(self) -> Iterator[Knob]:
        cpus = self._cpus.per_server(1)
        for role in ROLES:
            groups = self._configs[role].instance_group
            name = f"{role}.{_COUNT}"
            if len(groups) > 1:
                self.fixed.append(f"the instances of {role}: its config has several instance groups")
                continue
            # What Triton starts without a number: one for each GPU, two on CPUs.
            present = (groups[0].count if groups else 0) or (1 if self._on_gpu else 2)
            limit = max(_LEAST_LIMIT, _CLASSIFIER_LIMIT if role == "classifier" and self._on_gpu else cpus)
            if role == "classifier":
                limit = min(limit, _CLASSIFIER_LIMIT)
            fewest = min(_FEWEST_DECODERS, present) if role == "preprocess" else 1
            self._present[name] = present
            yield Knob(name, _ladder(fewest, limit, present))

    def _of_preprocess(self) -> Iterator[Knob]:
        cpus = self._cpus.usable
        if cpus > 1:
            present = self._settings.threads
            # 0 is one for each CPU.
            fewer = [step for step in _STEPS if step < cpus]
            values = sorted({*fewer, present} - {0, cpus})
            self._present[f"preprocess.{_THREADS}"] = 0 if present == cpus else present
            yield Knob(
                f"preprocess.{_THREADS}", (*(v for v in values if v < cpus), 0, *(v for v in values if v > cpus))
            )
        if len(self._decoders) > 1:
            self._present[f"preprocess.{_DECODER}"] = self._settings.decoder
            yield Knob(f"preprocess.{_DECODER}", tuple(self._decoders))

    def _delays(self) -> Iterator[Knob]:
        for role in ROLES:
            config = self._configs[role]
            if not config.HasField("dynamic_batching"):
                self.fixed.append(f"the delay of {role}: its config has no dynamic_batching")
                continue
            present = int(config.dynamic_batching.max_queue_delay_microseconds)
            self._present[f"{role}.{_DELAY}"] = present
            yield Knob(f"{role}.{_DELAY}", tuple(sorted({*_DELAYS_US, present})))


def serve_command(repository: Path, servers: int) -> list[str]:
    """Return the words of `jpeg-serve` with a number of servers."""
    named = [] if repository == DEFAULT_REPOSITORY else ["--model-repository", str(repository)]
    return ["jpeg-serve", *named, "--servers", str(servers)]


def _steps(repository: Path, ensemble: str, models: Mapping[str, Model]) -> dict[Role, Model]:
    """Return the three models of an ensemble; of a router, the classifier that answers."""
    from jpeg_contract.model_config import chosen_classifier, maker

    if ensemble not in models:
        raise BenchError(
            f"{repository} has no ensemble {ensemble}: set --model-repository DIR", reason="ensemble_missing"
        )
    config = models[ensemble].config
    classifier = chosen_classifier(config)
    if classifier is not None and classifier in models and (route := models[classifier].route) is not None:
        classifier = route.primary.model
    names = (maker(config, PIXELS), classifier, maker(config, LABEL))
    for name in names:
        if name is None or name not in models:
            raise BenchError(
                f"{repository} has no model {name or 'classifier'}: run jpeg-serve check", reason="model_missing"
            )
    return {role: models[cast("str", name)] for role, name in zip(ROLES, names, strict=True)}


def _decoders(present: Decoder, *, has_gpu: bool) -> tuple[Decoder, ...]:
    """Return the decoders that may be chosen, in the place of the present one too.

    `full` is the user's choice, since it changes the pixels: it is neither left for `scaled` nor offered. The GPU
    decodes every pixel, as `full` does; that its labels are the same is checked before it is measured.
    """
    if not has_gpu:
        return (present,)
    return ("full", "gpu") if present == "full" else ("scaled", "gpu")


def _has_gpu_decoder() -> bool:
    """Whether the packages of `decoder: gpu` are installed."""
    return all(installed_version(package) is not None for package in _GPU_DECODER_PACKAGES)


def _servers(cpus: Cpus, default: int) -> tuple[int, ...]:
    """Return the numbers of servers to try: on GPUs as many on each, or one that sees all."""
    if cpus.gpus > 0:
        return tuple(sorted({1, default, cpus.gpus, 2 * cpus.gpus}))
    return _ladder(1, max(2, cpus.usable), default)


def _ladder(fewest: int, most: int, present: int) -> tuple[int, ...]:
    return tuple(sorted({present, *(step for step in _STEPS if fewest <= step <= most)}))


def _nearest(values: Sequence[Value], wanted: Value) -> Value:
    if isinstance(wanted, str):
        return wanted
    return min(values, key=lambda value: abs(int(value) - wanted))
