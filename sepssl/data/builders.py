"""Recordings, mixtures and published data sets as TFDS datasets, one record for each clip.

Importing this file registers `sepssl_recordings`, `sepssl_mixtures`, `sepssl_fuss`,
`sepssl_fsd50k`, `sepssl_esc50`, `sepssl_audioset` and `sepssl_scenes`.
"""

import abc
import dataclasses
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from sepssl.audio.encoding import encoded
from sepssl.data.clips import Clips, Skipped, Subset
from sepssl.data.folder import Folder, list_audio
from sepssl.data.fuss import FussFolder
from sepssl.data.labels import ESC50_FILE, Labelled, NoLabels, Row, read_csv
from sepssl.data.mixtures import MixtureConfig, Mixtures
from sepssl.data.scenes.builder import SepsslScenes
from sepssl.data.sources import open_clips
from sepssl.data.spec import MIX_PREFIX
from sepssl.errors import InputError
from sepssl.files import in_utf8

__all__ = [
    "ClipsBuilder",
    "MixturesBuilderConfig",
    "RecordingsBuilderConfig",
    "SepsslAudioset",
    "SepsslEsc50",
    "SepsslFsd50k",
    "SepsslFuss",
    "SepsslMixtures",
    "SepsslRecordings",
    "SepsslScenes",
]

MAX_BYTES = 2**30  # of a record; protocol buffers end at 2 GiB
_ANY_RATE = 16000  # of clips whose files are taken over as they are
_MIN_SECONDS = 0.1  # our choice, as in training


class Source(NamedTuple):
    """What a dataset is made of.

    Attributes:
        splits: the clips of each split, by its name; all of them have the same classes, or none.
        class_names: in the order of the labels; None for that of the clips.
    """

    splits: Mapping[str, Clips]
    class_names: Sequence[str] | None = None


class ClipsBuilder(tfds.core.GeneratorBasedBuilder):
    """The clips of `_open` as records, which hold the bytes of sound files, not samples:

        id         string, the name of the clip
        audio      string, its sound file as it is; if it is a part of a file or mixed, FLAC of
                   16 or 24 bits, or float WAV for samples beyond full scale
        labels     int64 [count]; `features["labels"].feature.names` has the names
        fold       string, "" for none
        subsets    string [count], see `Clips.subsets`
        recording  string, the same for clips that were cut from one recording
        sources    string [count], sound files of the true sources, where they are known

    Clips that cannot be used are left out; `info.metadata["skipped"]` has the reason for each.

    `MANUAL_DOWNLOAD_INSTRUCTIONS` says what has to be in
    `tfds.download.DownloadConfig(manual_dir=...)`. Nothing is downloaded.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Initial release."}
    # Nothing is downloaded. TFDS 4.9 looks for checksums all the same, with a package
    # (importlib_resources) that it does not declare.
    url_infos = None
    description: ClassVar[str]
    homepage: ClassVar[str | None] = None

    @abc.abstractmethod
    def _open(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The clips, which lie in `dl_manager.manual_dir`, or where the configuration says."""

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            description=self.description,
            homepage=self.homepage,
            metadata=tfds.core.MetadataDict(),
            features=tfds.features.FeaturesDict(
                {
                    "id": text,
                    "audio": text,
                    "labels": tfds.features.Sequence(tfds.features.ClassLabel()),
                    "fold": text,
                    "subsets": tfds.features.Sequence(text),
                    "recording": text,
                    "sources": tfds.features.Sequence(text),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        splits, class_names = self._open(dl_manager)
        if class_names is None:
            class_names = next(iter(splits.values())).class_names
        self.info.features["labels"].feature.names = list(map(in_utf8, class_names or ()))
        skipped = self.info.metadata.setdefault("skipped", {})
        for clips in splits.values():
            skipped.update(clips.skipped)
        return {name: self._generate_examples(clips) for name, clips in splits.items()}

    def _generate_examples(self, clips: Clips) -> Iterator[tuple[str, dict]]:
        for index, name in enumerate(clips.names):
            try:
                key = in_utf8(name)
                yield key, {"id": key, **_record(clips, index)}
            except InputError as error:
                self.info.metadata["skipped"][name] = str(error)


def _record(clips: Clips, index: int) -> dict:
    """The record of a clip, without its id."""
    labels: list[str] = []
    if clips.labels is not None and clips.class_names is not None:
        labels = [
            in_utf8(clips.class_names[i]) for i in np.flatnonzero(clips.labels[index]).tolist()
        ]
    files = [_content(file) for file in clips.files(index)]
    if not files and clips.has_sources:
        mixture, sources = clips.read_with_sources(index)
        files = [encoded(sound, clips.sample_rate, "PCM_16") for sound in (mixture, *sources)]
    elif not files:
        rate, subtype, blocks = clips.stream(index)
        seconds = clips.num_samples(index) / clips.sample_rate
        if 4 * seconds * rate > MAX_BYTES:
            raise InputError(
                f"{clips.names[index]}: lasts {seconds:.0f} s; expected at most "
                f"{MAX_BYTES / 4 / rate:.0f} s of it in a record"
            )
        files = [encoded(np.concatenate(list(blocks)), rate, subtype)]
    return {
        "audio": files[0],
        "labels": labels,
        "fold": clips.folds[index] if clips.folds else "",
        "subsets": sorted(clips.subsets[index]) if clips.subsets else [],
        "recording": in_utf8((clips.recordings or clips.names)[index]),
        "sources": files[1:],
    }


def _content(file: pathlib.Path) -> bytes:
    try:
        size = file.stat().st_size
        if size <= MAX_BYTES:
            return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; expected a file") from error
    raise InputError(
        f"{file}: has {size} bytes; expected {MAX_BYTES} at most in a record, as of a manifest "
        "that names parts of it"
    )


@dataclasses.dataclass(eq=False)
class RecordingsBuilderConfig(tfds.core.BuilderConfig):
    """Which recordings to build.

    TFDS finds a finished build by the name of its configuration alone, whatever has become of the
    recordings since. A configuration without a name gets one that is derived from the others.

    Attributes:
        name: optional; see above.
        path: a sound file, a folder or a manifest, see `open_clips`.
        sources: whether to take the mixtures with their true sources alone, of a folder laid out as
            FUSS is.
    """

    name: str = ""
    path: str = ""
    sources: bool = False

    def __post_init__(self):
        self.name = self.name or _derived_name(self.path, [self.sources])


class SepsslRecordings(ClipsBuilder):
    """A folder of sound files, or a manifest; see `RecordingsBuilderConfig`.

    With labels, splits and folds as `open_clips` finds them. Without splits, all are in `train`;
    recordings for which a column `split` says nothing are in `other`, and those of which a
    `labels.csv` says nothing in `unlabelled`.

    Example:

        config = RecordingsBuilderConfig(path="recordings")
        SepsslRecordings(config=config).download_and_prepare()
    """

    name = "sepssl_recordings"
    description = "Sound files of a folder or a manifest (sepssl)."
    BUILDER_CONFIGS: ClassVar = [
        RecordingsBuilderConfig("default", description="Expects another one, with a path.")
    ]

    def _open(self, dl_manager):
        config = self.builder_config
        _require_path(config.path)
        clips = open_clips(config.path, _ANY_RATE, sources=config.sources, min_seconds=_MIN_SECONDS)
        return Source(_by_split(_with_known_labels(clips)))


@dataclasses.dataclass(eq=False)
class MixturesBuilderConfig(tfds.core.BuilderConfig):
    """Which scenes to mix; see `RecordingsBuilderConfig`.

    Attributes:
        name: optional.
        path: a folder or a manifest of isolated sounds.
        train, validation, test: scenes of each split; 0 for no such split.
        seed: of the scenes, 0 or more.
        mixture: what the scenes are like.
    """

    name: str = ""
    path: str = ""
    train: int = 1000
    validation: int = 200
    test: int = 200
    seed: int = 0
    mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)

    def __post_init__(self):
        values = [self.train, self.validation, self.test, self.seed, self.mixture]
        self.name = self.name or _derived_name(self.path, values)


class SepsslMixtures(ClipsBuilder):
    """Scenes with their sources, mixed from isolated sounds: those that "mix:FOLDER" names.

    Example:

        config = MixturesBuilderConfig(path="sounds", train=5000)
        SepsslMixtures(config=config).download_and_prepare()
    """

    name = "sepssl_mixtures"
    description = "Scenes mixed from recordings of isolated sounds (sepssl)."
    BUILDER_CONFIGS: ClassVar = [
        MixturesBuilderConfig("default", description="Expects another one, with a path.")
    ]

    def _open(self, dl_manager):
        config = self.builder_config
        _require_path(config.path)
        splits = {}
        for split in ("train", "validation", "test"):
            if count := getattr(config, split):
                mixtures = Mixtures({split: count}, config.seed, config.mixture)
                splits[split] = open_clips(
                    MIX_PREFIX + config.path,
                    config.mixture.sample_rate,
                    min_seconds=_MIN_SECONDS,
                    mixtures=mixtures,
                )
        if not splits:
            raise InputError("train=0, validation=0, test=0: expected 1 scene or more")
        return Source(splits)


class SepsslFuss(ClipsBuilder):
    """FUSS: mixtures of 1 to 4 sounds with their sources, in its splits; `eval` is `test`.

    Reference: Wisdom et al., What's All the FUSS About Free Universal Sound Separation Data?
    (2021).
    """

    name = "sepssl_fuss"
    description = "Free Universal Sound Separation: mixtures with their sources."
    homepage = "https://zenodo.org/records/4012661"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download FUSS_ssdata_reverb.tar.gz (of the configuration `unprocessed`: "
        "FUSS_ssdata.tar.gz) from https://zenodo.org/records/4012661; extracted, it is the folder "
        "ssdata_reverb (ssdata). Either is taken."
    )
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="reverberant", description="Sounds in simulated rooms."),
        tfds.core.BuilderConfig(name="unprocessed", description="Without rooms."),
    ]

    def _open(self, dl_manager):
        folder = {"reverberant": "ssdata_reverb", "unprocessed": "ssdata"}[self.builder_config.name]
        root = _part(dl_manager, folder, f"FUSS_{folder}.tar.gz")
        folders = {"train": "train", "validation": "validation", "test": "eval"}
        splits = {
            split: FussFolder(root / name, _ANY_RATE)
            for split, name in folders.items()
            if (root / name).is_dir()
        }
        if not splits:
            raise InputError(f"{root}: holds none of the folders {', '.join(folders.values())}")
        return Source(splits)


class SepsslFsd50k(ClipsBuilder):
    """FSD50K: Freesound clips with labels of AudioSet's ontology, in its splits.

    Reference: Fonseca et al., FSD50K: an Open Dataset of Human-Labeled Sound Events (2022).
    """

    name = "sepssl_fsd50k"
    description = "FSD50K: 51,197 Freesound clips with 200 classes."
    homepage = "https://zenodo.org/records/4060432"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download FSD50K from https://zenodo.org/records/4060432 and put its folders "
        "FSD50K.dev_audio, FSD50K.eval_audio and FSD50K.ground_truth there. Archives in several "
        "parts become one by `zip -s 0 FSD50K.dev_audio.zip --out dev.zip`, for unzip."
    )

    def _open(self, dl_manager):
        truth = _part(dl_manager, "FSD50K.ground_truth", "FSD50K.ground_truth.zip")
        vocabulary = [
            line.split(",")[1] for line in _lines(truth / "vocabulary.csv") if line.count(",") == 2
        ]
        splits: dict[str, Clips] = {}
        for part in ("dev", "eval"):
            folder = _part(dl_manager, f"FSD50K.{part}_audio", f"FSD50K.{part}_audio.zip")
            expected = "expected the columns fname, labels and, of dev.csv, split"
            file = truth / f"{part}.csv"
            columns, lines = read_csv(file, expected)
            if not {"fname", "labels", *(["split"] if part == "dev" else [])} <= set(columns):
                raise InputError(f"{file}: has the columns {', '.join(columns)}; {expected}")
            rows = {
                f"{row['fname']}.wav": Row(
                    frozenset(row["labels"].split(",")) - {""},
                    {"train": "train", "val": "validation"}.get(row.get("split", ""), "test"),
                )
                for _, row in lines
            }
            clips = Folder(folder, _ANY_RATE, _MIN_SECONDS, [folder / name for name in rows])
            splits |= _by_split(Labelled(clips, rows, str(file), has_splits=True))
        return Source(splits, vocabulary)


class SepsslEsc50(ClipsBuilder):
    """ESC-50: 2,000 clips of 5 s, 50 classes, in its 5 folds; the subset `esc10` has 10 classes.

    Reference: Piczak, ESC: Dataset for Environmental Sound Classification (2015).
    """

    name = "sepssl_esc50"
    description = "ESC-50: 2,000 environmental sounds of 5 s in 50 classes and 5 folds."
    homepage = "https://github.com/karolpiczak/ESC-50"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download https://github.com/karolpiczak/ESC-50/archive/master.zip as ESC-50-master.zip; "
        "extracted, it is the folder ESC-50-master. Either is taken."
    )

    def _open(self, dl_manager):
        root = _part(dl_manager, "ESC-50-master", "ESC-50-master.zip")
        expected = "expected the columns target and category"
        columns, lines = read_csv(root / ESC50_FILE, expected)
        if not {"target", "category"} <= set(columns):
            raise InputError(f"{root / ESC50_FILE}: has {', '.join(columns)}; {expected}")
        targets = {row["category"]: row["target"] for _, row in lines}
        names = sorted(targets, key=lambda name: (len(targets[name]), targets[name]))
        return Source({"train": Folder(root, _ANY_RATE, _MIN_SECONDS).labelled()}, names)


class SepsslAudioset(ClipsBuilder):
    """Segments of AudioSet that were collected before, with the labels of its 527 classes.

    Reference: Gemmeke et al., Audio Set: An ontology and human-labeled dataset for audio events
    (2017).
    """

    name = "sepssl_audioset"
    description = "AudioSet: segments of 10 s with labels."
    homepage = "https://research.google.com/audioset/download.html"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "From https://research.google.com/audioset/download.html download "
        "class_labels_indices.csv, balanced_train_segments.csv, eval_segments.csv and, for the "
        "configuration `full`, unbalanced_train_segments.csv. The sound files of the segments lie"
        " in the folder audio, or in any folders in it, named YTID, YYTID or YTID_START "
        "(as -0SdAVK79lg.flac, Y-0SdAVK79lg.wav or -0SdAVK79lg_30000.opus); each is a segment, not "
        "the whole video."
    )
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="balanced", description="Trains on the balanced segments."),
        tfds.core.BuilderConfig(name="full", description="Trains on the unbalanced ones, too."),
    ]

    def _open(self, dl_manager):
        root = pathlib.Path(dl_manager.manual_dir)
        file = root / "class_labels_indices.csv"
        expected = "expected the columns mid and display_name"
        columns, lines = read_csv(file, expected)
        if not {"mid", "display_name"} <= set(columns):
            raise InputError(f"{file}: has the columns {', '.join(columns)}; {expected}")
        names = {row["mid"]: row["display_name"] for _, row in lines}
        files = {}
        for path in list_audio(root / "audio"):
            if match := re.fullmatch(r"Y?([\w-]{11})(_[\d.]+)*", path.stem, re.ASCII):
                files[match[1]] = path
        train = ["balanced_train", "unbalanced_train"][: 1 + (self.builder_config.name == "full")]
        splits = {}
        for split, parts in (("train", train), ("test", ["eval"])):
            listed = [root / f"{part}_segments.csv" for part in parts]
            rows = {ytid: row for file in listed for ytid, row in _segments(file, names)}
            there = {files[ytid]: row for ytid, row in rows.items() if ytid in files}
            clips = Folder(root / "audio", _ANY_RATE, _MIN_SECONDS, list(there))
            clips.skipped += [
                Skipped(ytid, f"{ytid}: is not in {root / 'audio'}; expected its segment")
                for ytid in rows
                if ytid not in files
            ]
            by_name = {
                file.relative_to(root / "audio").as_posix(): row for file, row in there.items()
            }
            if there:
                splits[split] = Labelled(clips, by_name, ", ".join(map(str, listed)))
        if not splits:
            raise InputError(f"{root / 'audio'}: holds no file of a segment; expected some")
        return Source(splits, list(names.values()))


def _segments(file: pathlib.Path, names: Mapping[str, str]) -> Iterator[tuple[str, Row]]:
    """The identifiers and labels of AudioSet's segments."""
    for line in _lines(file):
        if line.startswith("#"):
            continue
        fields = line.split(",", 3)
        mids = fields[-1].strip().strip('"').split(",")
        if len(fields) != 4 or not names.keys() >= set(mids):
            raise InputError(
                f"{file}: has the line {line[:80]!r}; expected YTID, start_seconds, end_seconds, "
                "labels that class_labels_indices.csv names"
            )
        yield fields[0], Row(frozenset(names[mid] for mid in mids))


def _lines(file: pathlib.Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); expected it, as published") from error


def _part(dl_manager: tfds.download.DownloadManager, folder: str, archive: str) -> pathlib.Path:
    """A folder of a published dataset, extracted if only its archive is there."""
    manual = pathlib.Path(dl_manager.manual_dir)
    if (manual / folder).is_dir():
        return manual / folder
    if not (manual / archive).is_file():
        raise InputError(
            f"{manual}: holds neither the folder {folder} nor {archive}; expected one of them"
        )
    try:
        extracted = pathlib.Path(dl_manager.extract(manual / archive), folder)
    except Exception as error:  # of any of the libraries that read archives
        raise InputError(
            f"{manual / archive}: cannot be extracted ({error}); expected the folder {folder}"
        ) from error
    if not extracted.is_dir():
        raise InputError(f"{manual / archive}: holds no folder {folder}; expected it, as published")
    return extracted


def _require_path(path: str) -> None:
    if not path:
        raise InputError("path='': names no recordings; expected a configuration with a path")


def _derived_name(path: str, values: Sequence) -> str:
    if not path:
        return "default"
    place = os.path.abspath(path)
    stem = re.sub(r"[^\w.-]", "_", pathlib.Path(place).stem)
    return f"{stem}-{zlib.crc32(repr([place, *values]).encode('utf-8', 'surrogateescape')):08x}"


def _with_known_labels(clips: Clips) -> Clips:
    """All of some clips, with what labels, splits, folds and subsets are known of any.

    Those of which no labels are known would be examples of no class: they are a split of their own.
    """
    try:
        labelled = clips.labelled()
    except NoLabels:
        return clips
    if labelled.labels is None:
        return clips
    known = {name: index for index, name in enumerate(labelled.names)}
    result = Subset(clips, range(len(clips)))
    places = [known.get(name) for name in clips.names]
    result.class_names = labelled.class_names
    labels = np.zeros((len(clips), labelled.labels.shape[1]), np.int8)
    for row, place in zip(labels, places, strict=True):
        if place is not None:
            row[:] = labelled.labels[place]
    result.labels = labels
    for name, unknown in (("folds", ""), ("subsets", frozenset())):
        values = getattr(labelled, name)
        if values is not None and getattr(clips, name) is None:
            setattr(result, name, [unknown if p is None else values[p] for p in places])
    if clips.splits is None and (labelled.splits is not None or None in places):
        splits = labelled.splits or ["train"] * len(labelled)
        result.splits = ["unlabelled" if p is None else splits[p] for p in places]
    return result


def _by_split(clips: Clips) -> dict[str, Clips]:
    if not clips.splits or not any(clips.splits):
        return {"train": clips}
    splits = np.array([split or "other" for split in clips.splits])
    return {
        split: Subset(clips, np.flatnonzero(splits == split))
        for split in dict.fromkeys(splits.tolist())
    }
