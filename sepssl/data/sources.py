"""The clips a configuration asks for, decoded once into the run's folder."""

import os
import pathlib

import numpy as np
from ml_collections import ConfigDict

from sepssl.data.folder import Folder, labelled_folder, list_audio
from sepssl.data.fuss import FussFolder, without_sources
from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.segments import Segments, recording_name
from sepssl.data.splits import SPLITS, split_numbers
from sepssl.data.store import ClipStore
from sepssl.errors import InputError

MIN_SECONDS = 0.1  # of a recording; our choice


def scene_config(data: ConfigDict) -> SceneConfig:
    """The built-in scenes as `config.data` describes them."""
    return SceneConfig(
        sample_rate=data.sample_rate,
        duration=data.clip_seconds,
        ambience_range_db=tuple(data.ambience_range_db) or None,
    )


def settings_of_run(config: ConfigDict) -> dict:
    """A configuration as nested dicts, without where its cache lies, which changes nothing."""
    settings = config.to_dict()
    del settings["data"]["cache"]
    return settings


def training_clips(data: ConfigDict) -> Segments | SceneClips:
    """Unlabelled recordings: those of `config.data.directory`, or built-in scenes if it is "".

    Recordings are cut into parts of about `config.data.clip_seconds`. In a folder laid out as FUSS
    is, the mixtures are recordings, their sources are not.
    """
    if data.directory:
        files = without_sources(list_audio(data.directory))
        folder = Folder(data.directory, data.sample_rate, MIN_SECONDS, labels=None, files=files)
        return Segments(folder, data.clip_seconds)
    return SceneClips(scene_config(data), data.seed, "unlabelled", data.num_clips)


def clips_with_sources(data: ConfigDict) -> FussFolder | SceneClips:
    """The same, whole and with their true sources.

    Raises:
        InputError: if `config.data.directory` has none; see `FussFolder`.
    """
    if data.directory:
        return FussFolder(data.directory, data.sample_rate)
    return training_clips(data)


def labelled_clips(data: ConfigDict) -> tuple[Segments | SceneClips, dict[str, np.ndarray]]:
    """Recordings to train on with their labels, and the labels by the name of a clip.

    Of a folder, only the recordings that `sepssl-evaluate` trains its classifiers on, so that the
    encoder can be tested on the others; each part has the labels of the whole. Recordings without
    a label are skipped.

    Args:
        data: as `config.data`.

    Returns:
        The clips, and multi-hot labels [classes] of each.

    Raises:
        InputError: if `config.data.directory` has neither `labels.csv` nor subfolders, or no
            recording is to be trained on.
    """
    if not data.directory:
        clips = training_clips(data)
        return clips, dict(zip(clips.names, clips.labels, strict=True))
    labelled = labelled_folder(data.directory, data.sample_rate)
    rows = np.flatnonzero(split_numbers(labelled.names) == SPLITS.index("train"))
    if not len(rows):
        raise InputError(
            f"{data.directory}: of {len(labelled)} labelled recordings none falls into the train "
            "split; expected more recordings"
        )
    labels = {labelled.names[row]: labelled.labels[row] for row in rows}
    files = [labelled.directory / name for name in labels]
    folder = Folder(data.directory, data.sample_rate, MIN_SECONDS, labels=None, files=files)
    clips = Segments(folder, data.clip_seconds)
    clips.skipped = [*labelled.skipped, *clips.skipped]
    return clips, {name: labels[recording_name(name)] for name in clips.names}


def store_mixtures(clips, folder: pathlib.Path, with_sources: bool = False) -> ClipStore:
    """Decodes all clips into a store; those that cannot be read are skipped and listed.

    Args:
        clips: what to decode.
        folder: where the store goes.
        with_sources: whether clips count as such too whose true sources cannot be read.
    """

    def read(index):
        mixture = clips.read_with_sources(index)[0] if with_sources else clips.read(index)
        return mixture[None]

    return _store(clips, read, folder)


def store_with_sources(clips: FussFolder | SceneClips, folder: pathlib.Path) -> ClipStore:
    """The same with their true sources: the mixture is row 0 of a clip, its sources the others."""

    def read(index):
        mixture, sources = clips.read_with_sources(index)
        return np.concatenate([mixture[None], sources])

    return _store(clips, read, folder)


def _store(clips, read, folder: pathlib.Path) -> ClipStore:
    store = ClipStore(folder)
    read = value_or_error(read)
    skipped = store.fill(
        clips.origin,
        clips.names,
        lambda first: read_ahead(read, range(first, len(clips)), os.cpu_count() or 1),
        "making scenes" if isinstance(clips, SceneClips) else "decoding",
    )
    report_skipped([*clips.skipped, *skipped])
    return store


def store_sources(
    clips: FussFolder | SceneClips, mixtures: ClipStore, folder: pathlib.Path
) -> ClipStore:
    """The true sources of all clips of a store, a row each: what an oracle separator would find.

    The mixtures were stored `with_sources`, so that none is broken.
    """
    rows = {name: row for row, name in enumerate(clips.names)}
    indices = [rows[name] for name in mixtures.names]

    def read(index):
        return clips.read_with_sources(indices[index])[1]

    store = ClipStore(folder)
    store.fill(
        f"{clips.origin}, sources",
        mixtures.names,
        lambda first: read_ahead(read, range(first, len(mixtures)), os.cpu_count() or 1),
        "true sources",
    )
    return store


def store_channels(
    separator,
    name: str,
    mixtures: ClipStore,
    sample_rate: int,
    folder: pathlib.Path,
    chunk_seconds: float,
) -> ClipStore:
    """Separates all clips of a store into another one, with a row per channel.

    Args:
        separator: `Separator`.
        name: of the separator, for the progress bar.
        mixtures: store of one row per clip.
        sample_rate: of the clips, in Hz; the channels have the same.
        folder: where the channels go.
        chunk_seconds: longer clips are separated in chunks of this length.
    """

    def separated(first: int):
        for index in range(first, len(mixtures)):
            mixture = mixtures.read(index)[0]
            yield separator.separate(mixture, sample_rate, chunk_seconds)

    store = ClipStore(folder)
    store.fill(mixtures.origin, mixtures.names, separated, f"separating with {name}")
    return store


def report_skipped(skipped) -> None:
    """Prints how many files were skipped, and each with its reason."""
    if skipped:
        print(f"skipped {len(skipped)}:")
        for name, reason in skipped:
            # An error met while decoding names the file itself. A name may not be printable.
            line = reason if recording_name(str(name)) in reason else f"{name}: {reason}"
            print("  " + line.encode("utf-8", "backslashreplace").decode())
