"""The sounds that the cells of a seed are made from, in memory, made by all cores of a machine."""

import dataclasses
import functools
import mmap
import multiprocessing
import os
import pathlib

import numpy as np
from ml_collections import ConfigDict

import sepssl.data.folder
from sepssl.data.clips import Clips, Subset
from sepssl.data.splits import SPLITS
from sepssl.pipelines.ablation import SeedCells
from sepssl.training.clips import open_recordings
from tests.benchmarks.gpu.scenes import FULL_SCALE, MAX_SOURCES, SAMPLES

PART = 100  # clips that a process makes at once
_opened: list = []
# A folder is opened four times for each seed; its files do not change meanwhile.
sepssl.data.folder.audio_info = functools.cache(sepssl.data.folder.audio_info)


@dataclasses.dataclass
class Seed:
    """Clips of a seed, and their sound.

    Attributes:
        seed: the seed.
        cells: gives the configurations of its separator and its encoders.
        clips: "recordings", to train on, the classifiers' `SPLITS`, and "queries" and "scenes" for
            retrieval.
        sounds: of these clips: int16 [clips, MAX_SOURCES, SAMPLES], the sources of "recordings";
            float32 [clips, 1 + MAX_SOURCES, SAMPLES], mixture and sources of "scenes"; float32
            [clips, samples] of the others.
    """

    seed: int
    cells: SeedCells
    clips: dict[str, Clips]
    sounds: dict[str, np.ndarray]


def open_seed(config: ConfigDict, seed: int) -> Seed:
    cells = SeedCells(config, seed, pathlib.Path(), verbose=False)
    data = cells.stage(config.encoder).data
    recordings = open_recordings(data, labels=True, sources=True)
    of_training = np.flatnonzero(np.array(recordings.splits) == "train")
    clips: dict[str, Clips] = {"recordings": Subset(recordings, of_training)}
    clips |= zip(SPLITS, cells.evaluation_clips(), strict=True)
    clips["queries"], clips["scenes"] = cells.retrieval_clips
    sounds = {}
    for name, part in clips.items():
        shape, dtype = (len(part), part.num_samples(0)), np.dtype(np.float32)
        if name == "recordings":
            shape, dtype = (len(part), MAX_SOURCES, SAMPLES), np.dtype(np.int16)
        elif name == "scenes":
            shape = (len(part), 1 + MAX_SOURCES, SAMPLES)
        shared = mmap.mmap(-1, int(np.prod(shape)) * dtype.itemsize)
        sounds[name] = np.frombuffer(shared, dtype).reshape(shape)
    return Seed(seed, cells, clips, sounds)


def render_part(number: int, name: str, first: int, last: int) -> None:
    clips, sounds = _opened[number].clips[name], _opened[number].sounds[name]
    for index in range(first, last):
        if name in ("recordings", "scenes"):
            mixture, sources = clips.read_with_sources(index)
        if name == "recordings":
            sounds[index, : len(sources)] = np.round(sources * (FULL_SCALE - 1))
        elif name == "scenes":
            sounds[index, 0] = mixture
            sounds[index, 1 : 1 + len(sources)] = sources
        else:
            sounds[index] = clips.read(index)


def start_rendering(config: ConfigDict):
    """The seeds, and what to wait for until their sound is there.

    By processes that are forked before JAX starts its threads.
    """
    _opened.extend(open_seed(config, seed) for seed in config.seeds)
    parts = [
        (number, name, first, min(first + PART, len(clips)))
        for number, seed in enumerate(_opened)
        for name, clips in seed.clips.items()
        for first in range(0, len(clips), PART)
    ]
    workers = multiprocessing.get_context("fork").Pool(max((os.cpu_count() or 2) - 1, 1))
    rendering = workers.starmap_async(render_part, parts, chunksize=1)
    workers.close()
    return list(_opened), rendering
