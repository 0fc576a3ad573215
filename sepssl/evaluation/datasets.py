"""Labelled clips to evaluate on, split into training, validation and test."""

import hashlib
import os
from collections.abc import Callable

import numpy as np

from sepssl.data.folder import LABELS_FILE, Folder
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.errors import InputError
from sepssl.evaluation.protocol import embed_clips, evaluate_representation
from sepssl.evaluation.scores import scorable_classes
from sepssl.evaluation.shallow import Split

SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)  # of clips; our choice


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


def scene_splits(config: SceneConfig, seed: int, counts: tuple[int, int, int]) -> list[SceneClips]:
    """Built-in scenes: `counts` clips for training, validation, test."""
    return [
        SceneClips(config, seed, split, count) for split, count in zip(SPLITS, counts, strict=True)
    ]


def folder_splits(directory: str, sample_rate: int) -> tuple[list[Subset], list]:
    """A labelled folder, split by a hash of the file names, and the files that were skipped.

    The hash keeps a file in its split when others are added (our choice).

    Raises:
        InputError: if the folder has no labels or a split remains empty.
    """
    probe = Folder(directory, sample_rate, min_duration=0.0)
    clips = probe
    if probe.labels is None:
        clips = Folder(directory, sample_rate, min_duration=0.0, labels="folder")
    hashes = np.array(
        [int(hashlib.sha256(os.fsencode(name)).hexdigest()[:8], 16) / 2**32 for name in clips.names]
    )
    which = np.searchsorted(np.cumsum(SHARES)[:-1], hashes, side="right")
    subsets = []
    for number, split in enumerate(SPLITS):
        indices = np.flatnonzero(which == number)
        if not len(indices):
            raise InputError(
                f"{directory}: of {len(clips)} labelled clips none falls into the {split} split; "
                f"expected more clips (labels from {LABELS_FILE} or subfolders)"
            )
        subsets.append(Subset(clips, indices))
    return subsets, clips.skipped


def evaluate_on_splits(
    embed: Callable[[np.ndarray], np.ndarray], splits, seed: int, title: str
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Embeds the clips of three splits and evaluates them; see `evaluate_representation`.

    Returns:
        The results with the numbers of clips and classes, and (name, reason) of clips that could
        not be read.
    """
    for name, clips in zip(SPLITS, splits, strict=True):
        if not len(scorable_classes(clips.labels)):
            raise InputError(
                f"{title}: no class of the {name} split has clips with and without it; expected "
                "more clips, of at least two classes"
            )
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
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Evaluates on a dataset given by name or folder.

    Args:
        dataset: "scenes" or a labelled folder.
        embed: waveform [samples] -> embedding [dim].
        sample_rate: in Hz.
        num_clips: scenes to make, in all splits together.
        seed: of scenes, queries and classifiers.

    Returns:
        The results, and (name, reason) of clips that were skipped.
    """
    if dataset == "scenes":
        if num_clips < 100:
            raise InputError(f"num_clips={num_clips}: expected at least 100 scenes")
        counts = tuple(round(share * num_clips) for share in SHARES)
        splits = scene_splits(SceneConfig(sample_rate=sample_rate), seed, counts)
        return evaluate_on_splits(embed, splits, seed, "scenes")
    splits, skipped = folder_splits(dataset, sample_rate)
    results, unread = evaluate_on_splits(embed, splits, seed, dataset)
    return results, [*skipped, *unread]
