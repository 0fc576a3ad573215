"""C libraries that write to the terminal, kept from it."""

import contextlib
import ctypes
import functools
import os
import platform
import threading
from collections.abc import Iterator


class _Silence:
    """C's variable `stderr` points to the null device while anybody wants silence."""

    def __init__(self):
        self._lock = threading.Lock()
        self._users = 0
        c_library = ctypes.CDLL(None)
        c_library.fopen.restype = ctypes.c_void_p
        self._null = c_library.fopen(os.devnull.encode(), b"w")
        self._stream = ctypes.c_void_p.in_dll(c_library, "stderr")
        self._terminal = self._stream.value
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stream.value = self._terminal

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            self._stream.value = self._null or self._terminal

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stream.value = self._terminal


@functools.cache
def _silence() -> _Silence | None:
    # glibc's manual allows to assign the variable; musl has it in memory that cannot be written.
    return _Silence() if platform.libc_ver()[0] == "glibc" else None


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keeps off the terminal what C libraries write to the stream `stderr`.

    For libmpg123, which remarks on ID3 tags and on the length header of MP3 files that are fine,
    names no file, and cannot be told not to through libsndfile. File descriptor 2 stays as it is,
    so that what Python and its other threads write appears as ever; what other C code writes to
    the stream meanwhile is lost, so a block should hold no more than the call in question. Threads
    may overlap. Without glibc nothing happens.
    """
    silence = _silence()
    if silence is None:
        yield
        return
    silence.enter()
    try:
        yield
    finally:
        silence.leave()
