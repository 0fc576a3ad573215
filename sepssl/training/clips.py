"""The clips that a configuration asks for."""

import os

import numpy as np
from ml_collections import ConfigDict

from sepssl.data.clips import Clips, Subset, report_skipped
from sepssl.data.mixtures import MixtureConfig, Mixtures
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.segments import Segments
from sepssl.data.sources import Scenes, open_clips
from sepssl.data.spec import SCENES, comma_separated, mixed_sounds
from sepssl.data.splits import assigned_splits
from sepssl.data.store import ClipStore, require_same_clips, store_clips
from sepssl.errors import InputError
from sepssl.training.checkpoints import RunFolder

MIN_SECONDS = 0.1  # of a recording; our choice


def scene_config(data: ConfigDict) -> SceneConfig:
    """The built-in scenes as `config.data` describes them."""
    return SceneConfig(
        sample_rate=data.sample_rate,
        duration=data.clip_seconds,
        ambience_range_db=tuple(data.ambience_range_db) or None,
    )


def mixtures(data: ConfigDict) -> Mixtures:
    """The scenes mixed from isolated sounds, for training and validation, as `config.data` has it.

    Raises:
        InputError: if one of its values is out of range.
    """
    mix = data.mix
    config = MixtureConfig(
        sample_rate=data.sample_rate,
        duration=data.clip_seconds,
        source_count_probabilities=tuple(mix.source_count_probabilities),
        part_seconds=tuple(mix.part_seconds),
        level_range_db=tuple(mix.level_range_db),
        speed_range=tuple(mix.speed_range),
        groups=mix.groups,
        group_size=mix.group_size,
        backgrounds=comma_separated(mix.backgrounds),
        background_range_db=tuple(mix.background_range_db),
        rooms=mix.rooms,
        microphone=mix.microphone,
    )
    counts = {"train": data.num_clips, "validation": data.get("num_validation", 200)}
    folds = {
        split: comma_separated(names)
        for split, names in (("train", mix.folds), ("validation", mix.validation_folds))
        if names
    }
    if folds and "validation" not in folds:
        del counts["validation"]
    if not counts.get("validation", 1):
        del counts["validation"]
    return Mixtures(counts, data.seed, config, data.get("test_fold", ""), folds)


def open_recordings(data: ConfigDict, labels: bool = False, sources: bool = False) -> Clips:
    """The recordings that `config.data.directory` names, or the built-in scenes if it is "".

    Args:
        data: as `config.data`.
        labels: whether labels are needed.
        sources: whether true sources are needed.

    Raises:
        InputError: as `open_clips`, or if sources are needed and missing.
    """
    recordings = open_clips(
        data.directory or SCENES,
        data.sample_rate,
        labels=labels,
        sources=sources,
        min_seconds=MIN_SECONDS,
        scenes=Scenes({"unlabelled": data.num_clips}, data.seed, scene_config(data)),
        mixtures=mixtures(data) if mixed_sounds(data.directory) else None,
        data_dir=data.data_dir or None,
        decoder=data.decoder,
    )
    if sources and not recordings.has_sources:
        raise InputError(
            f"{data.directory}: holds no mixture with sources; expected files NAME.wav, each "
            "beside a folder NAME_sources with its sources"
        )
    return recordings


def labelled_for_training(recordings: Clips, data: ConfigDict) -> Subset:
    """The labelled recordings that `sepssl-evaluate` trains its classifiers on.

    The encoder can then be tested on the others.

    Raises:
        InputError: if none of them is in the train split.
    """
    rows = np.flatnonzero(assigned_splits(recordings, data.test_fold) == "train")
    if not len(rows):
        raise InputError(
            f"{data.directory}: none of {len(recordings)} labelled recordings falls into the train "
            "split; expected more recordings"
        )
    return Subset(recordings, rows)


def store_for_run(
    clips: Clips, run: RunFolder, cache: str | os.PathLike, sources: str, verbose: bool = True
) -> tuple[Subset, ClipStore]:
    """Stores the clips that a run trains on, unless they are stored already.

    Args:
        clips: all of them; those that cannot be read are listed.
        run: an earlier part of it must have trained on the same clips.
        cache: folder of stores.
        sources: as `store_clips` takes it.
        verbose: whether to show progress and what was skipped.

    Returns:
        The clips that could be stored, and their store, in the same order.

    Raises:
        InputError: if the run has trained on other clips.
    """
    store = store_clips(clips, cache, sources, verbose)
    if verbose:
        report_skipped([*clips.skipped, *store.skipped])
    require_same_clips(store, run.path)
    place = {name: index for index, name in enumerate(clips.names)}
    return Subset(clips, [place[name] for name in store.names]), store


def training_parts(recordings: Clips, data: ConfigDict) -> Clips:
    """Recordings cut into parts about `config.data.clip_seconds` long.

    Scenes, mixtures with sources and the records of a TFDS dataset stay whole.
    """
    inner = recordings
    while isinstance(inner, Subset):
        inner = inner.clips
    if isinstance(inner, SceneClips) or inner.has_sources or inner.in_order:
        return recordings
    return Segments(recordings, data.clip_seconds)
