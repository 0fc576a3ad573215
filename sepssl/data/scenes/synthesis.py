"""Building blocks of the procedural sources: oscillators, resonators, noise, events, envelopes.

Every function is pure; a random one takes a `numpy.random.Generator` as its first argument.
Waveforms and control curves are arrays `[num_samples]`; frequencies are in Hz, times in seconds,
positions in samples.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

TABLE_SIZE = (
    8192  # one period of a wavetable; the error of nearest-neighbour look-up is below -70 dB
)


def log_uniform(rng: np.random.Generator, low: float, high: float, size: int | None = None) -> Any:
    """Draws log-uniformly from [low, high), both positive."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def unit_peak(waveform: np.ndarray) -> np.ndarray:
    """Scales to peak 1 as float32; silence stays silence."""
    peak = np.max(np.abs(waveform), initial=0.0)
    return (waveform / peak if peak > 0 else waveform).astype(np.float32)


# Tones and resonances.


def oscillator(
    frequency: npt.ArrayLike, amplitudes: npt.ArrayLike, num_samples: int, sample_rate: float
) -> np.ndarray:
    """Harmonic tone from a wavetable: the cost does not depend on the number of harmonics.

    Args:
        frequency: fundamental, a number or `[num_samples]`; cut at 0.45 of the sample rate.
        amplitudes: of harmonics 1, 2, ...; harmonics that would pass the Nyquist frequency
            anywhere are left out.
    """
    frequency = np.minimum(frequency, 0.45 * sample_rate)
    in_band = int(0.5 * sample_rate / np.max(frequency))
    amplitudes = np.asarray(amplitudes, np.float64)[:in_band]
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, np.complex128)
    spectrum[1 : 1 + len(amplitudes)] = -0.5j * TABLE_SIZE * amplitudes
    table = fft.irfft(spectrum).astype(np.float32)
    cycles = np.cumsum(np.broadcast_to(frequency, num_samples) / sample_rate)
    return table[(cycles * TABLE_SIZE).astype(np.int64) & (TABLE_SIZE - 1)]


def harmonic_rolloff(count: int, slope: float, odd_only: bool = False) -> np.ndarray:
    """Amplitudes `k ** -slope` of harmonics 1..count, the even ones optionally 0."""
    number = np.arange(1, count + 1)
    return np.where(odd_only & (number % 2 == 0), 0.0, number**-slope)


def resonator(
    waveform: np.ndarray, frequency: float, bandwidth: float, sample_rate: float
) -> np.ndarray:
    """Two-pole band-pass of unit gain at `frequency`; zero where that is above Nyquist."""
    if frequency >= 0.48 * sample_rate:
        return np.zeros_like(waveform)
    radius = np.exp(-np.pi * bandwidth / sample_rate)
    angle = 2 * np.pi * frequency / sample_rate
    gain = 0.5 * (1 - radius**2)
    return signal.lfilter(
        [gain, 0.0, -gain], [1.0, -2 * radius * np.cos(angle), radius**2], waveform
    )


def ring(
    excitation: np.ndarray,
    frequencies: Iterable[float],
    decays: Iterable[float],
    amplitudes: Iterable[float],
    sample_rate: float,
) -> np.ndarray:
    """Sum of decaying sinusoids started by the impulses of `excitation [num_samples]`.

    Mode i has `frequencies[i]`, falls by 1/e in `decays[i]` seconds and starts at
    `amplitudes[i]`; modes above the Nyquist frequency are silent.
    """
    output = np.zeros(len(excitation))
    for frequency, decay, amplitude in zip(frequencies, decays, amplitudes, strict=True):
        if frequency < 0.48 * sample_rate:
            radius = np.exp(-1.0 / (decay * sample_rate))
            angle = 2 * np.pi * frequency / sample_rate
            numerator = [0.0, amplitude * radius * np.sin(angle)]
            denominator = [1.0, -2 * radius * np.cos(angle), radius**2]
            output += signal.lfilter(numerator, denominator, excitation)
    return output


# Noise and filters.


def white_noise(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Gaussian noise of unit variance, float32."""
    return rng.standard_normal(num_samples, dtype=np.float32)


def shaped_noise(
    rng: np.random.Generator,
    num_samples: int,
    sample_rate: float,
    gain: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Gaussian noise with amplitude spectrum `gain(frequencies [bins]) -> [bins]`, unit RMS."""
    size = fft.next_fast_len(num_samples, real=True)
    amplitude = gain(fft.rfftfreq(size, 1 / sample_rate)).astype(np.float32)
    parts = rng.standard_normal(2 * len(amplitude), dtype=np.float32)
    waveform = fft.irfft(parts.view(np.complex64) * amplitude, size)[:num_samples]
    return waveform / max(np.sqrt(np.mean(np.square(waveform))), 1e-12)


def band_noise(
    rng: np.random.Generator, num_samples: int, sample_rate: float, low: float, high: float
) -> np.ndarray:
    """Noise between `low` and `high` Hz with second-order slopes, unit RMS."""
    high = min(high, 0.45 * sample_rate)
    low = min(low, 0.5 * high)

    def gain(frequencies):
        # Butterworth amplitudes; the square root of their product costs one pass.
        frequencies = np.maximum(frequencies, 1.0).astype(np.float32)
        return 1 / np.sqrt((1 + (low / frequencies) ** 4) * (1 + (frequencies / high) ** 4))

    return shaped_noise(rng, num_samples, sample_rate, gain)


def smooth(values: np.ndarray, time_constant: float, sample_rate: float) -> np.ndarray:
    """One-pole low-pass, which follows 1 - 1/e of a step within `time_constant` seconds."""
    pole = np.exp(-1.0 / (time_constant * sample_rate))
    start = [pole * values[0]]  # begins settled, without a rise from 0
    return signal.lfilter([1 - pole], [1.0, -pole], values, zi=start)[0]


def wander(
    rng: np.random.Generator,
    num_samples: int,
    sample_rate: float,
    rate: float,
    low: float,
    high: float,
) -> np.ndarray:
    """Random control curve between `low` and `high`, which turns `rate` times a second."""
    count = int(np.ceil(num_samples / sample_rate * rate)) + 2
    position = np.arange(num_samples) * (rate / sample_rate) + rng.random()
    return np.interp(position, np.arange(count), rng.uniform(low, high, count))


# Events and envelopes.


def regular_starts(
    rng: np.random.Generator, num_samples: int, sample_rate: float, rate: float, jitter: float
) -> np.ndarray:
    """Positions of events `rate` times a second; each gap varies by a fraction `jitter` < 1.

    There is at least one, and the first lies in the first 0.1 s.
    """
    count = int(num_samples / sample_rate * rate / (1 - jitter)) + 2
    gaps = (1 + jitter * rng.uniform(-1, 1, count)) / rate
    first = rng.uniform(0, min(gaps[0], 0.1, 0.2 * num_samples / sample_rate))
    starts = ((np.cumsum(gaps) - gaps[0] + first) * sample_rate).astype(np.int64)
    return np.unique(starts[starts < num_samples])


def random_starts(
    rng: np.random.Generator, num_samples: int, sample_rate: float, rate: float
) -> np.ndarray:
    """Sorted positions of independent events, `rate` a second on average, at least one."""
    count = max(1, rng.poisson(rate * num_samples / sample_rate))
    starts = np.sort(rng.integers(0, num_samples, count))
    starts[0] = min(starts[0], num_samples // 4)  # so that short renderings are not all tail
    return np.unique(starts)


def impulses(starts: np.ndarray, amplitudes: npt.ArrayLike, num_samples: int) -> np.ndarray:
    """`[num_samples]`, with `amplitudes` (one for all, or one each) at `starts`, else 0."""
    train = np.zeros(num_samples)
    train[starts] = amplitudes
    return train


def decay(
    train: np.ndarray, time_constant: float, sample_rate: float, attack: float = 0.0
) -> np.ndarray:
    """Exponentially decaying envelope, started by each impulse of `train`."""
    pole = np.exp(-1.0 / (time_constant * sample_rate))
    envelope = signal.lfilter([1.0], [1.0, -pole], train)
    return smooth(envelope, attack, sample_rate) if attack > 0 else envelope


def hold(starts: np.ndarray, values: npt.ArrayLike, num_samples: int) -> np.ndarray:
    """Step curve: `values[i]` from `starts[i]` on, `values[0]` before the first."""
    lengths = np.diff(np.concatenate([[0], starts[1:], [num_samples]]))
    return np.repeat(values, lengths)


def progress(starts: np.ndarray, lengths: npt.ArrayLike, num_samples: int) -> np.ndarray:
    """How much of the latest event is over: 0 at its start, 1 from its end on (and before any).

    With it `sin(pi * progress)` is an arch over every event, and `progress < 1` a gate.
    """
    elapsed = np.arange(num_samples) - hold(starts, starts, num_samples)
    done = elapsed / hold(starts, np.broadcast_to(lengths, len(starts)), num_samples)
    return np.where(done < 0, 1.0, np.minimum(done, 1.0))


def cycle(
    rng: np.random.Generator, num_samples: int, sample_rate: float, rate: float
) -> np.ndarray:
    """Sawtooth from 0 to 1, `rate` times a second, with a random initial phase."""
    return (np.arange(num_samples) * (rate / sample_rate) + rng.random()) % 1.0
