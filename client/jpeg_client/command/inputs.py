"""What the user names: files, folders, patterns, lists of files, standard input, object stores."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from jpeg_client.errors import InvalidArgument
from jpeg_client.images import MAX_IMAGE_BYTES
from jpeg_client.storage import filesystem, is_known, is_url

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
"""Of JPEGs, for which folders are searched."""

FORMAT_SUFFIXES = {
    "png": (".png",),
    "webp": (".webp",),
    "gif": (".gif",),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif",),
    "heic": (".heic", ".heif", ".hif"),
}
"""Of the other formats that a server may decode."""


STANDARD_INPUT = "/dev/stdin"
"""What the command makes of -."""

_SORTED = 10_000
"""A folder with more entries is read in the order of the file system, so that its names do not fill the memory."""


@dataclass(frozen=True)
class Source:
    """An image to classify.

    Attributes:
        name: As the results name it: its path or URL, with bytes that are not UTF-8 as surrogates.
        image: What the client takes: the name, or bytes.
        error: Why it cannot be read, if that is known already.
    """

    name: str
    image: str | bytes
    error: str | None = None


@dataclass
class Inputs:
    """The images that paths and lists name.

    Attributes:
        paths: Files, folders, patterns, URLs, or - for an image on standard input.
        lists: Files with one name per line; - is standard input.
        null: Names in the lists end with a zero byte.
        formats: Returns those that the server decodes; it is called where a folder has a file of another one than JPEG.
            None is JPEG alone.
        skipped: Counts the files of folders that have another suffix.
    """

    paths: Sequence[str]
    lists: Sequence[str] = ()
    null: bool = False
    formats: Callable[[], Collection[str]] | None = None
    skipped: int = field(default=0, init=False)

    def check(self) -> None:
        """Check that all that is named is there.

        Raises:
            InvalidArgument: A path or list is missing, or standard input has two uses.
        """
        named = [*self.paths, *self.lists]
        if named.count(STANDARD_INPUT) > 1:
            raise InvalidArgument("- is standard input, and can be given once", reason="invalid_call")
        missing = [
            path
            for path in named
            if path != STANDARD_INPUT and not (is_known(path) if is_url(path) else _is_there(path))
        ]
        if missing:
            raise InvalidArgument(f"no such file or folder: {', '.join(missing)}", reason="file_missing")

    def __iter__(self) -> Iterator[Source]:
        for path in self.paths:
            yield from self._expand(path)
        for file in self.lists:
            for name in _names(file, b"\0" if self.null else b"\n"):
                yield Source(name, name)

    def _expand(self, path: str) -> Iterator[Source]:
        if path == STANDARD_INPUT:
            yield Source("-", sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1))
        elif is_url(path):
            yield from self._store(path)
        elif Path(path).is_dir():
            yield from self._folder(path)
        elif os.path.lexists(path) or not _is_pattern(path):
            yield Source(path, path)
        else:
            for found in sorted(_glob(path)):
                yield from self._folder(str(found)) if found.is_dir() else [Source(str(found), str(found))]

    def _folder(self, folder: str) -> Iterator[Source]:
        """Yield the images below a folder, by name; links to folders are not followed."""
        try:
            with os.scandir(folder) as entries:
                for entry in _in_order(entries):
                    if entry.is_dir(follow_symlinks=False):
                        yield from self._folder(entry.path)
                    elif entry.is_dir():
                        continue
                    elif self._is_image(entry.name):
                        yield Source(entry.path, entry.path)
                    else:
                        self.skipped += 1
        except OSError as error:
            yield Source(folder, folder, f"{folder}: cannot read the folder: {error.strerror}")

    def _is_image(self, name: str) -> bool:
        """Return whether a file of a folder has a suffix of a format that the server decodes."""
        lower = name.lower()
        if lower.endswith(SUFFIXES):
            return True
        other = next((each for each, suffixes in FORMAT_SUFFIXES.items() if lower.endswith(suffixes)), None)
        return other is not None and self.formats is not None and other in self.formats()

    def _store(self, url: str) -> Iterator[Source]:
        system, path = filesystem(url)
        if _is_pattern(path):
            found: Iterable[str] = sorted(system.glob(path))
        elif system.isdir(path):
            found = chain.from_iterable(
                (f"{folder}/{name}" for name in sorted(names)) for folder, _, names in system.walk(path)
            )
        else:
            yield Source(url, url)
            return
        for each in found:
            name = system.unstrip_protocol(each)
            if self._is_image(name):
                yield Source(name, name)
            else:
                self.skipped += 1


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _glob(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    return Path(path.anchor).glob(str(path.relative_to(path.anchor)))


def _is_there(path: str) -> bool:
    return os.path.lexists(path) or (_is_pattern(path) and next(_glob(path), None) is not None)


def _in_order(entries: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    iterator = iter(entries)
    first = list(islice(iterator, _SORTED + 1))
    return chain(sorted(first, key=lambda entry: entry.name) if len(first) <= _SORTED else first, iterator)


def _names(file: str, end: bytes) -> Iterator[str]:
    if file == STANDARD_INPUT:
        yield from _split(sys.stdin.fileno(), end)
        return
    with Path(file).open("rb") as stream:
        yield from _split(stream.fileno(), end)


def _split(stream: int, end: bytes) -> Iterator[str]:
    """Yield the names of a list as they come, without the empty ones. stream: file descriptor."""
    rest = b""
    while block := os.read(stream, 1 << 16):
        *names, rest = (rest + block).split(end)
        yield from (os.fsdecode(name) for name in names if name)
    if rest:
        yield os.fsdecode(rest)
