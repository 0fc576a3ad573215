"""The source classes of the built-in scenes, and how one isolated source is rendered.

A class is a function `name(rng, num_samples, sample_rate) -> float32 [num_samples]` with peak 1
in one of `tonal.py`, `vocal.py`, `noisy.py`, `impulsive.py`. It draws its parameters (pitch,
rate, timbre, envelope) from `rng`, so that two draws differ as two recordings of the same kind of
sound do. All classes and parameter ranges are our choice: nothing here is fitted to recordings.
"""

from collections.abc import Callable

import numpy as np
from scipy import fft

from sepssl.data.scenes import impulsive, noisy, tonal, vocal
from sepssl.data.scenes.synthesis import log_uniform, unit_peak
from sepssl.errors import InputError

MIN_SAMPLE_RATE = 8000  # Hz; below it some classes would lose all their partials

SourceFunction = Callable[[np.random.Generator, int, int], np.ndarray]

# Class name -> function, in alphabetical order, which gives the label index: another class changes
# the labels of stored datasets, so the version of the TFDS builder must change with it.
SOURCE_CLASSES: dict[str, SourceFunction] = {
    "applause": noisy.applause,
    "baby_cry": vocal.baby_cry,
    "beeps": tonal.beeps,
    "bees": vocal.bees,
    "bell": tonal.bell,
    "bird_song": vocal.bird_song,
    "car_horn": tonal.car_horn,
    "car_pass": noisy.car_pass,
    "cat_meow": vocal.cat_meow,
    "chords": tonal.chords,
    "clock": impulsive.clock,
    "crickets": vocal.crickets,
    "crow": vocal.crow,
    "dishes": impulsive.dishes,
    "dog_bark": vocal.dog_bark,
    "drill": noisy.drill,
    "drips": impulsive.drips,
    "drums": impulsive.drums,
    "engine": noisy.engine,
    "fire": noisy.fire,
    "flute": tonal.flute,
    "footsteps": impulsive.footsteps,
    "frogs": vocal.frogs,
    "guitar": tonal.guitar,
    "hammering": impulsive.hammering,
    "helicopter": noisy.helicopter,
    "knocking": impulsive.knocking,
    "laughter": vocal.laughter,
    "owl_hoot": vocal.owl_hoot,
    "rain": noisy.rain,
    "sawing": noisy.sawing,
    "siren": tonal.siren,
    "speech": vocal.speech,
    "steam": noisy.steam,
    "stream": noisy.stream,
    "telephone": tonal.telephone,
    "typing": impulsive.typing,
    "vacuum": noisy.vacuum,
    "waves": noisy.waves,
    "whistle": tonal.whistle,
    "wind": noisy.wind,
    "wind_chimes": tonal.wind_chimes,
}

CLASS_NAMES: tuple[str, ...] = tuple(SOURCE_CLASSES)


def render_source(
    class_name: str, rng: np.random.Generator, num_samples: int, sample_rate: int
) -> np.ndarray:
    """One isolated source: a sound of a class, with a random spectral tilt and room.

    Args:
        class_name: a key of `SOURCE_CLASSES`.
        num_samples: length, at least 0.1 s.
        sample_rate: Hz, at least 8000.

    Returns:
        float32 `[num_samples]`, peak 1, faded in and out over 5 ms.

    Raises:
        InputError: if the class is unknown, or the length or sample rate out of range.
    """
    if class_name not in SOURCE_CLASSES:
        raise InputError(
            f"source class {class_name!r} is unknown; expected one of {', '.join(CLASS_NAMES)}"
        )
    if sample_rate < MIN_SAMPLE_RATE:
        raise InputError(f"sample_rate={sample_rate}: expected at least {MIN_SAMPLE_RATE} Hz")
    if num_samples < 0.1 * sample_rate:
        raise InputError(
            f"num_samples={num_samples}: expected at least {0.1 * sample_rate:.0f}, 0.1 s"
        )
    dry = SOURCE_CLASSES[class_name](rng, num_samples, sample_rate)
    wet = place_in_room(rng, dry, sample_rate)
    ramp = np.arange(1, num_samples + 1, dtype=np.float32) / np.float32(0.005 * sample_rate)
    return unit_peak(wet * np.minimum(1, np.minimum(ramp, ramp[::-1])))


def place_in_room(rng: np.random.Generator, waveform: np.ndarray, sample_rate: float) -> np.ndarray:
    """Random spectral tilt and light reverberation `[samples] -> [samples]` (our choice).

    Tilt: -3 to 3 dB per octave around 1 kHz, limited to ±9 dB. Room: noise that decays by 60 dB in
    0.05 to 0.5 s, 6 to 25 dB below the direct sound.
    """
    reverberation_time = log_uniform(rng, 0.05, 0.5)
    tail = int(min(reverberation_time, len(waveform) / sample_rate) * sample_rate)
    room = rng.standard_normal(tail, dtype=np.float32)
    room *= np.exp(np.linspace(0, -6.9, tail, dtype=np.float32))
    room *= 10 ** (-rng.uniform(6, 25) / 20) / np.maximum(np.linalg.norm(room), 1e-6)
    room[0] = 1.0  # the direct sound

    size = fft.next_fast_len(len(waveform) + tail, real=True)
    octaves = np.log2(np.maximum(fft.rfftfreq(size, 1e-3 / sample_rate), 1e-2), dtype=np.float32)
    tilt_db = np.clip(np.float32(rng.uniform(-3, 3)) * octaves, -9, 9)
    response = fft.rfft(room, size) * np.exp(tilt_db * np.float32(np.log(10) / 20))
    return fft.irfft(fft.rfft(waveform, size) * response, size)[: len(waveform)]
