"""Labelled clips, split into training, validation and test."""

import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from sepssl.data.folder import labelled_folder
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.tfds_clips import TfdsClips, prepared_splits
from sepssl.errors import InputError

SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)  # of clips; our choice
TFDS_PREFIX = "tfds:"
_TFDS_SPLITS = {  # what datasets call them
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "eval", "evaluation"),
}


class Subset:
    """Some clips of a labelled source.

    Args:
        clips: the source.
        indices: which of its clips.
    """

    def __init__(self, clips, indices: np.ndarray):
        self.names = [clips.names[i] for i in indices]
        self.labels = clips.labels[indices]
        self._clips = clips
        self._indices = indices

    def read(self, index: int) -> np.ndarray:
        return self._clips.read(self._indices[index])


class InMemory:
    """Clips made once and read several times."""

    def __init__(self, clips):
        self.names, self.labels = clips.names, clips.labels
        self._clips = clips
        self.read = functools.cache(clips.read)


def scene_splits(config: SceneConfig, seed: int, counts: tuple[int, int, int]) -> list[SceneClips]:
    """Built-in scenes: `counts` clips for training, validation, test."""
    return [
        SceneClips(config, seed, split, count) for split, count in zip(SPLITS, counts, strict=True)
    ]


def split_numbers(names: Sequence[str], splits: Sequence[str] = SPLITS) -> np.ndarray:
    """Which of some splits each clip is in, by a hash of its name, in the proportions of `SHARES`.

    The hash keeps a clip in its split when others are added (our choice).

    Args:
        names: of the clips.
        splits: some of `SPLITS`, in their order.

    Returns:
        int [clips], indices into `splits`.
    """
    hashes = np.array(
        [int(hashlib.sha256(os.fsencode(name)).hexdigest()[:8], 16) / 2**32 for name in names]
    )
    edges = np.cumsum([SHARES[SPLITS.index(split)] for split in splits])
    return np.searchsorted(edges[:-1] / edges[-1], hashes, side="right")


def hash_splits(clips, splits: Sequence[str], title: str) -> dict[str, Subset]:
    """Splits a labelled source as `split_numbers` says.

    Args:
        clips: the source.
        splits: which of `SPLITS` to make, in their order.
        title: of the source, for the error.

    Raises:
        InputError: if a split remains empty.
    """
    which = split_numbers(clips.names, splits)
    subsets = {}
    for number, split in enumerate(splits):
        indices = np.flatnonzero(which == number)
        if not len(indices):
            raise InputError(
                f"{title}: of {len(clips)} labelled clips none falls into the {split} split; "
                "expected more clips"
            )
        subsets[split] = Subset(clips, indices)
    return subsets


def folder_splits(directory: str, sample_rate: int) -> tuple[list[Subset], list]:
    """A labelled folder, split by a hash of the file names, and the files that were skipped.

    Raises:
        InputError: if the folder has no labels or a split remains empty.
    """
    clips = labelled_folder(directory, sample_rate)
    return list(hash_splits(clips, SPLITS, directory).values()), clips.skipped


def tfds_splits(
    name: str, sample_rate: int, data_dir: str | None = None
) -> list[TfdsClips | Subset]:
    """Training, validation and test clips of a prepared TFDS dataset.

    Its own splits where it has them: validation also as "valid", "val" or "dev", test also as
    "eval" or "evaluation". Those it lacks are taken out of "train" (or, if it has none, of "dev",
    or else of its first split) by a hash of the clips' names (our choice).

    Args:
        name: "NAME" or "NAME/CONFIG", without "tfds:".
        sample_rate: in Hz.
        data_dir: the folder of TFDS datasets; None means TFDS's default.

    Raises:
        InputError: as `TfdsClips`, or if a split remains empty.
    """
    there = prepared_splits(name, data_dir)
    own = {
        split: next((known for known in names if known in there), None)
        for split, names in _TFDS_SPLITS.items()
    }
    source = own["train"] or ("dev" if "dev" in there else there[0])
    shared = [split for split in SPLITS if own[split] in (None, source)]
    clips = TfdsClips(name, source, sample_rate, data_dir)
    subsets = hash_splits(clips, shared, f"{TFDS_PREFIX}{name}, {source}")
    return [
        subsets.get(split) or TfdsClips(name, own[split], sample_rate, data_dir) for split in SPLITS
    ]
