"""Clips of a TFDS dataset that was prepared on disk."""

import contextlib
import functools
import hashlib
import importlib
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import soxr
import tensorflow as tf

from sepssl.audio.files import SILENCE, audio_info, check_decoder, check_sample_rate, read_audio
from sepssl.data.clips import Clips, Joined, Skipped, Stream, cut
from sepssl.data.folder import file_digest, file_stamp
from sepssl.data.labels import NoLabels
from sepssl.errors import InputError


class TfdsClips(Clips):
    """One split of a TFDS dataset with sound and, on request, labels.

    The sound is a `tfds.features.Audio`, or else a string feature with encoded sound files (as
    `SepsslScenes` writes them); among several, the one named "audio". Channels are averaged. 8-bit
    and 16-bit integers are scaled to [-1, 1) by their type, wider ones by the smallest of 16, 32
    and 64 bits that can represent the clip's peak (our choice): by default, TFDS keeps 16-bit sound
    in int64. The sample rate is the Audio feature's, or else comes with each clip in a scalar
    feature "sample_rate" or "rate".

    The labels are a `ClassLabel`, a sequence of them, or a multi-hot tensor [classes] of integers
    or bools; among several, the one named "label" or "labels". A label of -1 means no class. With
    them, string or integer features "fold" and "recording", and a sequence of strings "subsets",
    are the clips' folds, recordings and subsets.

    A sequence "sources" of such sound, or of dicts with "audio" (as in TFDS's own FUSS), holds the
    true sources.

    Construction reads the labels without decoding the sound. `read` is random access if the records
    are stored as array_record; tfrecord files are read in order, starting over for an earlier clip.
    Finding the length of a clip means reading it. Nothing is downloaded or built.

    Args:
        dataset: "NAME" or "NAME/CONFIG"; ":VERSION" may follow, and then, after another slash, what
            the features do not tell: "audio=FEATURE", "labels=FEATURE", "rate=HZ", with commas.
        split: name of a split.
        sample_rate: in Hz, of the clips read.
        data_dir: the folder of TFDS datasets; None means TFDS's default.
        labels: whether to read the labels.
        decoder: of encoded sound files, see `read_audio`.

    Attributes:
        names: "NAME/CONFIG/VERSION/SPLIT[INDEX]" of each clip, in the order of the records.
        skipped: empty, since damage is found only by `read`.
        class_names: numbers, if the labels are a multi-hot tensor.

    Raises:
        NoLabels: if labels are requested and no feature qualifies.
        InputError: if the dataset is unknown, not prepared, damaged or in an unsupported format, or
            lacks the split; if no feature, or more than one, qualifies as the sound, more than one
            as the labels, or the sample rate is unknown.

    Example:

        clips = TfdsClips("crema_d", "test", sample_rate=16000)
        waveform, labels = clips.read(0), clips.labels[0]
    """

    in_order = True

    def __init__(
        self,
        dataset: str,
        split: str,
        sample_rate: int,
        data_dir: str | os.PathLike | None = None,
        labels: bool = True,
        decoder: str = "soundfile",
    ):
        check_sample_rate(sample_rate)
        check_decoder(decoder)
        self._arguments = (dataset, split, sample_rate, data_dir, True, decoder)
        self._decoder = decoder
        self.sample_rate = int(sample_rate)
        builder = _prepared(dataset, data_dir)
        splits, features = builder.info.splits, builder.info.features
        if split not in splits:
            raise InputError(
                f"tfds:{dataset}: has no split '{split}'; expected one of {' '.join(splits)}"
            )
        with _named(f"tfds:{dataset}"):
            _, told = _parsed(dataset)
            label = _label_feature(features, told.get("labels", "")) if labels else None
            self._audio = _audio_feature(features, told.get("audio", ""))
            self._rate = _rate_or_its_feature(features, self._audio, told.get("rate", ""))
        where = f"{builder.info.full_name}/{split}"
        self.names = [f"{where}[{index}]" for index in range(splits[split].num_examples)]
        self.skipped: list[Skipped] = []
        with _named(where):
            known = [name for name in _KNOWN if name in features and _is_text(features[name])]
            if label:
                self.class_names = _class_names(features[label])
                self.labels = np.zeros((len(self.names), len(self.class_names)), np.int8)
            if label or known:
                records = _Records(builder, split, [*([label] if label else []), *known])
                values: dict[str, list] = {name: [] for name in known}
                for index in range(len(self.names)):
                    record = records[index]
                    if label and self.labels is not None:
                        _set_classes(self.labels[index], record[label], features[label])
                    for name in known:
                        values[name].append(_text(record[name]))
                for name in known:
                    if any(values[name]):
                        setattr(self, _KNOWN[name], values[name])
            needed = [name for name in features if name in (self._audio, self._rate)]
            self._records = _Records(builder, split, needed)
            if self.names and SOURCES in features and _has_sound(features[SOURCES]):
                self._with_sources = _Records(builder, split, [*needed, SOURCES])
                self.has_sources = len(_several(self._with_sources[0][SOURCES])) > 0
        self._directory = pathlib.Path(builder.data_dir)
        self._files = [pathlib.Path(path) for path in splits[split].filepaths]

    def labelled(self) -> "TfdsClips":
        return self if self.labels is not None else TfdsClips(*self._arguments)

    @functools.cached_property
    def origin(self) -> str:
        files = " ".join(file_digest(path, file_stamp(path)) for path in self._files)
        digest = hashlib.sha256(files.encode()).hexdigest()[:16]
        told = "".join(
            f", {name} {value}"
            for name, value in _parsed(self._arguments[0])[1].items()
            if name != "labels"
        )
        return (
            f"{self._directory}, records {digest}{told}, at {self.sample_rate} Hz, {self._decoder}"
        )

    def num_samples(self, index: int) -> int:
        """Length of a clip in samples at `sample_rate`, for which it is read."""
        return len(self.read(index))

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Reads a clip, or a part of it; cheapest in ascending order.

        Raises:
            InputError: if the clip cannot be decoded, is empty or silent (peak at or below
                -120 dBFS), or holds NaN or infinity.
        """
        return cut(self._whole(index), start, length, self.names[index])

    def stream(self, index: int) -> Stream:
        """A clip at the sample rate of its record, in one block.

        Raises:
            InputError: as `read`.
        """
        with _named(self.names[index]):
            record = self._records[index]
            sound = record[self._audio]
            if isinstance(sound, bytes):
                with _as_file(sound) as path:
                    info = audio_info(path)
                    waveform = read_audio(path, None, decoder=self._decoder)
                return Stream(info.sample_rate, info.subtype, iter([waveform]))
            sound = np.asarray(sound)
            waveform = _mono(sound)
            return Stream(self._rate_of(record), _subtype(sound), iter([waveform]))

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The mixture, float32 [samples], and its true sources, float32 [count, samples].

        Raises:
            InputError: as `read`, if the mixture or a source cannot be decoded, or there are no
                sources; one may be silent.
        """
        if not self.has_sources:
            return super().read_with_sources(index)
        with _named(self.names[index]):
            record = self._with_sources[index]
            mixture = self._waveform(record, record[self._audio])
            sounds = _several(record[SOURCES])
            sources = np.zeros((len(sounds), len(mixture)), np.float32)
            for row, sound in zip(sources, sounds, strict=True):
                source = self._waveform(record, sound, allow_silence=True)[: len(row)]
                row[: len(source)] = source
        return mixture, sources

    def _whole(self, index: int) -> np.ndarray:
        with _named(self.names[index]):
            record = self._records[index]
            return self._waveform(record, record[self._audio])

    def _waveform(self, record: dict, sound, allow_silence: bool = False) -> np.ndarray:
        """Sound of a record at `sample_rate`."""
        if isinstance(sound, bytes):
            with _as_file(sound) as path:
                return read_audio(
                    path, self.sample_rate, allow_silence=allow_silence, decoder=self._decoder
                )
        rate = self._rate_of(record)
        waveform = _mono(np.asarray(sound), allow_silence)
        if rate != self.sample_rate:
            waveform = soxr.resample(waveform, rate, self.sample_rate, quality="HQ")
        return waveform

    def _rate_of(self, record: dict) -> int:
        rate = self._rate if isinstance(self._rate, int) else int(record[self._rate])
        check_sample_rate(rate)
        return rate


def prepared_splits(dataset: str, data_dir: str | os.PathLike | None = None) -> list[str]:
    """Names of the non-empty splits of a prepared TFDS dataset, in its order.

    Raises:
        InputError: as `TfdsClips`.
    """
    splits = _prepared(dataset, data_dir).info.splits
    names = [name for name, split in splits.items() if split.num_examples]
    if not names:
        raise InputError(f"tfds:{dataset}: has no records; expected labelled clips")
    return names


def open_tfds(
    dataset: str,
    sample_rate: int,
    data_dir: str | os.PathLike | None = None,
    labels: bool = True,
    decoder: str = "soundfile",
    sources: bool = False,
) -> Clips:
    """All non-empty splits of a prepared TFDS dataset, one after the other.

    Args:
        dataset, data_dir, labels, decoder: as `TfdsClips` takes them.
        sample_rate: in Hz, of the clips read.
        sources: whether to open only the splits with true sources, if there are any.

    Returns:
        The clips. A single split says nothing: `splits` is not known then, and folds decide.

    Raises:
        InputError: as `TfdsClips`.
    """
    parts = {
        split: TfdsClips(dataset, split, sample_rate, data_dir, labels, decoder)
        for split in prepared_splits(dataset, data_dir)
    }
    if sources and any(part.has_sources for part in parts.values()):
        parts = {split: part for split, part in parts.items() if part.has_sources}
    (first, *others) = parts.values()
    return Joined(parts) if others else first


_TOLD = ("audio", "labels", "rate")
SOURCES = "sources"
_KNOWN = {"fold": "folds", "recording": "recordings", "subsets": "subsets"}  # feature: attribute


class _Records:
    """Some features of the records of a split, as dicts; the others are not decoded."""

    def __init__(self, builder, split: str, names: Iterable[str]):
        import tensorflow_datasets as tfds

        features = {name: builder.info.features[name] for name in names}
        self._features = tfds.features.FeaturesDict(features)
        self._decoders = {
            name: tfds.decode.SkipDecoding() for name in names if _holds_files(features[name])
        }
        file_format = builder.info.file_format.value
        if file_format == "array_record":
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._raw = builder.as_data_source(split, deserialize_method=raw)
        elif file_format == "tfrecord":
            self._raw = _TfRecords(builder.info.splits[split].filepaths)
        else:  # reading Parquet with tf.data can hang
            raise InputError(f"is stored as {file_format}; expected tfrecord or array_record")

    def __getitem__(self, index: int) -> dict:
        return self._features.deserialize_example_np(self._raw[index], decoders=self._decoders)


class _TfRecords:
    """The bytes of each record of TFRecord files, one file after the other.

    (`as_dataset` would interleave the files, in an order that depends on the starting point.)
    """

    def __init__(self, files: Sequence[os.PathLike]):
        self._files = [os.fspath(file) for file in files]
        self._stream: Iterator[bytes] | None = None
        self._next = 0
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> bytes:
        with self._lock:
            stream, self._stream = self._stream, None  # an error ends the stream
            if stream is None or index < self._next:
                stream = tf.data.TFRecordDataset(self._files).skip(index).as_numpy_iterator()
                self._next = index
            for record in stream:
                self._next += 1
                if self._next > index:
                    self._stream = stream
                    return record
        raise InputError("is missing: the files end earlier; expected the whole dataset")


def _parsed(dataset: str) -> tuple[str, dict[str, str]]:
    """The name of a dataset, and what is told of its features, as TFDS writes arguments.

    Raises:
        InputError: if something else is told.
    """
    name, _, text = dataset.rpartition("/")
    if "=" not in text:
        return dataset, {}
    told = dict(part.partition("=")[::2] for part in text.split(","))
    for key, value in told.items():
        no_rate = key == "rate" and not (value.isdecimal() and int(value))
        if key not in _TOLD or not value or no_rate:
            raise InputError(
                f"tfds:{dataset}: says {key}={value}; expected audio=FEATURE, labels=FEATURE or "
                "rate=HZ"
            )
    return name, told


def _prepared(dataset: str, data_dir: str | os.PathLike | None):
    """The builder of a dataset, made from its files alone.

    `tfds.builder` would use the version of the installed code, not the one on disk, and looks some
    names up online.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    title = f"tfds:{dataset}"
    dataset, _ = _parsed(dataset)
    if not re.fullmatch(r"[A-Za-z]\w*(/[\w+.-]+)?(:[\d*]+\.[\d*]+\.[\d*]+)?", dataset):
        raise InputError(
            f"{title}: is not a valid dataset name; expected tfds:NAME or tfds:NAME/CONFIG"
        )
    with _named(title):
        try:
            return read_only_builder.builder_from_files(dataset, data_dir=data_dir or None)
        except tfds.core.DatasetNotFoundError:
            pass
    folder = data_dir or "TFDS's default folder"
    name = re.split("[/:]", dataset)[0]
    modules = "tensorflow_datasets as tfds"
    if name.startswith("sepssl_"):
        modules += ", sepssl.data.builders"
        importlib.import_module("sepssl.data.builders")  # which registers it
    try:
        builder = tfds.builder_cls(name)
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(
            f"{title}: '{name}' is neither a dataset known to TFDS nor one prepared in {folder}; "
            "expected the name of a TFDS dataset"
        ) from error
    if hasattr(builder.builder_config_cls, "path"):  # recordings of the user's
        raise InputError(
            f"{title}: has not been prepared in {folder}; expected it there, made by "
            f"sepssl.data.builders with a {builder.builder_config_cls.__name__} of that name"
        )
    # Not `tfds build`, which does not start without Apache Beam, whether the dataset needs it or
    # not.
    where = f", data_dir={os.fspath(data_dir)!r}" if data_dir else ""
    config = ""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        config = "download_config=tfds.download.DownloadConfig(manual_dir='DIR')"
    make = f"import {modules}; tfds.builder('{dataset}'{where}).download_and_prepare({config})"
    raise InputError(
        f"{title}: has not been prepared in {folder}; expected it there, prepared with: "
        f'python -c "{make}"'
    )


def _audio_feature(features, told: str = "") -> str:
    import tensorflow_datasets as tfds

    audio = [name for name, f in features.items() if isinstance(f, tfds.features.Audio)]
    text = [name for name, f in features.items() if isinstance(f, tfds.features.Text)]
    return _only("sound", audio + text if told else audio or text, ("audio",), features, told)


def _is_text(feature) -> bool:
    """Whether a feature is a string, a number that names something, or a sequence of strings."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Sequence):
        return isinstance(feature.feature, tfds.features.Text)
    if isinstance(feature, tfds.features.Text):
        return True
    whole = isinstance(feature, tfds.features.Tensor) and np.dtype(feature.np_dtype).kind in "iu"
    return whole and feature.shape == ()


def _text(value) -> str | frozenset[str]:
    """A value of a feature that `_is_text`."""
    if isinstance(value, bytes):
        return value.decode()
    return str(value) if np.ndim(value) == 0 else frozenset(item.decode() for item in value)


def _has_sound(feature) -> bool:
    """Whether a feature is a sequence of sounds, or of dicts with "audio"."""
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.Sequence):
        return False
    inner = feature.feature
    if isinstance(inner, tfds.features.FeaturesDict):
        inner = dict(inner).get("audio")
    return isinstance(inner, (tfds.features.Audio, tfds.features.Text))


def _several(sounds):
    """The sounds in a feature that `_has_sound`."""
    return sounds["audio"] if isinstance(sounds, dict) else sounds


def _holds_files(feature) -> bool:
    """Whether a feature contains encoded files, also an Audio (TFDS would decode it with pydub)."""
    import tensorflow_datasets as tfds

    # The only public way to ask an Audio logs a warning.
    return isinstance(feature, tfds.features.Text) or getattr(feature, "_lazy_decode", False)


def _rate_or_its_feature(features, audio: str, told: str = "") -> int | str | None:
    """In Hz, or the feature that contains it; None for encoded files, whose headers do."""
    rate: int | str | None = None
    if not _holds_files(features[audio]):
        rate = features[audio].sample_rate and int(features[audio].sample_rate)
        for name in ("sample_rate", "rate"):
            if not rate and name in features and features[name].shape == ():
                rate = name
        if not rate and not told:
            raise InputError(
                f"the sample rate of '{audio}' is unknown; expected it in the Audio feature, in a "
                "scalar feature 'sample_rate' or 'rate', or as rate=HZ after the dataset's name"
            )
        rate = int(told) if told and isinstance(rate, str) else rate or int(told)
    if told and rate != int(told):
        known = "in the sound files" if rate is None else rate
        raise InputError(f"rate={told}: the sample rate is known, {known}; expected no other one")
    return rate


def _label_feature(features, told: str = "") -> str:
    import tensorflow_datasets as tfds

    def can_be_labels(feature) -> bool:
        if isinstance(feature, tfds.features.Sequence):
            feature = feature.feature
            return isinstance(feature, tfds.features.ClassLabel) and bool(feature.num_classes)
        if isinstance(feature, tfds.features.ClassLabel):
            return bool(feature.num_classes)
        return (
            isinstance(feature, tfds.features.Tensor)
            and not isinstance(feature, tfds.features.Audio)
            and np.dtype(feature.np_dtype).kind in "iub"
            and len(feature.shape) == 1
            and feature.shape[0] is not None
        )

    candidates = [name for name, feature in features.items() if can_be_labels(feature)]
    return _only("labels", candidates, ("label", "labels"), features, told)


def _only(what: str, candidates: list[str], preferred: tuple[str, ...], features, told: str) -> str:
    if told in candidates:
        return told
    if told:
        raise InputError(
            f"{told}: is no feature with {what}; expected one of {', '.join(sorted(candidates))}"
        )
    found = [name for name in candidates if name in preferred] or candidates
    if len(found) == 1:
        return found[0]
    has = f"; it has {', '.join(sorted(features))}"
    named = f"named {' or '.join(preferred)}"
    if not found:
        kind = NoLabels if what == "labels" else InputError
        raise kind(f"has no feature with {what}{has}; expected one, for instance {named}")
    raise InputError(
        f"cannot tell which feature holds the {what}: {' and '.join(sorted(found))} qualify{has}; "
        f"expected one, one {named}, or "
        f"{'audio' if what == 'sound' else what}=FEATURE after the dataset's name"
    )


def _class_names(feature) -> list[str]:
    if hasattr(feature, "names"):  # also that of a sequence
        return list(feature.names)
    return [str(number) for number in range(feature.shape[0])]


def _set_classes(row: np.ndarray, value, feature) -> None:
    """Writes one record's labels into a row [classes] of zeros."""
    value = np.atleast_1d(value).astype(np.int64)  # an empty sequence comes as floats
    if hasattr(feature, "names"):
        row[value[value >= 0]] = 1
    elif np.isin(value, (0, 1)).all():
        row[:] = value
    else:
        raise InputError(f"the labels hold {value.max()}; expected 0 and 1, or a ClassLabel")


def _mono(sound: np.ndarray, allow_silence: bool = False) -> np.ndarray:
    """[samples] or [samples, channels] of any numeric type -> checked float32 [samples]."""
    if not sound.size:
        raise InputError("is empty; expected a recording")
    if sound.dtype.kind == "f":
        offset, full_scale = 0.0, 1.0
    elif sound.dtype.itemsize > 2:
        bits = next(bits for bits in (15, 31, 63, 64) if _peak(sound) < 2**bits)
        offset, full_scale = 0.0, 2.0**bits
    else:
        full_scale = 2.0 ** (8 * sound.dtype.itemsize - 1)
        offset = full_scale if sound.dtype.kind == "u" else 0.0
    waveform = (sound.reshape(len(sound), -1).mean(axis=1, dtype=np.float64) - offset) / full_scale
    if not np.isfinite(waveform).all():
        raise InputError("holds NaN or infinity; expected finite samples")
    if np.abs(waveform).max() <= SILENCE and not allow_silence:
        raise InputError("is silent; expected sound above -120 dBFS")
    return waveform.astype(np.float32)


def _peak(sound: np.ndarray) -> int:
    return max(int(sound.max()), -int(sound.min()) - 1)


def _subtype(sound: np.ndarray) -> str:
    fits = sound.dtype.kind in "iu" and (sound.dtype.itemsize <= 2 or _peak(sound) < 2**15)
    return "PCM_16" if fits else "FLOAT"


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[pathlib.Path]:
    """A file on disk, so that every check is made; errors do not name it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "clip.wav")  # libsndfile looks at the content, not the name
        path.write_bytes(content)
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).removeprefix(f"{path}: ")) from error


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns any error inside into a one-line InputError that begins with `name`."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name}: cannot be read ({reason}); expected the files as TFDS wrote them"
        ) from error
