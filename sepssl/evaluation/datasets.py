"""Labelled clips to evaluate on, split into training, validation and test."""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np

from sepssl.data.folder import labelled_folder
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.tfds_clips import TfdsClips, prepared_splits
from sepssl.errors import InputError
from sepssl.evaluation.protocol import embed_clips, evaluate_representation
from sepssl.evaluation.retrieval import queryable_classes
from sepssl.evaluation.scores import scorable_classes
from sepssl.evaluation.shallow import Split

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


def evaluate_on_splits(
    embed: Callable[[np.ndarray], np.ndarray], splits, seed: int, title: str
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Embeds the clips of three splits and evaluates them; see `evaluate_representation`.

    Returns:
        The results with the numbers of clips and classes, and (name, reason) of clips that could
        not be read.
    """
    for name, clips in zip(SPLITS, splits, strict=True):
        try:
            scorable_classes(clips.labels)
            if name == "test":
                queryable_classes(clips.labels)
        except InputError as error:
            raise InputError(f"{title}, {name} split: {error}") from error
    embedded, skipped = [], []
    for name, clips in zip(SPLITS, splits, strict=True):
        embeddings, indices, unread = embed_clips(embed, clips, f"{title}, {name}")
        embedded.append(Split(embeddings, clips.labels[indices]))
        skipped += unread
    counts = {f"{name}_clips": len(e.labels) for name, e in zip(SPLITS, embedded, strict=True)}
    results = evaluate_representation(*embedded, seed=seed)
    return counts | {"classes": embedded[0].labels.shape[1]} | results, skipped


def evaluate_on(
    dataset: str,
    embed: Callable[[np.ndarray], np.ndarray],
    sample_rate: int,
    num_clips: int,
    seed: int,
    data_dir: str | None = None,
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Evaluates on a dataset given by name or folder.

    Args:
        dataset: "scenes", "tfds:NAME[/CONFIG]" or a labelled folder.
        embed: waveform [samples] -> embedding [dim].
        sample_rate: in Hz.
        num_clips: scenes to make, in all splits together.
        seed: of scenes, queries and classifiers.
        data_dir: the folder of TFDS datasets; None means TFDS's default.

    Returns:
        The results, and (name, reason) of clips that were skipped.
    """
    if dataset == "scenes":
        if num_clips < 100:
            raise InputError(f"num_clips={num_clips}: expected at least 100 scenes")
        counts = tuple(round(share * num_clips) for share in SHARES)
        splits = scene_splits(SceneConfig(sample_rate=sample_rate), seed, counts)
        return evaluate_on_splits(embed, splits, seed, "scenes")
    if dataset.startswith(TFDS_PREFIX):
        splits = tfds_splits(dataset.removeprefix(TFDS_PREFIX), sample_rate, data_dir)
        return evaluate_on_splits(embed, splits, seed, dataset)
    splits, skipped = folder_splits(dataset, sample_rate)
    results, unread = evaluate_on_splits(embed, splits, seed, dataset)
    return results, [*skipped, *unread]
