"""One scene: its sources, when and how loud they sound, and its ambience."""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from sepssl.data.scenes.ambience import Microphone, make_ambience
from sepssl.data.scenes.sources import CLASS_NAMES, MIN_SAMPLE_RATE, render_source
from sepssl.errors import InputError

# Which classes occur together (our choice). Every class occurs in at least one type of scene and
# most in several, so that neither predicts the other.
SCENE_TYPES: dict[str, tuple[str, ...]] = {
    "coast": ("bell", "car_horn", "crow", "helicopter", "waves", "whistle", "wind"),
    "concert": ("applause", "chords", "drums", "flute", "guitar", "laughter", "speech", "whistle"),
    "farm": ("bees", "cat_meow", "crow", "dog_bark", "engine", "frogs", "hammering", "rain"),
    "forest": ("bird_song", "crickets", "crow", "fire", "owl_hoot", "sawing", "stream", "wind"),
    "garden": ("bees", "bird_song", "dog_bark", "drips", "footsteps", "wind_chimes", "whistle"),
    "home": ("baby_cry", "cat_meow", "clock", "fire", "guitar", "laughter", "telephone", "vacuum"),
    "kitchen": ("beeps", "clock", "dishes", "drips", "speech", "steam", "chords", "knocking"),
    "office": ("beeps", "footsteps", "knocking", "speech", "telephone", "typing", "vacuum"),
    "pond": ("bees", "bird_song", "crickets", "frogs", "owl_hoot", "rain", "stream", "wind"),
    "street": ("car_horn", "car_pass", "dog_bark", "drill", "footsteps", "helicopter", "siren"),
    "town": ("applause", "baby_cry", "bell", "car_pass", "drums", "flute", "siren", "wind_chimes"),
    "workshop": ("beeps", "drill", "engine", "hammering", "sawing", "steam", "whistle"),
}

REFERENCE_RMS = 0.1  # active level of a source of gain 0 dB, full scale 1, before the common scale
PEAK_LIMIT = 0.98


@dataclass(frozen=True)
class SceneConfig:
    """What the scenes are like. Levels and probabilities are our choice.

    Attributes:
        sample_rate: Hz, an integer of at least 8000.
        duration: of a clip, seconds, at least 0.1.
        max_sources: rows of `Scene.sources`, at least 1 and at most the number of classes of the
            smallest scene type.
        source_count_probabilities: of 1, 2, ... sources in a clip; at most `max_sources` values
            that sum to 1. Some clips should have a single source: mixture invariant training
            hardly works if all mixtures have the same number.
        gain_range_db: (lowest, highest) gain of a source, drawn uniformly; see `Scene.gains_db`.
        ambience_range_db: (lowest, highest) RMS of the ambience over the clip, relative to that
            of the summed sources, drawn uniformly; None for scenes without ambience. See
            `ambience.py` for what it does to training.
        min_active_fraction: a source sounds for a fraction of the clip drawn uniformly between
            this one and 1, but for at least 0.5 s (or all of a shorter clip).

    Raises:
        InputError: if a value is outside the ranges above.
    """

    sample_rate: int = 16000
    duration: float = 5.0
    max_sources: int = 4
    source_count_probabilities: tuple[float, ...] = (0.2, 0.3, 0.3, 0.2)
    gain_range_db: tuple[float, float] = (-12.0, 6.0)
    ambience_range_db: tuple[float, float] | None = (-20.0, -5.0)
    min_active_fraction: float = 0.3

    def __post_init__(self):
        smallest = min(len(names) for names in SCENE_TYPES.values())
        probabilities = self.source_count_probabilities
        _require(
            self.sample_rate >= MIN_SAMPLE_RATE and self.sample_rate == int(self.sample_rate),
            f"sample_rate={self.sample_rate}: expected an integer >= {MIN_SAMPLE_RATE} Hz",
        )
        _require(
            0.1 <= self.duration < math.inf,
            f"duration={self.duration}: expected at least 0.1 seconds",
        )
        _require(
            1 <= self.max_sources <= smallest,
            f"max_sources={self.max_sources}: expected 1 to {smallest}, "
            "the number of classes of the smallest scene type",
        )
        _require(
            1 <= len(probabilities) <= self.max_sources
            and min(probabilities) >= 0
            and math.isclose(sum(probabilities), 1.0, abs_tol=1e-6),
            f"source_count_probabilities={probabilities}: expected 1 to "
            f"max_sources = {self.max_sources} values >= 0 that sum to 1",
        )
        _require_range("gain_range_db", self.gain_range_db)
        if self.ambience_range_db is not None:
            _require_range("ambience_range_db", self.ambience_range_db)
        _require(
            0 < self.min_active_fraction <= 1,
            f"min_active_fraction={self.min_active_fraction}: expected above 0 and at most 1",
        )

    @property
    def num_samples(self) -> int:
        """Samples of a clip."""
        return round(self.duration * self.sample_rate)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _require_range(name: str, bounds: tuple[float, float]) -> None:
    valid = len(bounds) == 2 and -math.inf < bounds[0] <= bounds[1] < math.inf
    _require(valid, f"{name}={bounds}: expected two finite numbers in dB, the lower first")


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip and everything known about it. `mixture == sources.sum(0) + ambience`.

    Attributes:
        mixture: float32 `[samples]`, peak below 1.
        sources: float32 `[max_sources, samples]`, as recorded (after the microphone); rows from
            `num_sources` on are 0.
        ambience: float32 `[samples]`, as recorded; 0 without ambience.
        labels: int8 `[classes]`, 1 for classes that occur, in the order of `CLASS_NAMES`.
        scene_type: key of `SCENE_TYPES`.
        class_names: of the sources present, in the order of `sources`; all different.
        gains_db: float `[num_sources]`, the active level (`active_rms`) of each source in dB,
            relative to that of a source of gain 0 in this clip.
        ambience_db: level of the ambience relative to the summed sources (RMS over the clip);
            None without ambience.
        sample_rate: Hz.
    """

    mixture: np.ndarray
    sources: np.ndarray
    ambience: np.ndarray
    labels: np.ndarray
    scene_type: str
    class_names: tuple[str, ...]
    gains_db: np.ndarray
    ambience_db: float | None
    sample_rate: int

    @property
    def num_sources(self) -> int:
        """Number of sources present."""
        return len(self.class_names)


def make_scene(config: SceneConfig, seed: int, split: str, index: int) -> Scene:
    """Makes clip number `index` of a split; equal arguments give equal clips.

    A pure function: any clip can be made at any time, in any order, in any thread. `split` may be
    any name; clips of different splits differ.

    Raises:
        InputError: if `seed` or `index` is negative.
    """
    rng, scene_type, class_names = _draw_cast(config, seed, split, index)
    count = len(class_names)
    gains_db = rng.uniform(*config.gain_range_db, count)

    microphone = Microphone.random(rng, config.sample_rate)
    sources = np.zeros((config.max_sources, config.num_samples), np.float32)
    for row, class_name in zip(sources, class_names, strict=False):
        start, length = _active_part(rng, config)
        row[start : start + length] = render_source(class_name, rng, length, config.sample_rate)
    sources[:count] = microphone.record(sources[:count], config.sample_rate)
    for row, gain_db in zip(sources, gains_db, strict=False):
        row *= REFERENCE_RMS * 10 ** (gain_db / 20) / active_rms(row, config.sample_rate)

    # Drawn last, so that scenes with and without ambience have the same sources.
    ambience, ambience_db = np.zeros(config.num_samples, np.float32), None
    if config.ambience_range_db is not None:
        ambience_db = rng.uniform(*config.ambience_range_db)
        noise = make_ambience(rng, config.num_samples, config.sample_rate)
        ambience = microphone.record(noise, config.sample_rate)
        ambience *= 10 ** (ambience_db / 20) * _rms(sources.sum(0)) / _rms(ambience)

    # One factor for everything, sources included: a source may be louder than the mixture.
    peak = max(np.abs(part).max() for part in (sources.sum(0) + ambience, sources, ambience))
    scale = np.float32(min(1.0, PEAK_LIMIT / peak))
    sources *= scale
    ambience *= scale

    return Scene(
        mixture=sources.sum(0) + ambience,
        sources=sources,
        ambience=ambience,
        labels=_labels(class_names),
        scene_type=scene_type,
        class_names=class_names,
        gains_db=gains_db,
        ambience_db=ambience_db,
        sample_rate=config.sample_rate,
    )


def scene_labels(config: SceneConfig, seed: int, split: str, index: int) -> np.ndarray:
    """`make_scene(...).labels`, int8 `[classes]`, without making the sound."""
    return _labels(_draw_cast(config, seed, split, index)[2])


def _draw_cast(config, seed, split, index) -> tuple[np.random.Generator, str, tuple[str, ...]]:
    _require(seed >= 0, f"seed={seed}: expected an integer >= 0")
    _require(index >= 0, f"index={index}: expected an integer >= 0")
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    scene_type = str(rng.choice(list(SCENE_TYPES)))
    probabilities = np.array(config.source_count_probabilities)
    count = 1 + int(rng.choice(len(probabilities), p=probabilities / probabilities.sum()))
    class_names = tuple(rng.choice(SCENE_TYPES[scene_type], count, replace=False).tolist())
    return rng, scene_type, class_names


def _labels(class_names: tuple[str, ...]) -> np.ndarray:
    labels = np.zeros(len(CLASS_NAMES), np.int8)
    labels[[CLASS_NAMES.index(name) for name in class_names]] = 1
    return labels


def active_rms(waveform: np.ndarray, sample_rate: float) -> float:
    """RMS of `waveform [samples]` over the 32 ms frames within 20 dB of the loudest (our choice).

    For a steady sound that is the RMS of the part that sounds; for drips or barks it is the
    level of the events, not of the silence between them.
    """
    frame = max(1, min(int(0.032 * sample_rate), len(waveform)))
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    power = np.einsum("fs,fs->f", frames, frames) / frame
    return float(np.sqrt(power[power >= 0.01 * power.max()].mean()))


def _active_part(rng: np.random.Generator, config: SceneConfig) -> tuple[int, int]:
    """(start, length) in samples of the part of the clip where a source sounds."""
    shortest = min(0.5, config.duration)
    seconds = max(shortest, config.duration * rng.uniform(config.min_active_fraction, 1))
    length = min(round(seconds * config.sample_rate), config.num_samples)
    return int(rng.integers(0, config.num_samples - length + 1)), length


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))
