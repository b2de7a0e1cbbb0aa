"""The model repository on disk: what is built is staged beside it and renamed into it, all or nothing."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from jpeg_build import configs
from jpeg_build.errors import RepositoryError

CHECKOUT = Path(__file__).parents[2] / "model_repository"

CONFIG = "config.pbtxt"
_LOCK = ".jpeg-build.lock"
STAGING = ".staging-"


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A folder to build in, on the repository's own file system, so that renames out of it are atomic.

    One build at a time: a second one waits for nothing and is refused. What a killed build left is removed.

    Raises RepositoryError.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        lock = os.open(repository / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise RepositoryError(f"{repository}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryError(
                f"{repository}: another jpeg-build is at work there; try again when it is done"
            ) from error
        for left in repository.glob(f"{STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=repository))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def read_config(repository: Path, model: str) -> ModelConfig | None:
    """A model's config, or None if there is none yet.

    Raises RepositoryError if it cannot be parsed: a user's edits are not thrown away.
    """
    path = repository / model / CONFIG
    try:
        return configs.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise RepositoryError(
            f"{path}: cannot be read: {error}: mend it, or delete it to have it written anew"
        ) from error


def newest_version(repository: Path, model: str) -> int | None:
    """The highest number of a version's folder, or None if there is none."""
    folder = repository / model
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return max((int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)), default=None)


def write_config(repository: Path, model: str, text: str) -> None:
    """Replace the text of a model's config, aside and renamed.

    Raises RepositoryError.
    """
    with staging(repository) as folder:
        (folder / model).mkdir()
        (folder / model / CONFIG).write_text(text, encoding="utf-8")
        place(folder, repository)


def stage_configs(
    repository: Path,
    folder: Path,
    built: Mapping[str, ModelConfig],
    adjust: Mapping[str, Callable[[ModelConfig], None]] | None = None,
) -> None:
    """Write the configs that differ from what the repository has, with the user's choices kept, into `folder`.

    adjust: by model, what is done to its config last.
    """
    for model, config in built.items():
        existing = read_config(repository, model)
        merged = config if existing is None else configs.keep_users_choices(config, existing)
        if adjust and model in adjust:
            adjust[model](merged)
        # One that stays as it is keeps the user's comments, too.
        if merged != existing:
            (folder / model).mkdir(parents=True, exist_ok=True)
            (folder / model / CONFIG).write_text(configs.to_text(merged), encoding="utf-8")


def stage_sources(repository: Path, folder: Path) -> None:
    """What a new repository needs beside configs: the Python models of this checkout, the ensemble's version."""
    for model in (configs.PREPROCESS, configs.POSTPROCESS):
        source = CHECKOUT / model / "1" / "model.py"
        if (repository / model / "1" / "model.py").exists():
            continue
        if not source.is_file():
            raise RepositoryError(f"{source} is missing: run jpeg-build from a checkout of the project")
        (folder / model / "1").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / model / "1" / "model.py")
    (folder / configs.ENSEMBLE / "1").mkdir(parents=True, exist_ok=True)
    (folder / configs.ENSEMBLE / "1" / ".gitkeep").touch()


def differs_from_checkout(path: Path, model: str) -> bool:
    """Whether a repository's Python model is another one than this checkout's."""
    source = CHECKOUT / model / "1" / "model.py"
    return source.is_file() and path.read_bytes() != source.read_bytes()


def place(folder: Path, repository: Path) -> None:
    """Rename every file of `folder` to its place in the repository; if one fails, put back what was there.

    A SavedModel is a folder, and replaced as a whole: what only the old one had goes.

    Raises RepositoryError.
    """
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    wholes = [path.relative_to(folder) for path in folder.rglob("*.savedmodel")]
    old = {path.relative_to(repository) for whole in wholes for path in (repository / whole).rglob("*")}
    gone = sorted(file for file in old - set(files) if (repository / file).is_file())
    kept = Path(tempfile.mkdtemp(prefix=STAGING, dir=repository))
    done: list[Path] = []
    try:
        with _signals_held():
            try:
                for file in [*files, *gone]:
                    target = repository / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if target.exists():
                        (kept / file).parent.mkdir(parents=True, exist_ok=True)
                        # A link, not a move: there is never a moment without the old or the new file.
                        os.link(target, kept / file)
                    done.append(file)
                    if file in gone:
                        target.unlink()
                    else:
                        (folder / file).replace(target)
            except BaseException:
                for file in done:
                    if (kept / file).exists():
                        (kept / file).replace(repository / file)
                    elif not (folder / file).exists():
                        (repository / file).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise RepositoryError(
            f"{repository}: cannot be written: {error.strerror}; what was there is untouched"
        ) from error
    finally:
        shutil.rmtree(kept, ignore_errors=True)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done: it lasts for some renames. In other threads, no change."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: came.append(number)) for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)
