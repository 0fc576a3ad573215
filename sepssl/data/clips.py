"""What a source of clips is, and sources made of other ones."""

import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from sepssl.errors import InputError
from sepssl.files import printable

_Value = TypeVar("_Value")


class Skipped(NamedTuple):
    """A clip or file that was left out.

    Attributes:
        name: of the clip, as in `Clips.names`, or the file's path below its folder.
        reason: one line as an error has it: the file, what is wrong with it, what was expected.
    """

    name: str
    reason: str


class Stream(NamedTuple):
    """A clip that is read block by block.

    Attributes:
        sample_rate: in Hz, of the blocks.
        subtype: how the samples were stored, by libsndfile's name of the encoding.
        blocks: float32 `[samples]` each; in order, they make up the clip. Reading them raises what
            `Clips.read` raises.
    """

    sample_rate: int
    subtype: str
    blocks: Iterator[np.ndarray]


class Clips(Protocol):
    """A source of clips: recordings, or parts of them, as mono waveforms at one sample rate.

    Training, evaluation, embedding and separation accept any of these. A subclass sets what it has
    beyond names and sound; the defaults below mean "not known".

    Attributes:
        names: of the clips, all different. Two clips of the same name, `origin` and `key` are equal
            in every sample.
        skipped: clips and files left out before anything was decoded; of mixed scenes also the
            sounds that could not be used, as soon as that is known.
        sample_rate: in Hz, of the clips read.
        origin: what the clips depend on besides names and files: their location, how they are made.
        labels: int8 `[clips, classes]`, 1 where a clip has a class; None without labels.
        class_names: names of the classes, in the order of `labels`; None without labels.
        splits: of each clip, the name of the split it belongs to ("train", "validation", "test", or
            the dataset's own name), "" for none; None if splits are not known.
        folds: of each clip, the name of its fold, "" for none; None if folds are not known.
        subsets: of each clip, the names of the subsets that it is in, which are columns of true and
            false in the file of labels; None if subsets are not known.
        recordings: of each clip, the name of the recording it was cut from, which other clips may
            share; None where every clip is a recording of its own.
        in_order: whether reading in ascending order, by one thread, is far cheaper than otherwise.
        has_sources: whether `read_with_sources` finds the true sources of the clips.
        allow_truncated: whether there may be clips of files that end early; see `truncated`.
        speed: at which recordings are played: `speed` seconds of a recording are one of its clip.
    """

    names: Sequence[str]
    skipped: Sequence[Skipped]
    sample_rate: int
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    folds: Sequence[str] | None = None
    subsets: Sequence[frozenset[str]] | None = None
    recordings: Sequence[str] | None = None
    in_order: bool = False
    has_sources: bool = False
    allow_truncated: bool = False
    speed: float = 1.0

    @property
    def origin(self) -> str: ...

    def __len__(self) -> int:
        return len(self.names)

    def num_samples(self, index: int) -> int:
        """Length of a clip in samples at `sample_rate`."""
        ...

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Reads a clip, or a part of it.

        Args:
            index: which clip, `0 <= index < len(self)`.
            start: first sample of the part, at `sample_rate`.
            length: number of samples of the part; None means to the end.

        Returns:
            float32 `[samples]`, fewer than `length` where the clip ends earlier.

        Raises:
            InputError: if the clip cannot be read.
        """
        ...

    def stream(self, index: int) -> Stream:
        """A clip at the sample rate of its recording, times `speed`.

        In bounded memory if it is a sound file.

        The default, for clips that are made at any rate, is the whole of it at `sample_rate`.

        Raises:
            InputError: if the clip cannot be read.
        """
        return Stream(self.sample_rate, "FLOAT", iter([self.read(index)]))

    def path(self, index: int) -> pathlib.Path | None:
        """The sound file that a clip is read from; None if it is not read from one."""
        return None

    def files(self, index: int) -> list[pathlib.Path]:
        """The sound file that a clip is all of, and those of its true sources; [] for others."""
        return []

    def start_seconds(self, index: int) -> float:
        """Where a clip begins in the sound file that it is read from, whatever the speed."""
        return 0.0

    def truncated(self, index: int) -> str:
        """How much there is of a clip whose file ends early, as "1.20 of 3.00 s"; "" if all."""
        return ""

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A mixture, float32 `[samples]`, and its true sources, float32 `[count, samples]`.

        Raises:
            InputError: if the mixture or a source cannot be read, or `has_sources` is False.
        """
        raise InputError(f"{self.names[index]}: its true sources are not known")

    def labelled(self) -> "Clips":
        """The labelled clips, with their labels.

        Raises:
            InputError: if there are no labels, or none is usable.
        """
        if self.labels is None:
            raise InputError("the clips have no labels; expected labelled ones")
        return self

    def stamp(self, index: int) -> str:
        """Changes when the files behind a clip are touched; cheap, since nothing is read (of mixed
        scenes once, to know which sounds can be used).

        The default, "", is for clips that their name and `origin` determine.
        """
        return ""

    def key(self, index: int) -> str:
        """Changes with the content of the files behind a clip, which are read."""
        return ""


class Subset(Clips):
    """Some clips of a source, in a given order.

    Args:
        clips: the source.
        indices: which of its clips.
        skipped: what to list as skipped; None for the source's own list.
    """

    def __init__(
        self, clips: Clips, indices: Iterable[int], skipped: Sequence[Skipped] | None = None
    ):
        self.clips = clips
        self.indices = np.fromiter(indices, np.int64)
        self.names = [clips.names[i] for i in self.indices]
        self._skipped = None if skipped is None else list(skipped)
        self.sample_rate = clips.sample_rate
        self.labels = None if clips.labels is None else clips.labels[self.indices]
        self.class_names = clips.class_names
        self.splits = _take(clips.splits, self.indices)
        self.folds = _take(clips.folds, self.indices)
        self.subsets = _take(clips.subsets, self.indices)
        self.recordings = _take(clips.recordings, self.indices)
        self.in_order = clips.in_order
        self.has_sources = clips.has_sources
        self.allow_truncated = clips.allow_truncated
        self.speed = clips.speed

    @property
    def skipped(self) -> Sequence[Skipped]:  # type: ignore[override]  # mypy takes it for read-only
        return self.clips.skipped if self._skipped is None else self._skipped

    @property
    def origin(self) -> str:
        return self.clips.origin

    def num_samples(self, index: int) -> int:
        return self.clips.num_samples(self.indices[index])

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        return self.clips.read(self.indices[index], start, length)

    def stream(self, index: int) -> Stream:
        return self.clips.stream(self.indices[index])

    def path(self, index: int) -> pathlib.Path | None:
        return self.clips.path(self.indices[index])

    def files(self, index: int) -> list[pathlib.Path]:
        return self.clips.files(self.indices[index])

    def start_seconds(self, index: int) -> float:
        return self.clips.start_seconds(self.indices[index])

    def truncated(self, index: int) -> str:
        return self.clips.truncated(self.indices[index])

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.clips.read_with_sources(self.indices[index])

    def labelled(self) -> Clips:
        if self.labels is not None:
            return self
        labelled = self.clips.labelled()
        kept = set(self.names)
        return Subset(labelled, [i for i, name in enumerate(labelled.names) if name in kept])

    def stamp(self, index: int) -> str:
        return self.clips.stamp(self.indices[index])

    def key(self, index: int) -> str:
        return self.clips.key(self.indices[index])


class Joined(Clips):
    """The splits of a dataset, one after the other.

    Args:
        parts: clips by the name of their split, with the same classes at the same sample rate.
    """

    def __init__(self, parts: Mapping[str, Clips]):
        self.parts = list(parts.values())
        first = self.parts[0]
        self.names = [name for part in self.parts for name in part.names]
        self.sample_rate = first.sample_rate
        self.splits: list[str] = [split for split, part in parts.items() for _ in part.names]
        self.class_names = first.class_names
        if first.labels is not None:
            self.labels = np.concatenate([part.labels for part in self.parts])
        for name in ("folds", "subsets", "recordings"):
            values = [getattr(part, name) for part in self.parts]
            if all(value is not None for value in values):
                setattr(self, name, [item for value in values for item in value])
        self.in_order = any(part.in_order for part in self.parts)
        self.has_sources = all(part.has_sources for part in self.parts)
        self.allow_truncated = any(part.allow_truncated for part in self.parts)
        self._place = [(part, i) for part in self.parts for i in range(len(part))]

    @property
    def skipped(self) -> Sequence[Skipped]:  # type: ignore[override]  # mypy takes it for read-only
        return list(dict.fromkeys(entry for part in self.parts for entry in part.skipped))

    @property
    def origin(self) -> str:
        return "; ".join(dict.fromkeys(part.origin for part in self.parts))

    def num_samples(self, index: int) -> int:
        part, i = self._place[index]
        return part.num_samples(i)

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        part, i = self._place[index]
        return part.read(i, start, length)

    def stream(self, index: int) -> Stream:
        part, i = self._place[index]
        return part.stream(i)

    def path(self, index: int) -> pathlib.Path | None:
        part, i = self._place[index]
        return part.path(i)

    def files(self, index: int) -> list[pathlib.Path]:
        part, i = self._place[index]
        return part.files(i)

    def start_seconds(self, index: int) -> float:
        part, i = self._place[index]
        return part.start_seconds(i)

    def truncated(self, index: int) -> str:
        part, i = self._place[index]
        return part.truncated(i)

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        part, i = self._place[index]
        return part.read_with_sources(i)

    def labelled(self) -> Clips:
        if self.labels is not None:
            return self
        splits = dict.fromkeys(self.splits)
        return Joined(
            {split: part.labelled() for split, part in zip(splits, self.parts, strict=True)}
        )

    def stamp(self, index: int) -> str:
        part, i = self._place[index]
        return part.stamp(i)

    def key(self, index: int) -> str:
        part, i = self._place[index]
        return part.key(i)


class InMemory(Subset):
    """Clips that are made or decoded once and read several times.

    Args:
        clips: the source; all of it must fit into memory.
    """

    def __init__(self, clips: Clips):
        super().__init__(clips, range(len(clips)))
        self._whole = functools.cache(clips.read)

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        whole = self._whole(index)
        return whole[start : None if length is None else start + length]


def cut(waveform: np.ndarray, start: int, length: int | None, name: str) -> np.ndarray:
    """The part of a whole clip that `Clips.read` was asked for.

    Raises:
        InputError: if it begins after the end.
    """
    part = waveform[start : None if length is None else start + length]
    if not len(part):
        raise InputError(
            f"{name}: has only {len(waveform)} samples; expected an excerpt that starts before "
            f"sample {len(waveform)}, not at {start}"
        )
    return part


def report_skipped(skipped: Sequence[Skipped]) -> None:
    """Prints how many clips were skipped, and the reason for each."""
    if skipped:
        print(f"skipped {len(skipped)}:")
        for _, reason in skipped:
            print(f"  {printable(reason)}")


def report_truncated(truncated: Sequence[str]) -> None:
    """Prints how many recordings end early, and how much there is of each."""
    if truncated:
        print(f"truncated {len(truncated)}, of which only this could be read:")
        for line in truncated:
            print(f"  {printable(line)}")


def _take(values: Sequence[_Value] | None, indices: np.ndarray) -> list[_Value] | None:
    return None if values is None else [values[i] for i in indices]
