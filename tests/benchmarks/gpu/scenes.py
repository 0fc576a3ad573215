"""Scenes in memory, made by all cores of the machine."""

import mmap
import multiprocessing
import os

import numpy as np

from sepssl.data.clips import InMemory
from sepssl.data.mixtures import Mixtures
from sepssl.data.scenes import SceneConfig
from sepssl.data.sources import Scenes, open_clips

SAMPLES = 64000  # of a scene: 4 s at 16 kHz
MAX_SOURCES = 4
FULL_SCALE = 32768.0
POOLS: dict[str, np.ndarray] = {}
"""Sources of scenes by name of their pool: int16 [scenes, MAX_SOURCES, SAMPLES]."""
_opened: dict = {}


def open_pool(pool, sounds):
    """The scenes of a pool, from sounds that are held in memory."""
    counts = {pool["split"]: pool["count"]}
    if pool["of"] == "scenes":
        scenes = Scenes(counts, pool["seed"], SceneConfig(duration=4.0))
        return open_clips("scenes", 16000, scenes=scenes)
    folds = {pool["split"]: tuple(pool["folds"].split(","))}
    mixtures = Mixtures(counts, pool["seed"], folds=folds)
    clips = open_clips(f"mix:{sounds}", 16000, sources=True, mixtures=mixtures)
    clips.sounds = InMemory(clips.sounds)
    return clips


def render_part(name, first, last):
    clips = _opened[name]
    for index in range(first, last):
        for row, source in enumerate(clips.read_with_sources(index)[1]):
            POOLS[name][index, row] = np.round(source * (FULL_SCALE - 1))


def start_rendering(pools, sounds):
    """Fills `POOLS` in processes that are forked before JAX starts its threads."""
    parts = []
    for name, pool in pools.items():
        _opened[name] = open_pool(pool, sounds)
        shape = (pool["count"], MAX_SOURCES, SAMPLES)
        shared = mmap.mmap(-1, int(np.prod(shape)) * 2)
        POOLS[name] = np.frombuffer(shared, np.int16).reshape(shape)
        parts += [
            (name, first, min(first + 100, pool["count"])) for first in range(0, pool["count"], 100)
        ]
    workers = multiprocessing.get_context("fork").Pool(max((os.cpu_count() or 2) - 1, 1))
    return workers, workers.starmap_async(render_part, parts, chunksize=1)
