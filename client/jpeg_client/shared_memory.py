"""Regions of memory that a client shares with a server of the same machine, and their removal after a crash.

Each region has a file in /dev/shm, which its client locks as long as it lives. The kernel releases the lock however the
client ends, so that the next client of that port sees which regions have no owner any more, and removes them from the
server and from the machine. A process ID would not do: containers that share /dev/shm number their own processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jpeg_contract.folders import SHARED_MEMORY

from jpeg_client.errors import InvalidArgument, JpegClientError, RequestRefused

Kind = Literal["system", "cuda"]

PREFIX = "jpeg-pixels-"

_CONNECT_S = 1.0
_LAST_USE_S = 1.0


class SharedMemoryError(JpegClientError):
    """A region cannot be made or registered.

    Reasons: "shared_memory_unavailable", "shared_memory_full", "shared_memory_refused" if the key is missing or wrong,
    "unknown_region" if a server does not know a region that was just registered.
    """

    reason = "shared_memory_unavailable"


class Region(ABC):
    """Memory that the server reads a request's pixels from.

    Args:
        port: Of the server's gRPC.
        capacity: In bytes.

    Attributes:
        name: The server knows the region by it.
        capacity: In bytes.
        is_registered: Whether the server knows it, as far as this client can tell.

    Raises:
        SharedMemoryError: There is no memory of this kind, or not enough.
    """

    def __init__(self, port: int, capacity: int) -> None:
        self.capacity = capacity
        self.is_registered = False
        self.name, self._file = _claim(port)
        try:
            self._allocate()
        except BaseException:
            self._remove_file()
            raise

    @abstractmethod
    def _allocate(self) -> None:
        """Allocate the memory. Raises SharedMemoryError."""

    @abstractmethod
    def write(self, pixels: Any) -> None:
        """Copy pixels to the start of the region.

        Args:
            pixels: (N, H, W, 3) uint8, at most `capacity` bytes.
        """

    @abstractmethod
    def _free(self) -> None:
        """Free the memory."""

    def close(self) -> None:
        """Free a region that the server does not know any more."""
        self._free()
        self._remove_file()

    def abandon(self) -> None:
        """Leave a region that the server still reads to a later client, which finds its file unlocked."""
        os.close(self._file)

    def _remove_file(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (SHARED_MEMORY / self.name).unlink()
        os.close(self._file)


class SystemRegion(Region):
    """A region in the machine's memory."""

    def _allocate(self) -> None:
        try:
            # Takes the memory now: else a full /dev/shm ends the process that first writes to it with SIGBUS.
            os.posix_fallocate(self._file, 0, self.capacity)
            self._memory = mmap.mmap(self._file, self.capacity)
        except OSError as error:
            full = error.errno == errno.ENOSPC
            raise SharedMemoryError(
                f"{SHARED_MEMORY} has no room for {self.capacity} bytes ({error.strerror}): send fewer images at a "
                "time, free some of it, or make it larger (docker run --shm-size)",
                reason="shared_memory_full" if full else None,
            ) from error

    def write(self, pixels: Any) -> None:
        """See Region."""
        pixels = np.asarray(pixels)
        np.frombuffer(self._memory, np.uint8, pixels.size).reshape(pixels.shape)[...] = pixels

    def _free(self) -> None:
        self._memory.close()


class CudaRegion(Region):
    """A region in the memory of a GPU.

    Args:
        port: Of the server's gRPC.
        capacity: In bytes.
        device: Number of the GPU.
    """

    def __init__(self, port: int, capacity: int, device: int) -> None:
        self.device = device
        super().__init__(port, capacity)

    def _allocate(self) -> None:
        try:
            from tritonclient.utils import cuda_shared_memory
        except (ImportError, RuntimeError) as error:  # tritonclient makes the one of the other
            raise SharedMemoryError(
                f"shared memory of a GPU needs the package cuda-python ({error}): pip install 'cuda-python==12.*'"
            ) from error
        self._cuda = cuda_shared_memory
        try:
            self._memory = cuda_shared_memory.create_shared_memory_region(self.name, self.capacity, self.device)
        except cuda_shared_memory.CudaSharedMemoryException as error:
            raise SharedMemoryError(f"GPU {self.device} has no memory to share: {error}") from error

    @property
    def handle(self) -> bytes:
        """The handle by which another process opens the memory, as Triton takes it."""
        return bytes(self._cuda.get_raw_handle(self._memory))

    def write(self, pixels: Any) -> None:
        """See Region. Arrays of CuPy and tensors of PyTorch stay on the GPU."""
        try:
            if hasattr(pixels, "__cuda_array_interface__"):
                self._cuda.set_shared_memory_region_from_dlpack(self._memory, [pixels])
            else:
                self._cuda.set_shared_memory_region(self._memory, [np.ascontiguousarray(pixels)])
        except self._cuda.CudaSharedMemoryException as error:
            raise InvalidArgument(
                f"the pixels cannot be copied to GPU {self.device}: {error}", reason="invalid_pixels"
            ) from error

    def _free(self) -> None:
        self._cuda.destroy_shared_memory_region(self._memory)


class RegionPool:
    """Regions that the threads of a client share: each holds one for the time of a request.

    Args:
        port: Of the server's gRPC.
        create: Makes a region with that capacity in bytes.
        unregister: Lets the server forget a region of this name. Returns whether it knows none of the name now: it
            refuses while a request reads the region.
    """

    def __init__(self, port: int, create: Callable[[int], Region], unregister: Callable[[str], bool]) -> None:
        self._port, self._create, self._unregister = port, create, unregister
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._retired: list[Region] = []
        self._is_clean = False

    @contextlib.contextmanager
    def lease(self, size: int) -> Iterator[Region]:
        """Yield a region of at least this size in bytes.

        A region whose request fails without a response is not used again: the server may still read it.

        Raises:
            SharedMemoryError: There is no room for it.
        """
        region = self._take(size)
        try:
            yield region
        except RequestRefused:
            self._give_back(region)
            raise
        except BaseException:
            with self._lock:
                self._retired.append(region)
            raise
        self._give_back(region)

    def close(self) -> None:
        """Free the regions. One that the server still reads is left to a later client."""
        with self._lock:
            regions, self._free, self._retired = self._free + self._retired, [], []
        deadline = time.monotonic() + _LAST_USE_S
        for region in regions:
            # Triton may hold a region for some moments after the response of its last request.
            while not (is_forgotten := self._unregister(region.name)) and time.monotonic() < deadline:
                time.sleep(_LAST_USE_S / 50)
            if is_forgotten:
                region.close()
            else:
                region.abandon()

    def _take(self, size: int) -> Region:
        with self._lock:
            fitting = next((region for region in self._free if region.capacity >= size), None)
            if fitting is not None:
                self._free.remove(fitting)
                return fitting
            # The smaller ones that nobody uses make room for it.
            too_small, self._free = self._free, []
            regions, self._retired = too_small + self._retired, []
            is_clean, self._is_clean = self._is_clean, True
        if not is_clean:
            remove_orphans(self._port, self._unregister)
        for region in regions:
            if self._unregister(region.name):
                region.close()
            else:
                with self._lock:
                    self._retired.append(region)
        return self._create(size)

    def _give_back(self, region: Region) -> None:
        with self._lock:
            self._free.append(region)


def remove_orphans(port: int, unregister: Callable[[str], bool]) -> None:
    """Remove the regions of clients that ended without doing so.

    Args:
        port: Of the server's gRPC. Of regions that were made for others, those remain whose server still listens.
        unregister: See `RegionPool`.
    """
    for path in SHARED_MEMORY.glob(f"{PREFIX}*-*"):
        made_for = path.name[len(PREFIX) :].partition("-")[0]
        with _locked(path) as is_orphan:
            if is_orphan and (unregister(path.name) if made_for == str(port) else not _listens(made_for)):
                path.unlink(missing_ok=True)


def _listens(port: str) -> bool:
    """Whether a server of this machine accepts connections at a port."""
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=_CONNECT_S).close()
    except (ValueError, ConnectionRefusedError):
        return False
    except OSError:
        return True
    return True


def _claim(port: int) -> tuple[str, int]:
    """Create a region's file, and lock it. Returns its name and descriptor. Raises SharedMemoryError."""
    while True:
        name = f"{PREFIX}{port}-{secrets.token_hex(8)}"
        try:
            file = os.open(SHARED_MEMORY / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SharedMemoryError(f"{SHARED_MEMORY} cannot be written: {error.strerror}") from error
        # Between the two calls another client may take it for an orphan.
        if _lock(file):
            return name, file
        os.close(file)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock the file of a region. Yields whether it had no owner."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # it is gone, or another user's
        yield False
        return
    try:
        yield _lock(file)
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Lock an open file, if nobody has, and nobody has removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file).st_nlink > 0
