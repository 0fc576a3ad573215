"""Voices of people and animals. See `sources.py` for the contract."""

from collections.abc import Iterable

import numpy as np

from sepssl.data.scenes import synthesis as syn

# First three formants of eight vowels, Hz (rounded textbook values of an adult male speaker).
VOWELS = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [300, 870, 2240],
        [490, 1350, 1690],
    ],
    dtype=float,
)


def formants(
    waveform: np.ndarray,
    frequencies: Iterable[float],
    sample_rate: int,
    gains: Iterable[float] = (1.0, 0.6, 0.35),
    bandwidth: float = 0.12,
) -> np.ndarray:
    """Parallel formant filter; each bandwidth is a fraction of its frequency."""
    parts = [
        gain * syn.resonator(waveform, frequency, 30 + bandwidth * frequency, sample_rate)
        for frequency, gain in zip(frequencies, gains, strict=True)
    ]
    return np.sum(parts, axis=0)


def speech(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Babble of one speaker: voiced vowels, some fricatives between, pauses between phrases."""
    rate = rng.uniform(2.5, 6.5)
    starts = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.35)
    spoken = rng.random(len(starts)) > rng.uniform(0.05, 0.3)
    spoken[0] = True
    pitch = syn.log_uniform(rng, 85, 280)
    swing = syn.wander(rng, num_samples, sample_rate, rng.uniform(1, 4), -1, 1)
    pitch = pitch * 2 ** (rng.uniform(0.05, 0.4) * swing)
    voice = syn.oscillator(
        pitch, syn.harmonic_rolloff(40, rng.uniform(0.6, 1.4)), num_samples, sample_rate
    )
    noise = syn.white_noise(rng, num_samples)
    voice = voice + rng.uniform(0.01, 0.1) * noise
    tract = rng.uniform(0.9, 1.25)
    hiss = rng.uniform(0.03, 0.2)
    output = np.zeros(num_samples)
    for start, end in zip(starts[spoken], np.append(starts[1:], num_samples)[spoken], strict=True):
        fraction = np.linspace(0, 1, end - start)
        vowel = tract * VOWELS[rng.integers(len(VOWELS))]
        onset = rng.uniform(0.0, 0.35)
        arch = np.clip((fraction - onset) * 8, 0, 1) * np.clip((1 - fraction) * 5, 0, 1)
        output[start:end] = (
            rng.uniform(0.5, 1) * arch * formants(voice[start:end], vowel, sample_rate)
        )
        if onset > 0.12:
            burst = np.clip(1 - np.abs(fraction / onset - 0.5) * 2, 0, 1)
            output[start:end] += (
                hiss
                * burst
                * syn.resonator(noise[start:end], rng.uniform(2200, 6500), 1500, sample_rate)
            )
    return syn.unit_peak(output)


def laughter(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Bouts of 'ha': breathy vowels, four to seven a second, falling in pitch and level."""
    rate = rng.uniform(3.5, 7)
    starts = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.1)
    bout = rng.integers(4, 11)
    place = np.arange(len(starts)) % (bout + 2)
    level = np.where(place < bout, 0.9**place, 0.0)
    done = syn.progress(starts, rng.uniform(0.5, 0.85) * sample_rate / rate, num_samples)
    fall = rng.uniform(0.01, 0.05)
    pitch = syn.log_uniform(rng, 140, 450) * 2 ** (
        -fall * syn.hold(starts, place, num_samples) + rng.uniform(0, 0.5) * np.sin(np.pi * done)
    )
    amplitudes = syn.harmonic_rolloff(30, rng.uniform(0.5, 1.2))
    voice = syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
    breath = rng.uniform(0.1, 0.8) * syn.white_noise(rng, num_samples)
    source = voice * np.sin(np.pi * done) + breath * np.maximum(np.sin(2 * np.pi * done), 0)
    vowel = rng.uniform(1.0, 1.3) * VOWELS[rng.integers(2, 6)]
    level = syn.hold(starts, level, num_samples)
    return syn.unit_peak(level * formants(source, vowel, sample_rate))


def baby_cry(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Long wails with a rise and fall of pitch, sometimes hoarse, with gasps in between."""
    rate = rng.uniform(0.7, 1.6)
    starts = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.2)
    done = syn.progress(starts, rng.uniform(0.6, 0.9) * sample_rate / rate, num_samples)
    arch = np.sin(np.pi * done ** rng.uniform(0.5, 1))
    shake = syn.wander(rng, num_samples, sample_rate, rng.uniform(8, 25), -1, 1)
    pitch = syn.log_uniform(rng, 300, 620) * 2 ** (
        rng.uniform(0.15, 0.6) * arch + rng.uniform(0.01, 0.08) * shake
    )
    voice = syn.oscillator(
        pitch, syn.harmonic_rolloff(20, rng.uniform(0.2, 1)), num_samples, sample_rate
    )
    rough = 1 + rng.uniform(0, 0.5) * syn.white_noise(rng, num_samples)
    vowel = np.array([1050, 3000, 4600]) * rng.uniform(0.8, 1.2)
    return syn.unit_peak(arch**0.5 * formants(voice * rough, vowel, sample_rate, (1, 0.8, 0.4)))


def dog_bark(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Short harsh bursts with a quick rise and fall of pitch; small dogs are higher and faster."""
    size = rng.random()
    rate = syn.log_uniform(rng, 0.8, 2.5) * 1.8**size
    starts = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.45)
    length = rng.uniform(0.2, 0.35) * 0.5**size * sample_rate
    lengths = length * rng.uniform(0.8, 1.2, len(starts))
    done = syn.progress(starts, lengths, num_samples)
    pitch = 180 * 3.5**size * rng.uniform(0.8, 1.2) * (0.7 + 0.8 * np.sin(np.pi * done**0.6))
    voice = syn.oscillator(
        pitch, syn.harmonic_rolloff(25, rng.uniform(0.2, 0.8)), num_samples, sample_rate
    )
    voice = voice + rng.uniform(0.2, 1.0) * syn.white_noise(rng, num_samples)
    muzzle = np.array([450, 1100, 2300]) * 1.9**size * rng.uniform(0.85, 1.15)
    envelope = np.clip(done * 12, 0, 1) * (1 - done) ** rng.uniform(0.8, 2)
    return syn.unit_peak(envelope * formants(voice, muzzle, sample_rate, (1, 0.8, 0.4), 0.25))


def cat_meow(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """An arch of pitch with the mouth opening from 'i' to 'a' and closing to 'u'."""
    rate = rng.uniform(0.5, 1.4)
    starts = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.3)
    lengths = rng.uniform(0.4, 0.95, len(starts)) * sample_rate / rate * 0.8
    done = syn.progress(starts, lengths, num_samples)
    pitch = syn.log_uniform(rng, 320, 850) * 2 ** (rng.uniform(0.1, 0.6) * np.sin(np.pi * done))
    pitch = pitch * (1 + 0.01 * syn.wander(rng, num_samples, sample_rate, 12, -1, 1))
    voice = syn.oscillator(
        pitch, syn.harmonic_rolloff(24, rng.uniform(0.5, 1.3)), num_samples, sample_rate
    )
    tract = rng.uniform(1.2, 1.6)
    closed = formants(voice, tract * VOWELS[0], sample_rate)
    opened = formants(voice, tract * VOWELS[4], sample_rate)
    opening = np.clip(done * rng.uniform(1.5, 4), 0, 1)
    envelope = np.clip(done * 10, 0, 1) * np.sin(np.pi * done**0.5)
    return syn.unit_peak(envelope * ((1 - opening) * closed + opening * opened))


def bird_song(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Phrases of a repeated chirp: a pure tone that sweeps up, down or both, with pauses."""
    rate = syn.log_uniform(rng, 2.5, 16)
    starts = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.15)
    phrase, pause = rng.integers(2, 12), rng.integers(1, 6)
    sung = np.arange(len(starts)) % (phrase + pause) < phrase
    motif = int(rng.integers(1, 4))  # so many different chirps, in turn
    turn = np.arange(len(starts)) % motif
    sweep = syn.hold(starts, rng.uniform(-0.7, 0.7, motif)[turn], num_samples)
    arch = syn.hold(starts, rng.uniform(-0.5, 0.5, motif)[turn], num_samples)
    base = syn.hold(starts, syn.log_uniform(rng, 0.75, 1.33, motif)[turn], num_samples)
    done = syn.progress(starts, rng.uniform(0.4, 0.95) * sample_rate / rate, num_samples)
    top = min(5500, 0.3 * sample_rate)
    pitch = (
        syn.log_uniform(rng, 1800, top)
        * base
        * 2 ** (sweep * (done - 0.5) + arch * np.sin(np.pi * done))
    )
    tone = syn.oscillator(pitch, [1.0, rng.uniform(0, 0.2)], num_samples, sample_rate)
    return syn.unit_peak(syn.hold(starts, sung, num_samples) * np.sin(np.pi * done) * tone)


def owl_hoot(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Soft low hoots with a slight fall, in an uneven rhythm."""
    rate = rng.uniform(0.8, 3)
    starts = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.45)
    lengths = rng.uniform(0.3, 0.8, len(starts)) * sample_rate / rate
    done = syn.progress(starts, lengths, num_samples)
    quaver = np.sin(2 * np.pi * syn.cycle(rng, num_samples, sample_rate, rng.uniform(8, 20)))
    pitch = syn.log_uniform(rng, 220, 750) * 2 ** (rng.uniform(-0.25, 0.1) * done)
    amplitudes = [1.0, rng.uniform(0.02, 0.2), rng.uniform(0, 0.08)]
    tone = syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
    breath = syn.resonator(syn.white_noise(rng, num_samples), 500, 400, sample_rate)
    envelope = np.sin(np.pi * done) * (1 + rng.uniform(0, 0.5) * quaver)
    return syn.unit_peak(envelope * (tone + rng.uniform(0.02, 0.15) * breath))


def crow(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Hoarse caws: a dense harmonic tone, rough with noise and a fast flutter."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, rng.uniform(0.8, 2.5), 0.4)
    done = syn.progress(starts, rng.uniform(0.2, 0.5) * sample_rate, num_samples)
    pitch = syn.log_uniform(rng, 320, 650) * 2 ** (-rng.uniform(0, 0.4) * done)
    voice = syn.oscillator(
        pitch, syn.harmonic_rolloff(20, rng.uniform(0.0, 0.5)), num_samples, sample_rate
    )
    flutter = syn.cycle(rng, num_samples, sample_rate, rng.uniform(50, 110))
    rough = (0.5 + rng.uniform(0.3, 1) * syn.white_noise(rng, num_samples)) * (1 - 0.7 * flutter)
    throat = np.array([1300, 1900, 3000]) * rng.uniform(0.65, 1.35)
    envelope = np.clip(done * 10, 0, 1) * np.sqrt(1 - done)
    return syn.unit_peak(envelope * formants(voice * rough, throat, sample_rate, (1, 1, 0.5), 0.3))


def crickets(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """High narrow pulses, from separate chirps to an even trill; one to three insects."""
    output = np.zeros(num_samples)
    for _ in range(rng.integers(1, 4)):
        carrier = syn.log_uniform(rng, 2600, min(7000, 0.42 * sample_rate))
        pulse = syn.cycle(rng, num_samples, sample_rate, syn.log_uniform(rng, 18, 70))
        chirp = syn.cycle(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.8, 5))
        pulses = np.maximum(np.sin(2 * np.pi * pulse), 0)
        gate = syn.smooth(chirp < rng.uniform(0.3, 1.3), 0.004, sample_rate)
        tone = syn.oscillator(carrier, [1.0], num_samples, sample_rate)
        output += rng.uniform(0.3, 1) * pulses * gate * tone
    return syn.unit_peak(output)


def frogs(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Croaks: trains of pulses, each ringing in the throat."""
    croaks = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.8, 3.5), 0.3)
    length = syn.log_uniform(rng, 0.12, 0.7) * sample_rate
    done = syn.progress(croaks, length, num_samples)
    pulses = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 18, 120), 0.05)
    train = syn.impulses(pulses, rng.uniform(0.7, 1, len(pulses)), num_samples)
    throat = syn.log_uniform(rng, 300, 1500)
    bandwidth = rng.uniform(20, 100)
    body = syn.resonator(train, throat, bandwidth, sample_rate)
    upper = throat * rng.uniform(1.7, 2.6)
    body = body + rng.uniform(0.2, 1) * syn.resonator(train, upper, 1.7 * bandwidth, sample_rate)
    return syn.unit_peak(body * np.sqrt(np.sin(np.pi * np.minimum(done, 1 - 1e-9))))


def bees(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """A buzz that wanders in pitch, approaches and recedes; one to three insects."""
    output = np.zeros(num_samples)
    for _ in range(rng.integers(1, 4)):
        drift = syn.wander(rng, num_samples, sample_rate, rng.uniform(1, 6), -1, 1)
        pitch = syn.log_uniform(rng, 110, 420) * 2 ** (rng.uniform(0.03, 0.25) * drift)
        amplitudes = syn.harmonic_rolloff(25, rng.uniform(0.3, 1.2)) * rng.uniform(0.3, 1, 25)
        near = syn.wander(rng, num_samples, sample_rate, rng.uniform(0.4, 3), 0.1, 1) ** 2
        output += near * syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
    return syn.unit_peak(output)
