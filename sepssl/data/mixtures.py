"""Scenes mixed from recordings of isolated sounds, with their true sources."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import soxr
from scipy import fft

from sepssl.audio.files import audio_info, played_rate, read_audio
from sepssl.data.clips import Clips, InMemory, Joined, Skipped, Subset, cut
from sepssl.data.labels import NoLabels
from sepssl.data.read_ahead import read_ahead
from sepssl.data.scenes.ambience import Microphone
from sepssl.data.scenes.scene import PEAK_LIMIT, REFERENCE_RMS, active_rms
from sepssl.data.splits import assigned_splits
from sepssl.errors import InputError
from sepssl.progress import Progress

T = TypeVar("T")

# Our choice, all of these.
FRAME_SECONDS = 0.032
LOUD = 1e-2  # share of the loudest frame's power: a part is drawn around a frame as loud
PAUSE = 1e-4  # the same: no background is cut from where no frame is as loud
HEARD = 1e-6  # the same: a sound begins and ends with a frame as loud
FADE_SECONDS = 0.01  # at the ends of a part
AUDIBLE = 0.5  # share of its RMS that a sound has to keep in the band to be played faster
DIRECT_SECONDS = 0.001  # of a room response, kept before its highest peak


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """What mixed scenes are like. The defaults are our choice.

    Attributes:
        sample_rate: in Hz.
        duration: of a scene, in seconds, at least 0.1.
        source_count_probabilities: of 1, 2, ... sources in a scene, 0 or more, with the sum 1.
        part_seconds: (shortest, longest) part of a sound that is heard, at least 0.1 and drawn
            uniformly; at most the scene, and at most the sound without the silence around it.
        level_range_db: (lowest, highest) active level of a source (`active_rms`), in dB, drawn
            uniformly. 0 dB is 0.1 of full scale, before a scene that would clip is turned down.
        speed_range: (slowest, fastest) speed that a sound is played at, 0.1 to 10: at 2, in half
            the time and an octave higher. Its logarithm is drawn uniformly. A sound that would
            lose more than 6 dB above the band is played as recorded. (1, 1): so are all.
        groups: number of groups of classes, drawn from the seed; the classes of a scene are all of
            one group. 0: any classes occur together.
        group_size: classes in a group, at least as many as a scene has sources.
        backgrounds: labels whose sounds are heard from beginning to end, and nothing else is. Each
            scene has one of them, which counts as one of its sources. () for none.
        background_range_db: (lowest, highest) level of such a source, as `level_range_db`.
        rooms: a folder of room responses; each scene is heard in one of them. "" for none.
        microphone: whether each scene passes through a random smooth frequency response, that of
            the built-in scenes.

    Raises:
        InputError: if a value is outside of these ranges.
    """

    sample_rate: int = 16000
    duration: float = 4.0
    source_count_probabilities: tuple[float, ...] = (0.2, 0.3, 0.3, 0.2)
    part_seconds: tuple[float, float] = (1.0, 4.0)
    level_range_db: tuple[float, float] = (-12.0, 6.0)
    # Not in the text that `MixtureClips.origin` has: scenes as recorded are what they always were.
    speed_range: tuple[float, float] = dataclasses.field(default=(1.0, 1.0), repr=False)
    groups: int = 0
    group_size: int = 8
    backgrounds: tuple[str, ...] = ()
    background_range_db: tuple[float, float] = (-12.0, 0.0)
    rooms: str = ""
    microphone: bool = False

    def __post_init__(self):
        probabilities = self.source_count_probabilities
        if not 0.1 <= self.duration < math.inf:
            raise InputError(f"duration {self.duration}: expected at least 0.1 seconds")
        if not (
            probabilities
            and min(probabilities) >= 0
            and math.isclose(sum(probabilities), 1.0, abs_tol=1e-6)
        ):
            raise InputError(
                f"source_count_probabilities {probabilities}: expected values of 0 or more with "
                "the sum 1"
            )
        for name, lowest in (
            ("part_seconds", 0.1),
            ("level_range_db", -200.0),
            ("background_range_db", -200.0),
        ):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not lowest <= bounds[0] <= bounds[1] < math.inf:
                raise InputError(
                    f"{name} {bounds}: expected two numbers of {lowest:g} or more, the lower first"
                )
        if len(self.speed_range) != 2 or not (
            0.1 <= self.speed_range[0] <= self.speed_range[1] <= 10
        ):
            raise InputError(
                f"speed_range {self.speed_range}: expected two numbers from 0.1 to 10, the lower "
                "first"
            )
        if self.groups < 0:
            raise InputError(f"groups {self.groups}: expected 0 or more")
        if self.groups and self.group_size < len(probabilities):
            raise InputError(
                f"group_size {self.group_size}: expected at least the {len(probabilities)} sources "
                "that a scene may have"
            )

    @property
    def as_recorded(self) -> bool:
        """Whether all sounds are played at the speed of their recordings."""
        return tuple(self.speed_range) == (1, 1)

    @property
    def num_samples(self) -> int:
        """Samples of a scene."""
        return round(self.duration * self.sample_rate)


@dataclasses.dataclass(frozen=True)
class Mixtures:
    """Which scenes the string "mix:FOLDER" refers to.

    A recording is used in one split only: that of its folder's split or fold column or, without
    either, one drawn by a hash of its name; see `assigned_splits`.

    Attributes:
        counts: number of scenes by the name of their split: "train", "validation", "test".
        seed: of the scenes, 0 or more.
        config: what they are like, except that its sample rate is ignored.
        test_fold: the fold that is for testing, "" for the last; the one before it validates.
        folds: names of the folds used for a split, instead of those that it would have.
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"test": 100})
    seed: int = 0
    config: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
    test_fold: str = ""
    folds: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def open(self, sounds: Clips, title: str, rooms: Clips | None = None) -> Clips:
        """The scenes made of some recordings.

        Args:
            sounds: the recordings, each of one sound, labelled if their labels are known.
            title: of the recordings, for errors.
            rooms: the room responses, if `config.rooms` names any.

        Raises:
            InputError: if there is no such fold, label or recording.
        """
        config = dataclasses.replace(self.config, sample_rate=sounds.sample_rate)
        kinds = _kinds(sounds)
        groups = _groups(config, self.seed, sounds, kinds, title)
        assigned = self.assigned(sounds, title)
        parts = {}
        for split, count in self.counts.items():
            used = np.flatnonzero(assigned == split)
            if not len(used):
                raise InputError(
                    f"{title}: none of {len(sounds)} recordings falls into the {split} split; "
                    "expected more recordings, or folds that are there"
                )
            parts[split] = MixtureClips(
                Subset(sounds, used),
                [kinds[i] for i in used.tolist()],
                config,
                self.seed,
                split,
                count,
                groups,
                None if rooms is None else _rooms_of(rooms, split),
            )
        return next(iter(parts.values())) if len(parts) == 1 else Joined(parts)

    def assigned(self, sounds: Clips, title: str) -> np.ndarray:
        """The split whose scenes each recording is mixed into, "" for none: str [recordings].

        Args:
            sounds: the recordings.
            title: of the recordings, for errors.

        Raises:
            InputError: if there is no such fold.
        """
        if not set(self.counts) <= set(self.folds):
            assigned = assigned_splits(sounds, self.test_fold)
        else:
            assigned = np.full(len(sounds), "", dtype=object)
        if not self.folds:
            return assigned
        if sounds.folds is None:
            raise InputError(f"{title}: has no folds; expected a column fold")
        there = np.array(sounds.folds, dtype=object)
        chosen = [fold for folds in self.folds.values() for fold in folds]
        for fold in chosen:
            if fold not in there:
                known = ", ".join(sorted(set(sounds.folds) - {""}))
                raise InputError(f"{title}: has no fold {fold!r}; expected some of {known}")
            if chosen.count(fold) > 1:
                raise InputError(f"{title}: fold {fold!r} is named twice; expected it in one split")
        for split, folds in self.folds.items():
            assigned[assigned == split] = ""
            assigned[np.isin(there, folds)] = split
        return assigned


class MixedScene(NamedTuple):
    """A scene with all that is known about it.

    Attributes:
        mixture: float32 [samples], the sum of the sources.
        sources: float32 [count, samples], as they are in the mixture.
        names: of the recordings, one per source.
        starts: of the part heard, in its recording, in seconds; one per source.
        onsets: of that part in the scene, in seconds; one per source.
        levels_db: one per source; see `MixtureConfig.level_range_db`.
        speeds: one per source; see `MixtureConfig.speed_range`.
        background: whether the first source is one that is heard throughout.
        room: name of the room response; "" for none.
    """

    mixture: np.ndarray
    sources: np.ndarray
    names: list[str]
    starts: list[float]
    onsets: list[float]
    levels_db: list[float]
    speeds: list[float]
    background: bool
    room: str


class MixtureClips(Clips):
    """`count` mixed scenes of one split; each is a pure function of the seed and its number.

    The sources of a scene have no label in common; of unlabelled sounds, they are different
    recordings. Classes, or combinations of labels, are drawn first, then a recording of each. One
    that cannot be read, or is silent, is listed as skipped, and the next one of its class is heard
    in its place; without any, another class is, if there is one.

    Args:
        sounds: the recordings to mix.
        kinds: the labels of each, or a single name that stands for them.
        config: what the scenes are like, at the sample rate of the recordings.
        seed: 0 or more.
        split: name of the split.
        count: number of scenes.
        groups: kinds that occur together; () if any do.
        rooms: room responses; None for none.

    Raises:
        InputError: if no recording remains beside those for backgrounds, or the other way round.
    """

    has_sources = True

    def __init__(
        self,
        sounds: Clips,
        kinds: Sequence[frozenset[str]],
        config: MixtureConfig,
        seed: int,
        split: str,
        count: int,
        groups: Sequence[Sequence[frozenset[str]]] = (),
        rooms: Clips | None = None,
    ):
        if seed < 0:
            raise InputError(f"seed {seed}: expected 0 or more")
        self.sounds = sounds
        self.rooms = None if rooms is None else InMemory(rooms)
        self.config = config
        self.seed = seed
        self.split = split
        self.names = [f"mix/{split}/{seed}/{index:06d}" for index in range(count)]
        self.splits = [split] * count
        self._problems: dict[int, Skipped | None] = {}  # of sounds that were read; None if usable
        self._all_checked = False
        self.sample_rate = config.sample_rate
        self.class_names = sounds.class_names
        self._kinds = kinds
        self._members: dict[frozenset[str], list[int]] = {}
        for index, kind in enumerate(kinds):
            self._members.setdefault(kind, []).append(index)
        there = sorted(self._members, key=sorted)
        self._background = [kind for kind in there if not kind.isdisjoint(config.backgrounds)]
        foreground = [kind for kind in there if kind.isdisjoint(config.backgrounds)]
        chosen = [[kind for kind in foreground if kind in group] for group in groups]
        self._groups = [group for group in chosen if group] or [foreground]
        if not foreground or bool(config.backgrounds) != bool(self._background):
            raise InputError(
                f"backgrounds {', '.join(config.backgrounds)}: {len(foreground)} classes remain "
                f"beside {len(self._background)} of backgrounds in the {split} split; expected "
                "some of each"
            )

    @property
    def skipped(self) -> Sequence[Skipped]:  # type: ignore[override]  # mypy takes it for read-only
        problems = sorted(self._problems.copy().items())
        return [*self.sounds.skipped, *(problem for _, problem in problems if problem)]

    @functools.cached_property
    def origin(self) -> str:
        parts = [json.dumps(sorted(kind)) for kind in self._kinds]
        groups = [[sorted(kind) for kind in group] for group in self._groups]
        drawn_from = json.dumps([list(self.sounds.names), parts, groups])
        if self.rooms is not None:
            keys = [self.rooms.key(i) for i in range(len(self.rooms))]
            drawn_from += json.dumps([list(self.rooms.names), keys])
        digest = hashlib.sha256(drawn_from.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        origin = f"mixed from {self.sounds.origin}, {digest}, {self.config!r}"
        if self.config.backgrounds:
            origin += ", backgrounds that are heard"  # earlier versions cut them from pauses, too
        if not self.config.as_recorded:
            origin += f", at speeds of {tuple(self.config.speed_range)}"
        return origin

    def _draw(self, index: int) -> tuple[np.random.Generator, list[int], bool]:
        """The recordings of a scene, and whether the first is a background.

        Recordings that were not read before are taken to be usable.
        """
        rng = np.random.default_rng([self.seed, zlib.crc32(self.split.encode()), index])
        probabilities = np.array(self.config.source_count_probabilities)
        count = 1 + int(rng.choice(len(probabilities), p=probabilities / probabilities.sum()))
        group = self._groups[int(rng.integers(len(self._groups)))]
        order = [group[i] for i in rng.permutation(len(group)).tolist()]
        used: set[str] = set()
        chosen: list[int] = []

        def choose(kinds: Sequence[frozenset[str]], most: int) -> None:
            for kind in kinds:
                if len(chosen) < most and used.isdisjoint(kind):
                    members = _from(self._members[kind], rng)
                    sound = next((i for i in members if not self._problems.get(i)), None)
                    if sound is not None:
                        chosen.append(sound)
                        used.update(kind)

        if self._background:
            choose(_from(self._background, rng), 1)
        has_background = bool(chosen)
        choose(order, count)
        return rng, chosen, has_background

    def _read_sound(self, sound: int) -> np.ndarray | None:
        """A recording; None if it cannot be used, which is remembered.

        Raises:
            InputError: if it cannot be used, and labels already depend on what can.
        """
        try:
            waveform = self.sounds.read(sound)
        except InputError as error:
            if self._all_checked:
                raise
            self._problems[sound] = Skipped(self.sounds.names[sound], str(error))
            return None
        self._problems[sound] = None
        return waveform

    def _checked_draw(self, index: int) -> list[int]:
        """The recordings of a scene, when all that the scenes are made of have been read once."""
        while not self._all_checked:
            drawn = {sound for i in range(len(self)) for sound in self._draw(i)[1]}
            unknown = sorted(drawn - self._problems.keys())
            with Progress("checking sounds", len(unknown), "sound") as progress:
                for _ in read_ahead(self._read_sound, unknown, os.cpu_count() or 1):
                    progress.update()
            self._all_checked = not unknown
        return self._draw(index)[1]

    def _played(
        self, rng: np.random.Generator, sound: int, recorded: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """A recording at a drawn speed, and that speed; see `MixtureConfig.speed_range`."""
        if self.config.as_recorded:
            return recorded, 1.0  # draws nothing: scenes stay what they were without speeds
        speed = float(np.exp(rng.uniform(*np.log(self.config.speed_range))))
        rate, waveform = self.sample_rate, recorded
        path = self.sounds.path(sound)
        if speed < 1 and path is not None:
            before, truncated = self.sounds.speed, self.sounds.allow_truncated
            own_rate = played_rate(audio_info(path, truncated).sample_rate, before, str(path))
            if own_rate > rate:  # what lies above the band comes down into it
                start = self.sounds.start_seconds(sound)
                seconds = len(recorded) / rate * before
                waveform = read_audio(
                    path, None, start, seconds, allow_truncated=truncated, speed=before
                )
                rate = own_rate
        played = soxr.resample(waveform, rate * speed, self.sample_rate, quality="HQ")
        if not len(played) or np.std(played) < AUDIBLE * np.std(recorded):
            return recorded, 1.0
        return played, speed

    def scene(self, index: int) -> MixedScene:
        """A scene with its true sources.

        Raises:
            InputError: if none of its classes has a usable recording, one can no longer be read, or
                the room response cannot be read.
        """
        while True:  # until all that are drawn are usable
            rng, chosen, has_background = self._draw(index)
            waveforms = [w for w in map(self._read_sound, chosen) if w is not None]
            if len(waveforms) == len(chosen):
                break
        if not chosen:
            raise InputError(
                f"{self.names[index]}: has no usable recording; the first: "
                f"{self.skipped[len(self.sounds.skipped)].reason}"
            )
        config, rate = self.config, self.sample_rate
        sources = np.zeros((len(chosen), config.num_samples), np.float32)
        starts, onsets, levels, speeds = [], [], [], []
        for number, (row, sound, recorded) in enumerate(
            zip(sources, chosen, waveforms, strict=True)
        ):
            waveform, speed = self._played(rng, sound, recorded)
            if number == 0 and has_background:
                start, onset = _spread(rng, waveform, row, rate), 0
                levels.append(rng.uniform(*config.background_range_db))
            else:
                start, onset = _place(rng, waveform, row, config.part_seconds, rate)
                levels.append(rng.uniform(*config.level_range_db))
            starts.append(start * speed / rate)
            onsets.append(onset / rate)
            speeds.append(speed)
        room, response = "", None
        if self.rooms is not None:
            place = int(rng.integers(len(self.rooms)))
            room, response = self.rooms.names[place], self.rooms.read(place)
        microphone = Microphone.random(rng, rate) if config.microphone else None
        sources = _as_recorded(sources, response, microphone, rate)
        for row, level in zip(sources, levels, strict=True):
            row *= REFERENCE_RMS * 10 ** (level / 20) / max(active_rms(row, rate), 1e-9)
        # One factor for everything, sources included: a part may be louder than the whole.
        peak = max(np.abs(sources.sum(0)).max(), np.abs(sources).max())
        sources *= np.float32(min(1.0, PEAK_LIMIT / peak))
        names = [self.sounds.names[i] for i in chosen]
        return MixedScene(
            sources.sum(0), sources, names, starts, onsets, levels, speeds, has_background, room
        )

    def num_samples(self, index: int) -> int:
        return self.config.num_samples

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        return cut(self.scene(index).mixture, start, length, self.names[index])

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self.scene(index)
        return scene.mixture, scene.sources

    @functools.cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]  # mypy takes it for read-only
        """int8 [scenes, classes], without making the scenes; None if the sounds have no labels."""
        known = self.sounds.labels
        if known is None:
            return None
        rows = [
            known[self._checked_draw(index)].max(axis=0, initial=0) for index in range(len(self))
        ]
        return np.stack(rows) if rows else np.zeros((0, known.shape[1]), np.int8)

    def labelled(self) -> Clips:
        if self.labels is None:
            raise NoLabels(f"{self.sounds.origin}: the sounds have no labels; expected some")
        return self

    def stamp(self, index: int) -> str:
        return " ".join(self.sounds.stamp(i) for i in self._checked_draw(index))

    def key(self, index: int) -> str:
        return " ".join(self.sounds.key(i) for i in self._checked_draw(index))


def _from(values: Sequence[T], rng: np.random.Generator) -> list[T]:
    """All of the values, in their order from a random one on."""
    first = int(rng.integers(len(values)))
    return [*values[first:], *values[:first]]


def _kinds(sounds: Clips) -> list[frozenset[str]]:
    """What a recording is, so that no two sources of a scene are the same.

    Its labels; without any, the recording that it is a part of.
    """
    recordings = sounds.names if sounds.recordings is None else sounds.recordings
    if sounds.labels is None or sounds.class_names is None:
        return [frozenset([name]) for name in recordings]
    classes = np.array(sounds.class_names, dtype=object)
    rows = [frozenset(classes[np.flatnonzero(row)].tolist()) for row in sounds.labels]
    return [kind or frozenset([name]) for kind, name in zip(rows, recordings, strict=True)]


def _groups(
    config: MixtureConfig, seed: int, sounds: Clips, kinds: Sequence[frozenset[str]], title: str
) -> list[list[frozenset[str]]]:
    """Drawn groups of kinds, the same in all splits; every kind is in one if they have room."""
    for label in config.backgrounds:
        if label not in (sounds.class_names or ()):
            raise InputError(f"{title}: no recording has the label {label!r} (backgrounds)")
    if not config.groups:
        return []
    if sounds.labels is None:
        raise InputError(f"{title}: has no labels; expected some, to draw groups of classes")
    rng = np.random.default_rng([seed, 6])
    there = sorted({kind for kind in kinds if kind.isdisjoint(config.backgrounds)}, key=sorted)
    groups, uses = [], np.zeros(len(there), int)
    for _ in range(config.groups):
        # Those in the fewest groups so far, in random order.
        chosen = np.lexsort((rng.random(len(there)), uses))[: config.group_size]
        uses[chosen] += 1
        groups.append([there[i] for i in chosen.tolist()])
    return groups


def _rooms_of(rooms: Clips, split: str) -> Clips:
    """The room responses of a split; all of them if there are too few for each split."""
    assigned = assigned_splits(rooms)
    used = np.flatnonzero(assigned == split)
    return Subset(rooms, used if len(used) else range(len(rooms)))


def _place(
    rng: np.random.Generator,
    waveform: np.ndarray,
    row: np.ndarray,
    part_seconds: tuple[float, float],
    rate: int,
) -> tuple[int, int]:
    """Writes a part of a sound into a source of zeros; returns where it starts in either.

    The part is drawn around one of the loud frames, so that something is heard in it.
    """
    frame, power = _powers(waveform, rate)
    heard = np.flatnonzero(power >= HEARD * power.max())
    first, last = int(heard[0]) * frame, int(heard[-1] + 1) * frame
    wanted = round(rng.uniform(*part_seconds) * rate)
    length = min(max(wanted, frame), len(row), last - first)
    loud = int(rng.choice(np.flatnonzero(power >= LOUD * power.max()))) * frame
    lowest, highest = max(first, loud + frame - length), min(loud, last - length)
    start = int(rng.integers(min(lowest, highest), highest + 1))
    part = waveform[start : start + length].copy()
    fade = min(round(FADE_SECONDS * rate), length // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
        part[:fade] *= ramp
        part[-fade:] *= ramp[::-1]
    onset = int(rng.integers(len(row) - length + 1))
    row[onset : onset + length] = part
    return start, onset


def _powers(waveform: np.ndarray, rate: int) -> tuple[int, np.ndarray]:
    """The samples of a frame, and the power of each frame."""
    frame = max(1, min(round(FRAME_SECONDS * rate), len(waveform)))
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    return frame, np.einsum("fs,fs->f", frames, frames)


def _spread(rng: np.random.Generator, waveform: np.ndarray, row: np.ndarray, rate: int) -> int:
    """Fills a source with a part of a sound, repeated if it is too short; returns the start.

    One that would fall into a pause is cut around a loud frame instead.
    """
    last = max(len(waveform) - len(row), 0)
    start = int(rng.integers(last + 1))
    frame, power = _powers(waveform, rate)
    heard = np.flatnonzero(power >= PAUSE * power.max()) * frame
    if not np.any((heard >= start) & (heard + frame <= start + len(row))):
        loud = np.flatnonzero(power >= LOUD * power.max()) * frame
        start = min(max(int(rng.choice(loud)) - len(row) // 2, 0), last)
    row[:] = np.resize(waveform[start : start + len(row)], len(row))
    return start


def _as_recorded(
    sources: np.ndarray, response: np.ndarray | None, microphone: Microphone | None, rate: int
) -> np.ndarray:
    """The sources in a room, without the delay of the direct sound, through a microphone."""
    if response is None and microphone is None:
        return sources
    samples = sources.shape[-1]
    if response is None:
        response = np.ones(1, np.float32)
    direct = max(int(np.argmax(np.abs(response))) - round(DIRECT_SECONDS * rate), 0)
    response = response[direct : direct + samples]
    # 50 ms of zeros keep a microphone's response to the end of a scene out of its beginning.
    size = fft.next_fast_len(samples + len(response) + round(0.05 * rate), real=True)
    gain = fft.rfft(response, size)
    if microphone is not None:
        gain *= microphone.gain(fft.rfftfreq(size, 1 / rate))
    return fft.irfft(fft.rfft(sources, size) * gain.astype(np.complex64), size)[:, :samples]
