"""The recording ambience of a clip: noise, hum and microphone, different in every clip.

Real recordings have one: two excerpts of a recording share the noise of the place, the hum of the
mains and the response of the microphone. A model trained to recognise that two excerpts of a
*mixture* belong together can rely on that alone and learn little about the sources; a separated
channel carries less of it.

How much this matters depends on the level of the ambience, an argument of `SceneConfig` that
results should state; `docs/ablation.md` has the measurements.

All ranges here are our choice.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from sepssl.data.scenes.synthesis import (
    harmonic_rolloff,
    log_uniform,
    oscillator,
    shaped_noise,
)


def make_ambience(rng: np.random.Generator, num_samples: int, sample_rate: float) -> np.ndarray:
    """Coloured noise, with mains hum in 6 of 10 clips, before the microphone.

    Returns:
        float32 `[num_samples]` with RMS 1.
    """
    ambience = coloured_noise(rng, num_samples, sample_rate)
    if rng.random() < 0.6:
        level_db = rng.uniform(-20, 0)
        ambience = ambience + 10 ** (level_db / 20) * mains_hum(rng, num_samples, sample_rate)
    return (ambience / np.sqrt(np.mean(np.square(ambience)))).astype(np.float32)


def coloured_noise(rng: np.random.Generator, num_samples: int, sample_rate: float) -> np.ndarray:
    """Stationary noise of RMS 1, with a slope of -9 to 0 dB per octave and one to three bumps.

    The slope starts at 60 Hz. A bump is a Gaussian over log frequency, a third of an octave to one
    octave wide and 3 to 15 dB high.
    """
    slope = rng.uniform(-9, 0)
    bumps = int(rng.integers(1, 4))
    centres = np.log2(log_uniform(rng, 100, 0.45 * sample_rate, bumps))
    widths = rng.uniform(0.33, 1.0, bumps)
    heights = rng.uniform(3, 15, bumps)

    def gain(frequencies):
        # On a grid of 256 points, since it is smooth, then interpolated.
        octaves = np.linspace(np.log2(60), np.log2(sample_rate / 2), 256)
        level_db = slope * (octaves - octaves[0])
        for centre, width, height in zip(centres, widths, heights, strict=True):
            level_db = level_db + height * np.exp(-0.5 * ((octaves - centre) / width) ** 2)
        return np.interp(frequencies, 2**octaves, 10 ** (level_db / 20))

    return shaped_noise(rng, num_samples, sample_rate, gain)


def mains_hum(rng: np.random.Generator, num_samples: int, sample_rate: float) -> np.ndarray:
    """Hum at 50 or 60 Hz (±0.1 %) with 20 harmonics of random strength, RMS 1."""
    mains = rng.choice([50.0, 60.0]) * rng.uniform(0.999, 1.001)
    amplitudes = harmonic_rolloff(20, rng.uniform(0.3, 1.5)) * rng.uniform(0, 1, 20)
    hum = oscillator(mains, amplitudes, num_samples, sample_rate)
    return hum / max(np.sqrt(np.mean(np.square(hum))), 1e-6)


@dataclass(frozen=True)
class Microphone:
    """A random smooth frequency response, applied to a whole recording.

    Attributes:
        corner_low: Hz, second-order roll-off below it.
        corner_high: Hz, second-order roll-off above it.
        knots_hz: `[knots]` frequencies of the equaliser curve, Hz.
        knots_db: `[knots]` its values there; interpolated linearly over log frequency.
    """

    corner_low: float
    corner_high: float
    knots_hz: np.ndarray
    knots_db: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, sample_rate: float) -> "Microphone":
        """Roll-offs at 30 to 250 Hz and 0.25 to 0.5 of the rate, 8 knots with sigma 3 dB."""
        return cls(
            corner_low=log_uniform(rng, 30, 250),
            corner_high=rng.uniform(0.25, 0.5) * sample_rate,
            knots_hz=np.geomspace(80, 0.5 * sample_rate, 8),
            knots_db=rng.normal(0, 3, 8),
        )

    def gain(self, frequencies: np.ndarray) -> np.ndarray:
        """Amplitude gain at `frequencies [bins]` in Hz."""
        grid = np.geomspace(10, self.knots_hz[-1], 256)
        curve_db = np.interp(np.log(grid), np.log(self.knots_hz), self.knots_db)
        rolloff = (1 + (self.corner_low / grid) ** 4) * (1 + (grid / self.corner_high) ** 4)
        return np.interp(frequencies, grid, 10 ** (curve_db / 20) / np.sqrt(rolloff))

    def record(self, waveforms: np.ndarray, sample_rate: float) -> np.ndarray:
        """Applies the response to `[..., samples]`, zero phase; float32 of the same shape."""
        # 50 ms of zeros, lest the response to the end of a clip wraps around to its beginning.
        samples = waveforms.shape[-1]
        size = fft.next_fast_len(samples + int(0.05 * sample_rate), real=True)
        gain = self.gain(fft.rfftfreq(size, 1 / sample_rate)).astype(np.float32)
        spectrum = fft.rfft(waveforms.astype(np.float32, copy=False), size)
        return fft.irfft(spectrum * gain, size)[..., :samples]
