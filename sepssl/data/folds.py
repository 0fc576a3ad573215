"""Clips of one class each, in folds."""

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sepssl.data.clips import Clips, Skipped, Subset
from sepssl.data.sources import open_clips
from sepssl.data.splits import fold_names
from sepssl.errors import InputError
from sepssl.progress import counted


class FoldClips(NamedTuple):
    """Clips of one class each, in folds.

    Attributes:
        clips: the clips; `clips.folds` names their folds.
        targets: int64 [clips], places in `classes`.
        classes: names of those classes that have clips.
    """

    clips: Clips
    targets: np.ndarray
    classes: list[str]


def open_fold_clips(spec: str | os.PathLike, sample_rate: int, subset: str = "") -> FoldClips:
    """Opens a labelled set that comes with folds.

    Args:
        spec: a folder or a manifest with a column `fold`, see `open_clips`. A clip without a fold
            is skipped.
        sample_rate: in Hz, of the clips read.
        subset: name of a column of true and false, such as ESC-50's `esc10`: only clips for which
            it is true are opened. "" for all.

    Raises:
        InputError: as `open_clips` and `check_folds`, or if there are no folds, no such column, or
            a clip with no class or several.
    """
    clips = open_clips(spec, sample_rate, labels=True)
    if clips.folds is None or not any(clips.folds):
        raise InputError(f"{spec}: has no folds; expected a column fold beside the labels")
    if subset:
        marks = clips.subsets or [frozenset[str]()] * len(clips)
        kept = [index for index, names in enumerate(marks) if subset in names]
        if not kept:
            known = ", ".join(sorted(set().union(*marks))) or "there is none"
            raise InputError(
                f"{spec}: no clip has the value true in a column {subset!r}; expected the name of "
                f"a column of true and false ({known})"
            )
        clips = Subset(clips, kept)
    without = [
        Skipped(name, f"{name}: is in no fold; expected a fold for each clip")
        for name, fold in zip(clips.names, clips.folds or (), strict=True)
        if not fold
    ]
    in_fold = [index for index, fold in enumerate(clips.folds or ()) if fold]
    clips = Subset(clips, in_fold, [*clips.skipped, *without])
    labels = np.asarray(clips.labels)
    for name, count in zip(clips.names, labels.sum(axis=1).tolist(), strict=True):
        if count != 1:
            raise InputError(
                f"{spec}: {name} has {count} classes; expected one, for the protocol of folds"
            )
    used = np.flatnonzero(labels.any(axis=0))
    targets = labels[:, used].argmax(axis=1)
    classes = [str(name) for name in np.array(clips.class_names)[used]]
    try:
        check_folds(targets, clips.folds or (), classes)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from error
    return FoldClips(clips, targets, classes)


def check_folds(
    targets: np.ndarray, folds: Sequence[str], classes: Sequence[str] | None = None
) -> None:
    """Raises InputError unless a classifier can be trained, chosen and tested by folds.

    There must be 3 folds or more: one to test on, the others to train and to choose settings on.
    Every class must be in two folds or more, and without any two folds there must be two classes.

    Args:
        targets: int [clips], the class of each clip.
        folds: the name of each clip's fold.
        classes: names of the classes; None for their numbers.
    """
    names, of_clip = fold_names(folds), np.array(folds)
    if len(names) < 3:
        raise InputError(
            f"the clips are in {counted(len(names), 'fold')}; expected 3 or more, to test on one "
            "and to choose settings on the others"
        )
    used = np.unique(targets)
    if len(used) < 2:
        raise InputError("all clips are of one class; expected 2 classes or more")
    for target in used.tolist():
        own = np.unique(of_clip[targets == target])
        if len(own) < 2:
            name = classes[target] if classes else target
            raise InputError(
                f"all clips of the class {name!r} are in the fold {own[0]}; expected some in other "
                "folds, to learn it from"
            )
    for pair in itertools.combinations(names, 2):
        if len(np.unique(targets[~np.isin(of_clip, pair)])) < 2:
            raise InputError(
                f"without the folds {pair[0]} and {pair[1]} there is only one class; expected 2 or "
                "more, to choose settings on"
            )
