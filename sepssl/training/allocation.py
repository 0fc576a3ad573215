"""How the C library hands out memory while a network trains."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Has glibc keep the memory that a step frees for the next step.

    By default it returns large blocks to the system, whose kernel then clears every page of them
    anew in every step: a quarter of the CPU time of a small separator's. The process keeps what it
    has once needed. It does nothing where the C library is another one, and can be called again.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # an int
        mallopt(_M_TOP_PAD, 64 * 2**20)
