"""Tonal sources: signals, bells and musical instruments. See `sources.py` for the contract."""

import numpy as np

from sepssl.data.scenes import synthesis as syn

BELL_RATIOS = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.6, 3.0, 4.2])  # hum, prime, tierce, quint, ...
BAR_RATIOS = np.array([1.0, 2.76])  # free bar, its first two modes
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 5, 7), (0, 4, 7, 10), (0, 3, 7, 10), (0, 4, 8))
SCALE = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])  # semitones


def siren(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Wail, yelp, rising or two-tone: a bright tone whose pitch swings over an octave or so."""
    swing = syn.cycle(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.2, 5.0))
    shape = rng.integers(4)
    if shape == 0:
        swing = 0.5 - 0.5 * np.cos(2 * np.pi * swing)
    elif shape == 1:
        swing = 1 - np.abs(2 * swing - 1)
    elif shape == 2:
        swing = (swing > 0.5).astype(float)
    low = syn.log_uniform(rng, 300, 900)
    pitch = low * rng.uniform(1.25, 2.6) ** swing
    amplitudes = syn.harmonic_rolloff(12, rng.uniform(0.7, 2.5), odd_only=rng.random() < 0.4)
    return syn.unit_peak(syn.oscillator(pitch, amplitudes, num_samples, sample_rate))


def beeps(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Alarm clock, timer, reversing lorry: a steady tone switched on and off, often in groups."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.8, 9), 0.01)
    group = rng.integers(1, 5)
    level = np.where(np.arange(len(starts)) % (group + 1) < group, 1.0, 0.0)
    gap = np.diff(starts, append=starts[-1] + sample_rate)[0]
    gate = syn.progress(starts, rng.uniform(0.2, 0.85) * gap, num_samples) < 1
    envelope = syn.smooth(gate * syn.hold(starts, level, num_samples), 0.002, sample_rate)
    steps = np.where(np.arange(len(starts)) % 2 == 0, 1.0, rng.choice([1.0, 1.0, 1.26, 0.8]))
    pitch = syn.log_uniform(rng, 600, 3800) * syn.hold(starts, steps, num_samples)
    amplitudes = syn.harmonic_rolloff(7, rng.uniform(0.8, 4), odd_only=rng.random() < 0.5)
    return syn.unit_peak(envelope * syn.oscillator(pitch, amplitudes, num_samples, sample_rate))


def telephone(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """A hammer between two small bells, or an electronic trill, in rings of a second or so."""
    rings = syn.regular_starts(rng, num_samples, sample_rate, rng.uniform(0.35, 1.1), 0.02)
    length = rng.uniform(0.4, 1.4) * sample_rate
    gate = (syn.progress(rings, length, num_samples) < 1).astype(float)
    rate = rng.uniform(12, 28)
    pitch = syn.log_uniform(rng, 700, 2200)
    if rng.random() < 0.5:
        strokes = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.03)
        train = gate * syn.impulses(strokes, rng.uniform(0.7, 1, len(strokes)), num_samples)
        modes = pitch * np.array([1.0, rng.uniform(1.1, 1.4), 2.7, 3.3, 5.2])
        decays = rng.uniform(0.1, 0.5) / np.sqrt(modes / pitch)
        return syn.unit_peak(syn.ring(train, modes, decays, rng.uniform(0.3, 1, 5), sample_rate))
    trill = syn.cycle(rng, num_samples, sample_rate, 0.5 * rate) > 0.5
    pitch = pitch * np.where(trill, 1.0, rng.uniform(1.15, 1.5))
    tone = syn.oscillator(
        pitch, syn.harmonic_rolloff(8, rng.uniform(0.5, 2)), num_samples, sample_rate
    )
    return syn.unit_peak(syn.smooth(gate, 0.01, sample_rate) * tone)


def bell(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Church or hand bell: inharmonic partials, of which the high ones decay first."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.4, 3), 0.08)
    train = syn.impulses(starts, rng.uniform(0.5, 1, len(starts)), num_samples)
    prime = syn.log_uniform(rng, 180, 1300)
    ratios = BELL_RATIOS * rng.uniform(0.97, 1.03, len(BELL_RATIOS))
    decays = syn.log_uniform(rng, 0.4, 3) / ratios ** rng.uniform(0.5, 1.2)
    amplitudes = rng.uniform(0.2, 1, len(ratios)) / ratios ** rng.uniform(0, 0.8)
    return syn.unit_peak(syn.ring(train, prime * ratios, decays, amplitudes, sample_rate))


def wind_chimes(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Four to six small tubes struck at random, in gusts."""
    output = np.zeros(num_samples)
    bars = rng.integers(4, 7)
    pitches = syn.log_uniform(rng, 500, 1600) * 2 ** (np.cumsum(rng.integers(1, 5, bars)) / 12)
    rate = syn.log_uniform(rng, 0.4, 3)
    length = rng.uniform(0.15, 1.2)
    for pitch in pitches:
        starts = syn.random_starts(rng, num_samples, sample_rate, rate)
        train = syn.impulses(starts, syn.log_uniform(rng, 0.2, 1, len(starts)), num_samples)
        amplitudes = [1.0, rng.uniform(0.1, 0.7)]
        modes = pitch * BAR_RATIOS * rng.uniform(0.98, 1.02)
        output += syn.ring(train, modes, [length, 0.4 * length], amplitudes, sample_rate)
    return syn.unit_peak(output)


def chords(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Piano-like, organ-like or pad chords: three or four tones that change together."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.5, 3), 0.05)
    train = syn.impulses(starts, rng.uniform(0.5, 1, len(starts)), num_samples)
    if rng.random() < 0.5:
        envelope = syn.decay(train, rng.uniform(0.15, 1.2), sample_rate, attack=0.004)
    else:
        length = sample_rate / syn.log_uniform(rng, 0.6, 3)
        gate = syn.progress(starts, length, num_samples) < 1
        envelope = syn.smooth(gate, rng.uniform(0.01, 0.15), sample_rate)
    kind = CHORDS[rng.integers(len(CHORDS))]
    roots = syn.log_uniform(rng, 90, 420) * 2 ** (rng.choice(SCALE[:6], len(starts)) / 12)
    root = syn.hold(starts, roots, num_samples)
    amplitudes = syn.harmonic_rolloff(16, rng.uniform(0.8, 2.5)) * rng.uniform(0.2, 1, 16)
    tones = sum(
        syn.oscillator(
            root * 2 ** ((note + rng.uniform(-0.05, 0.05)) / 12),
            amplitudes,
            num_samples,
            sample_rate,
        )
        for note in kind
    )
    return syn.unit_peak(envelope * tones)


def guitar(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Plucked string: each note starts bright and grows dull as it decays."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 1.5, 8), 0.1)
    train = syn.impulses(starts, rng.uniform(0.4, 1, len(starts)), num_samples)
    notes = 2 ** (rng.choice(SCALE, len(starts)) / 12)
    pitch = syn.hold(starts, syn.log_uniform(rng, 80, 400) * notes, num_samples)
    number = np.arange(1, 25)
    # Plucked at a fraction of the string: harmonics with a node there are missing.
    pluck = np.abs(np.sin(np.pi * number * rng.uniform(0.08, 0.4))) / number**0.7
    length = syn.log_uniform(rng, 0.12, 0.9)
    dull = syn.oscillator(pitch, pluck / number, num_samples, sample_rate)
    bright = syn.oscillator(pitch, pluck, num_samples, sample_rate)
    output = dull * syn.decay(train, length, sample_rate, attack=0.001)
    return syn.unit_peak(
        output + bright * syn.decay(train, 0.2 * length, sample_rate, attack=0.001)
    )


def flute(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """A wind-instrument melody: slurred notes, vibrato, breath noise."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 1, 6), 0.4)
    notes = syn.log_uniform(rng, 240, 900) * 2 ** (rng.choice(SCALE, len(starts)) / 12)
    pitch = syn.smooth(syn.hold(starts, notes, num_samples), rng.uniform(0.003, 0.04), sample_rate)
    beat = np.sin(2 * np.pi * syn.cycle(rng, num_samples, sample_rate, rng.uniform(4, 7)))
    pitch = pitch * (1 + rng.uniform(0, 0.015) * beat)
    gaps = np.diff(starts, append=num_samples)
    gate = syn.progress(starts, rng.uniform(0.7, 1.0) * gaps, num_samples) < 1
    envelope = syn.smooth(gate, rng.uniform(0.01, 0.05), sample_rate)
    envelope = envelope * (1 + rng.uniform(0, 0.3) * beat)
    amplitudes = syn.harmonic_rolloff(8, rng.uniform(1.2, 3), odd_only=rng.random() < 0.3)
    tone = syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
    breath = syn.band_noise(rng, num_samples, sample_rate, rng.uniform(500, 1500), 6000)
    return syn.unit_peak(envelope * (tone + syn.log_uniform(rng, 0.01, 0.15) * breath))


def whistle(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """A person whistling: nearly pure, gliding between pitches, with pauses."""
    low = syn.log_uniform(rng, 600, 1700)
    glide = syn.wander(rng, num_samples, sample_rate, rng.uniform(1, 8), 0, rng.uniform(0.4, 1.3))
    pitch = low * 2 ** syn.smooth(glide, 0.03, sample_rate)
    starts = syn.regular_starts(rng, num_samples, sample_rate, rng.uniform(0.6, 3), 0.4)
    gaps = np.diff(starts, append=starts[-1] + sample_rate)
    gate = syn.progress(starts, rng.uniform(0.4, 0.95) * gaps, num_samples) < 1
    tone = syn.oscillator(pitch, [1.0, rng.uniform(0, 0.12)], num_samples, sample_rate)
    breath = syn.band_noise(rng, num_samples, sample_rate, low, 4 * low)
    envelope = syn.smooth(gate, rng.uniform(0.01, 0.04), sample_rate)
    return syn.unit_peak(envelope * (tone + rng.uniform(0, 0.08) * breath))


def car_horn(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Two reedy notes about a third apart, in honks from a tap to a long press."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.5, 3), 0.4)
    lengths = syn.log_uniform(rng, 0.1, 1.2, len(starts)) * sample_rate
    gate = syn.progress(starts, lengths, num_samples) < 1
    low = syn.log_uniform(rng, 220, 560)
    amplitudes = syn.harmonic_rolloff(20, rng.uniform(0.1, 1.2)) * rng.uniform(0.3, 1, 20)
    tone = syn.oscillator(low, amplitudes, num_samples, sample_rate)
    second = low * rng.uniform(1.18, 1.34)
    tone = tone + syn.oscillator(second, amplitudes, num_samples, sample_rate)
    return syn.unit_peak(syn.smooth(gate, rng.uniform(0.005, 0.03), sample_rate) * tone)
