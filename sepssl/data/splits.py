"""Which clips are for training, validation and testing."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from sepssl.data.clips import Clips, Subset
from sepssl.data.labels import SPLIT_NAMES
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.errors import InputError
from sepssl.progress import counted

SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)  # of clips; our choice


def scene_splits(config: SceneConfig, seed: int, counts: tuple[int, int, int]) -> list[SceneClips]:
    """Built-in scenes: `counts` clips for training, validation, test."""
    return [
        SceneClips(config, seed, split, count) for split, count in zip(SPLITS, counts, strict=True)
    ]


def split_numbers(names: Sequence[str], splits: Sequence[str] = SPLITS) -> np.ndarray:
    """Assigns clips to splits by a hash of their names, in the proportions of `SHARES`.

    The hash keeps a clip in its split when others are added (our choice).

    Args:
        names: of the clips, or of the recordings they are parts of.
        splits: some of `SPLITS`, in their order.

    Returns:
        int [clips], indices into `splits`.
    """
    hashes = np.array(
        [int(hashlib.sha256(os.fsencode(name)).hexdigest()[:8], 16) / 2**32 for name in names]
    )
    edges = np.cumsum([SHARES[SPLITS.index(split)] for split in splits])
    return np.searchsorted(edges[:-1] / edges[-1], hashes, side="right")


def assigned_splits(clips: Clips, test_fold: str = "") -> np.ndarray:
    """The split that each clip is in: "train", "validation", "test", or "" for none.

    If the source has splits of its own, they are used; validation may also be called "valid",
    "val" or "dev", test "eval" or "evaluation". Otherwise its folds are: `test_fold` is for
    testing, the fold before it (cyclically) for validation, the others for training. A split that
    is still missing is taken out of the training clips (or, if there are none, out of "dev", or
    else the first split) by a hash of the recordings' names. All this is our choice.

    Args:
        clips: the source.
        test_fold: name of a fold; "" for the last one, in numerical or alphabetical order.

    Returns:
        str [clips].

    Raises:
        InputError: if the fold does not exist.
    """
    if test_fold and not clips.folds:
        raise InputError(f"test fold {test_fold!r}: the clips have no folds; expected none")
    if test_fold and clips.splits is not None and any(clips.splits):
        raise InputError(
            f"test fold {test_fold!r}: the clips have splits of their own, which decide; expected "
            "no test fold, or no split column"
        )
    if clips.splits is not None and any(clips.splits):
        own, source = _own_splits(clips.splits)
        given = np.array(clips.splits, dtype=object)
    elif clips.folds is not None and any(clips.folds):
        given, own = _splits_of_folds(clips.folds, test_fold)
        source = "train"
    else:
        given, own, source = np.full(len(clips), "train", dtype=object), {}, "train"
    result = np.full(len(clips), "", dtype=object)
    for split in SPLITS:
        if own.get(split) not in (None, source):
            result[given == own[split]] = split
    shared = [split for split in SPLITS if own.get(split) in (None, source)]
    rows = np.flatnonzero(given == source)
    recordings = clips.names if clips.recordings is None else clips.recordings
    numbers = split_numbers([recordings[row] for row in rows.tolist()], shared)
    result[rows] = np.array(shared, dtype=object)[numbers]
    return result


def _own_splits(splits: Sequence[str]) -> tuple[dict[str, str | None], str]:
    """The source's own name for each of `SPLITS`, and which of its splits stands for "train"."""
    there = [name for name in dict.fromkeys(splits) if name]
    own = {
        split: next((known for known in names if known in there), None)
        for split, names in SPLIT_NAMES.items()
    }
    return own, own["train"] or ("dev" if "dev" in there else there[0])


def fold_for_testing(clips: Clips) -> str:
    """The fold that `assigned_splits` tests on if none is named; "" if it does not go by folds."""
    by_splits = clips.splits is not None and any(clips.splits)
    names = [] if by_splits or clips.folds is None else fold_names(clips.folds)
    return names[-1] if len(names) > 1 else ""


def fold_names(folds: Sequence[str]) -> list[str]:
    """The different folds, in numerical or alphabetical order, without "" for none."""
    return sorted(
        {fold for fold in folds if fold},
        key=lambda fold: (0, int(fold), fold) if fold.isdecimal() else (1, 0, fold),
    )


def _splits_of_folds(
    folds: Sequence[str], test_fold: str
) -> tuple[np.ndarray, dict[str, str | None]]:
    names = fold_names(folds)
    test_fold = test_fold or names[-1]
    if test_fold not in names:
        raise InputError(f"test fold {test_fold!r}: expected one of {', '.join(names)}")
    before = names[names.index(test_fold) - 1]
    roles = {fold: "train" if fold else "" for fold in set(folds)}
    own: dict[str, str | None] = {"train": "train", "validation": None, "test": None}
    if len(names) > 1:
        roles[test_fold] = own["test"] = "test"
    if len(names) > 2:
        roles[before] = own["validation"] = "validation"
    return np.array([roles[fold] for fold in folds], dtype=object), own


def make_splits(clips: Clips, title: str, test_fold: str = "") -> dict[str, Subset]:
    """A labelled source as training, validation and test clips; see `assigned_splits`.

    Args:
        clips: the source.
        title: of the source, for the error.
        test_fold: the fold to test on, "" for the last.

    Raises:
        InputError: if a split remains empty.
    """
    assigned = assigned_splits(clips, test_fold)
    subsets = {}
    for split in SPLITS:
        indices = np.flatnonzero(assigned == split)
        if not len(indices):
            raise InputError(
                f"{title}: none of {counted(len(clips), 'labelled clip')} falls into the {split} "
                "split; expected more clips"
            )
        subsets[split] = Subset(clips, indices)
    return subsets


def training_roles(clips: Clips) -> np.ndarray:
    """What training uses each clip for, labelled or not: str [clips].

    "validation" or "test" where the source's own splits reserve a clip for that, else "train". A
    split that stands in for a training split that the source lacks is not reserved.
    """
    roles = np.full(len(clips), "train", dtype=object)
    if clips.splits is not None and any(clips.splits):
        own, source = _own_splits(clips.splits)
        splits = np.array(clips.splits, dtype=object)
        for split in ("validation", "test"):
            if own[split] not in (None, source):
                roles[splits == own[split]] = split
    return roles


def hold_out(recordings: Sequence[str], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which clips to train on, and which to validate on.

    All parts of a tenth of the recordings are held out; an even number of them is for validation.

    Args:
        recordings: of each clip, the recording it is a part of.
        count: largest number of clips to validate on.
        seed: of the choice.

    Returns:
        int [clips] each; the latter is empty with fewer than 20 recordings, or `count` below 2.
    """
    clips = np.arange(len(recordings))
    rng = np.random.default_rng([seed, 0, 3])
    order = rng.permutation(sorted(set(recordings)))
    if len(order) < 20 or count < 2:
        return clips, clips[:0]
    held_out = np.isin(recordings, order[: len(order) // 10])
    chosen = rng.permutation(clips[held_out])[:count]
    return clips[~held_out], chosen[: len(chosen) // 2 * 2]
