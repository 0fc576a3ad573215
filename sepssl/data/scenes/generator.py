"""Scenes made on the fly, in parallel, in order."""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sepssl.data.scenes.scene import Scene, SceneConfig, make_scene
from sepssl.errors import InputError


def generate(
    config: SceneConfig,
    seed: int,
    split: str,
    indices: Iterable[int],
    workers: int | None = None,
) -> Iterator[Scene]:
    """Yields `make_scene(config, seed, split, index)` for each of `indices`, in their order.

    The scenes do not depend on `workers`. Workers are threads: the array work, which is most of
    it, runs outside Python's lock, and nothing has to be sent between processes.

    Args:
        config: what the scenes are like.
        seed: integer >= 0.
        split: name of the split.
        indices: integers >= 0; may be endless, such as `itertools.count()`.
        workers: threads; None for one per CPU, 0 for none (the calling thread does the work).

    Raises:
        InputError: `workers` is negative, or `seed` or an index is.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 0:
        raise InputError(f"workers {workers}; expected 0 or more")
    return _generate(config, seed, split, iter(indices), workers)


def _generate(config, seed, split, indices, workers) -> Iterator[Scene]:
    if workers == 0:
        yield from (make_scene(config, seed, split, index) for index in indices)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scenes")
    try:
        # A few scenes ahead keep every worker busy and the memory bounded.
        ahead = deque(
            pool.submit(make_scene, config, seed, split, index)
            for index in itertools.islice(indices, 3 * workers)
        )
        while ahead:
            scene = ahead.popleft().result()
            ahead.extend(
                pool.submit(make_scene, config, seed, split, index)
                for index in itertools.islice(indices, 1)
            )
            yield scene
    finally:  # also when the caller stops early
        pool.shutdown(wait=False, cancel_futures=True)
