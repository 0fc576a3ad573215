"""Reading clips in parallel, in order, a few ahead."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sepssl.errors import InputError

T = TypeVar("T")


def value_or_error(read: Callable[[int], T]) -> Callable[[int], T | InputError]:
    """`read`, with an InputError returned, not raised, so that one clip among many is skipped."""

    def read_or_catch(index: int) -> T | InputError:
        try:
            return read(index)
        except InputError as error:
            return error

    return read_or_catch


def read_ahead(read: Callable[[int], T], indices: Iterable[int], workers: int) -> Iterator[T]:
    """Yields `read(index)` for each of `indices`, in their order, computed by threads.

    Args:
        read: called with each index; an exception it raises is raised here, in order.
        indices: may be endless.
        workers: threads; 0 for none (the calling thread does the work).
    """
    indices = iter(indices)
    if workers == 0:
        yield from map(read, indices)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read_ahead")
    try:
        # A few ahead keep every worker busy and the memory bounded.
        ahead = deque(pool.submit(read, i) for i in itertools.islice(indices, 3 * workers))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(read, i) for i in itertools.islice(indices, 1))
            yield result
    finally:  # also when the caller stops early
        pool.shutdown(wait=False, cancel_futures=True)
