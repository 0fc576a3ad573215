"""Weather, water, machines and other noisy sources. See `sources.py` for the contract."""

import numpy as np

from sepssl.data.scenes import synthesis as syn


def rain(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """A steady hiss and, from drizzle to downpour, the clicks of separate drops."""
    hiss = syn.band_noise(
        rng, num_samples, sample_rate, rng.uniform(200, 2000), rng.uniform(3000, 9000)
    )
    drops = syn.random_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 30, 600))
    train = syn.impulses(drops, syn.log_uniform(rng, 0.05, 1, len(drops)), num_samples)
    surface = syn.log_uniform(rng, 700, 4000) * np.array([1.0, 1.7])
    taps = syn.ring(train, surface, [0.002, 0.001], [1.0, 0.7], sample_rate)
    taps = taps / (np.std(taps) + 1e-9)
    swell = syn.wander(rng, num_samples, sample_rate, 0.7, 0.7, 1)
    return syn.unit_peak(swell * hiss + syn.log_uniform(rng, 0.15, 1.5) * taps)


def wind(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Low gusty noise, at times with a howl that follows the gusts."""
    gust = syn.wander(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.4, 2.5), 0.05, 1)
    low = syn.band_noise(rng, num_samples, sample_rate, 40, syn.log_uniform(rng, 150, 700))
    output = low * gust ** rng.uniform(1, 2)
    if rng.random() < 0.6:
        # Frequency-modulated narrow noise: a slow carrier times narrow low-pass noise.
        pitch = syn.log_uniform(rng, 250, 900) * (0.7 + 0.6 * gust)
        narrow = syn.band_noise(rng, num_samples, sample_rate, 1, rng.uniform(15, 60))
        howl = narrow * syn.oscillator(pitch, [1.0], num_samples, sample_rate)
        output = output + rng.uniform(0.1, 0.8) * gust**2 * howl
    return syn.unit_peak(output)


def stream(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Running water: noise of the flow and a crowd of bubbles, each a short ringing tone."""
    flow = syn.band_noise(
        rng, num_samples, sample_rate, rng.uniform(150, 600), rng.uniform(1200, 5000)
    )
    bubbles = np.zeros(num_samples)
    density = syn.log_uniform(rng, 8, 60)
    centre = syn.log_uniform(rng, 450, 1500)
    for pitch in centre * syn.log_uniform(rng, 0.5, 2, 6):
        starts = syn.random_starts(rng, num_samples, sample_rate, density / 6)
        train = syn.impulses(starts, syn.log_uniform(rng, 0.1, 1, len(starts)), num_samples)
        bubbles += syn.ring(train, [pitch], [rng.uniform(0.01, 0.04)], [1.0], sample_rate)
    bubbles = bubbles / (np.std(bubbles) + 1e-9)
    return syn.unit_peak(flow + syn.log_uniform(rng, 0.5, 3) * bubbles)


def waves(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Sea on a beach: swells of seconds that brighten as they break."""
    swell = syn.cycle(rng, num_samples, sample_rate, rng.uniform(0.12, 0.5))
    peak = rng.uniform(0.3, 0.7)
    arch = np.where(swell < peak, swell / peak, (1 - swell) / (1 - peak))
    roll = syn.band_noise(rng, num_samples, sample_rate, 60, rng.uniform(250, 900))
    foam = syn.band_noise(rng, num_samples, sample_rate, rng.uniform(600, 1500), 7000)
    floor = rng.uniform(0.02, 0.2)
    return syn.unit_peak(
        roll * (floor + arch) + rng.uniform(0.3, 1.2) * foam * (0.3 * floor + arch**3)
    )


def vacuum(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Vacuum cleaner or fan: broadband air noise and the whine of a motor under a varying load."""
    load = syn.smooth(
        syn.wander(rng, num_samples, sample_rate, rng.uniform(0.5, 2), -1, 1), 0.1, sample_rate
    )
    pitch = syn.log_uniform(rng, 180, 700) * 2 ** (rng.uniform(0.0, 0.12) * load)
    amplitudes = syn.harmonic_rolloff(10, rng.uniform(0.3, 1.5)) * rng.uniform(0.1, 1, 10)
    whine = syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
    air = syn.band_noise(
        rng, num_samples, sample_rate, rng.uniform(80, 400), rng.uniform(1500, 7000)
    )
    return syn.unit_peak((1 + 0.15 * load) * (air + syn.log_uniform(rng, 0.15, 1.5) * whine))


def steam(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Espresso machine, air valve: bursts of bright hiss, some with a sudden end."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.4, 3), 0.4)
    gaps = np.diff(starts, append=starts[-1] + sample_rate)
    done = syn.progress(starts, rng.uniform(0.3, 1.0) * gaps, num_samples)
    envelope = (1 - done) ** rng.uniform(0, 2) * (done < 1)
    low = syn.log_uniform(rng, 500, 4500)
    hiss = syn.band_noise(rng, num_samples, sample_rate, low, low + rng.uniform(1000, 8000))
    return syn.unit_peak(syn.smooth(envelope, rng.uniform(0.003, 0.04), sample_rate) * hiss)


def fire(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Crackles of all sizes over the low breath of the flames."""
    output = rng.uniform(0.02, 0.15) * syn.band_noise(
        rng, num_samples, sample_rate, 60, syn.log_uniform(rng, 250, 900)
    )
    noise = syn.white_noise(rng, num_samples)
    for length in (0.0008, 0.003, 0.010):
        rate = syn.log_uniform(rng, 3, 25)
        starts = syn.random_starts(rng, num_samples, sample_rate, rate)
        train = syn.impulses(starts, syn.log_uniform(rng, 0.05, 1, len(starts)), num_samples)
        output = output + noise * syn.decay(train, length * rng.uniform(0.6, 1.6), sample_rate)
    return syn.unit_peak(output)


def applause(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """A few hands or a hall: noise bursts of 5 ms, each pair of hands at its own pitch."""
    people = int(syn.log_uniform(rng, 4, 60))
    level = syn.wander(rng, num_samples, sample_rate, 0.8, 0.5, 1)
    output = np.zeros(num_samples)
    for palms in syn.log_uniform(rng, 600, 1300) * syn.log_uniform(rng, 0.8, 2, 4):
        rate = people / 4 * rng.uniform(3, 5)
        starts = syn.random_starts(rng, num_samples, sample_rate, rate)
        train = syn.impulses(starts, rng.uniform(0.2, 1, len(starts)), num_samples)
        claps = syn.decay(train, rng.uniform(0.003, 0.008), sample_rate)
        noise = syn.white_noise(rng, num_samples)
        output += syn.resonator(claps * noise, palms, 0.7 * palms, sample_rate)
    return syn.unit_peak(level * output)


def car_pass(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Cars going by: tyre noise and an engine that swell and fade; the pitch falls as they pass."""
    seconds = np.arange(num_samples) / sample_rate
    noise = syn.band_noise(
        rng, num_samples, sample_rate, rng.uniform(60, 250), rng.uniform(700, 3000)
    )
    output = np.zeros(num_samples)
    motor = syn.log_uniform(rng, 50, 160)
    amplitudes = syn.harmonic_rolloff(12, rng.uniform(0.5, 1.5)) * rng.uniform(0.2, 1, 12)
    for nearest in np.arange(rng.uniform(0.1, 1), seconds[-1], rng.uniform(1.5, 6)):
        pace = (seconds - nearest) / syn.log_uniform(rng, 0.2, 1.2)
        pitch = motor * (1 - rng.uniform(0.03, 0.15) * np.tanh(pace))
        tone = syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
        output += (noise + rng.uniform(0.1, 1) * tone) / (1 + pace**2)
    return syn.unit_peak(output if output.any() else noise)


def engine(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Combustion engine, idling or revving: firing pulses through an exhaust resonance."""
    throttle = syn.smooth(
        syn.wander(rng, num_samples, sample_rate, rng.uniform(0.3, 2), 0, 1), 0.15, sample_rate
    )
    pitch = syn.log_uniform(rng, 18, 90) * rng.uniform(1, 2.5) ** throttle
    amplitudes = syn.harmonic_rolloff(50, rng.uniform(0.1, 0.9)) * rng.uniform(0.1, 1, 50)
    pulses = syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
    rattle = rng.uniform(0.05, 0.6) * syn.white_noise(rng, num_samples)
    pulses = pulses * (1 + rattle)
    exhaust = syn.log_uniform(rng, 90, 500)
    output = syn.resonator(pulses, exhaust, exhaust, sample_rate)
    output = output + rng.uniform(0.02, 0.3) * pulses
    return syn.unit_peak((0.5 + throttle) * output)


def helicopter(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Low noise chopped by the blades, and a turbine whine far above."""
    blades = syn.cycle(rng, num_samples, sample_rate, rng.uniform(8, 26))
    chop = np.exp(-blades * rng.uniform(2, 7))
    slap = syn.band_noise(rng, num_samples, sample_rate, 40, syn.log_uniform(rng, 200, 1200))
    whine = syn.oscillator(syn.log_uniform(rng, 700, 2500), [1.0, 0.3], num_samples, sample_rate)
    near = syn.wander(rng, num_samples, sample_rate, 0.4, 0.3, 1)
    return syn.unit_peak(near * (slap * chop + rng.uniform(0.0, 0.15) * whine))


def drill(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Power drill: a bright motor tone that starts, sags under load and stops."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, rng.uniform(0.35, 1.2), 0.3)
    gaps = np.diff(starts, append=starts[-1] + 2 * sample_rate)
    gate = syn.progress(starts, rng.uniform(0.5, 0.95) * gaps, num_samples) < 1
    spin = syn.smooth(gate, rng.uniform(0.04, 0.15), sample_rate)
    load = syn.wander(rng, num_samples, sample_rate, rng.uniform(1, 5), 0.8, 1)
    pitch = syn.log_uniform(rng, 250, 900) * (0.3 + 0.7 * spin) * load
    amplitudes = syn.harmonic_rolloff(24, rng.uniform(0.0, 0.7)) * rng.uniform(0.2, 1, 24)
    tone = syn.oscillator(pitch, amplitudes, num_samples, sample_rate)
    grind = syn.band_noise(rng, num_samples, sample_rate, rng.uniform(800, 2500), 7500)
    return syn.unit_peak(spin * (tone + rng.uniform(0.3, 1.5) * grind * (1.1 - load) * 4))


def sawing(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Hand saw: strokes of rasping noise, back and forth, with the fast flutter of the teeth."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 1.5, 5), 0.08)
    gap = np.diff(starts, append=starts[-1] + sample_rate // 3)[0]
    done = syn.progress(starts, rng.uniform(0.7, 1.0) * gap, num_samples)
    back = rng.uniform(0.3, 0.9)
    strokes = np.where(np.arange(len(starts)) % 2 == 0, 1.0, back)
    pace = np.sin(np.pi * done)
    teeth = syn.oscillator(
        syn.log_uniform(rng, 40, 160) * (0.2 + pace), [1, 0.5, 0.3], num_samples, sample_rate
    )
    centre = syn.log_uniform(rng, 1200, 4000)
    rasp = syn.band_noise(rng, num_samples, sample_rate, 0.6 * centre, 1.6 * centre)
    body = pace * syn.hold(starts, strokes, num_samples)
    return syn.unit_peak(body * rasp * (1 + rng.uniform(0.3, 0.9) * teeth))
