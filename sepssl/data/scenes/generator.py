"""Scenes made on the fly, in parallel and in order."""

import os
from collections.abc import Iterable, Iterator

from sepssl.data.read_ahead import read_ahead
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

    The scenes do not depend on `workers`. Workers are threads: most of the work is NumPy's and
    SciPy's, which release Python's global lock, and nothing has to be sent between processes.

    Args:
        config: what the scenes are like.
        seed: integer >= 0.
        split: name of the split.
        indices: integers >= 0; may be endless, such as `itertools.count()`.
        workers: threads; None for one per CPU, 0 for none (the calling thread does the work).

    Raises:
        InputError: if `workers`, `seed` or an index is negative.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 0:
        raise InputError(f"workers={workers}: expected 0 or more")
    return read_ahead(lambda index: make_scene(config, seed, split, index), indices, workers)
