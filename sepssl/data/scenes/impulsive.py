"""Strikes, steps, drips and clicks. See `sources.py` for the contract."""

import numpy as np

from sepssl.data.scenes import synthesis as syn


def clock(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Ticks and tocks: very short, high and regular, every other one a little different."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, rng.choice([1, 2, 2.5, 4, 5]), 0.005)
    case = syn.log_uniform(rng, 1200, 3300)
    modes = case * np.array([1.0, rng.uniform(1.3, 1.7), rng.uniform(2, 2.4)])
    decays = np.array([1.0, 0.7, 0.5]) * syn.log_uniform(rng, 0.002, 0.012)
    output = np.zeros(num_samples)
    for first, shift, level in ((0, 1.0, 1.0), (1, rng.uniform(0.75, 1), rng.uniform(0.4, 1))):
        train = syn.impulses(starts[first::2], level, num_samples)
        output += syn.ring(train, shift * modes, decays, rng.uniform(0.3, 1, 3), sample_rate)
    return syn.unit_peak(output)


def hammering(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Blows on metal or wood: a click and a short dense ring, one to five a second."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 1, 5), 0.12)
    train = syn.impulses(starts, rng.uniform(0.5, 1, len(starts)), num_samples)
    modes = syn.log_uniform(rng, 250, 1400) * np.cumprod(rng.uniform(1.15, 1.7, 6))
    decays = syn.log_uniform(rng, 0.015, 0.15) / np.arange(1, 7) ** 0.5
    body = syn.ring(train, modes, decays, rng.uniform(0.3, 1, 6), sample_rate)
    click = syn.decay(train, 0.003, sample_rate) * syn.white_noise(rng, num_samples)
    return syn.unit_peak(body + rng.uniform(0.3, 1.5) * click)


def footsteps(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Heel and sole on some ground: a dull thump, then the scrape of gravel, wood or carpet."""
    rate = rng.uniform(1.3, 3.2)
    heel = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.06)
    train = syn.impulses(heel, rng.uniform(0.6, 1, len(heel)), num_samples)
    thump = syn.ring(
        train,
        syn.log_uniform(rng, 70, 260) * np.array([1.0, 2.3]),
        [0.03, 0.015],
        [1.0, rng.uniform(0.3, 1)],
        sample_rate,
    )
    sole = heel + int(rng.uniform(0.06, 0.14) * sample_rate)
    level = rng.uniform(0.2, 0.7)
    train = train + syn.impulses(sole[sole < num_samples], level, num_samples)
    crunch = rng.uniform(0, 1)  # 0 a smooth floor, 1 gravel
    grains = (1 - crunch) + crunch * 3 * (rng.random(num_samples, dtype=np.float32) < 0.03)
    ground = syn.band_noise(
        rng, num_samples, sample_rate, rng.uniform(200, 1500), rng.uniform(2000, 6500)
    )
    length = rng.uniform(0.008, 0.05)
    scrape = syn.decay(train, length, sample_rate, attack=0.2 * length) * ground * grains
    return syn.unit_peak(thump + syn.log_uniform(rng, 0.2, 2) * scrape)


def drips(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Drops falling into water: small bubbles whose pitch rises as they close."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, syn.log_uniform(rng, 0.8, 6), 0.45)
    length = rng.uniform(0.03, 0.12) * sample_rate
    done = syn.progress(starts, length, num_samples)
    pitches = syn.log_uniform(rng, 500, 1800) * syn.log_uniform(rng, 0.8, 1.25, len(starts))
    pitch = syn.hold(starts, pitches, num_samples) * 2 ** (rng.uniform(0.2, 1.2) * done)
    envelope = np.clip(done * 30, 0, 1) * np.exp(-5 * done) * (1 - done)
    level = syn.hold(starts, rng.uniform(0.4, 1, len(starts)), num_samples)
    tone = syn.oscillator(pitch, [1.0], num_samples, sample_rate)
    train = syn.impulses(starts, rng.uniform(0, 0.5), num_samples)
    click = syn.decay(train, 0.0015, sample_rate) * syn.white_noise(rng, num_samples)
    return syn.unit_peak(level * envelope * tone + click)


def typing(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Keyboard: quick, uneven clicks of keys pressed and, softer, released, in bursts."""
    rate = syn.log_uniform(rng, 4, 14)
    down = syn.regular_starts(rng, num_samples, sample_rate, rate, 0.75)
    down = down[(rng.random(len(down)) < 0.85) | (down == down[0])]
    up = down + (rng.uniform(0.04, 0.1, len(down)) * sample_rate).astype(np.int64)
    train = syn.impulses(down, syn.log_uniform(rng, 0.3, 1, len(down)), num_samples)
    train = train + syn.impulses(up[up < num_samples], rng.uniform(0.1, 0.5), num_samples)
    noise = syn.band_noise(rng, num_samples, sample_rate, syn.log_uniform(rng, 600, 2500), 7000)
    clicks = syn.decay(train, rng.uniform(0.002, 0.007), sample_rate) * noise
    board = syn.log_uniform(rng, 180, 700)
    plate = syn.ring(train, [board, 2.4 * board], [0.012, 0.007], [1.0, 0.6], sample_rate)
    return syn.unit_peak(clicks + rng.uniform(0.1, 0.8) * plate)


def dishes(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Plates, glasses and cutlery: bright inharmonic clinks of several objects."""
    output = np.zeros(num_samples)
    rate = syn.log_uniform(rng, 0.8, 4)
    for _ in range(rng.integers(2, 5)):
        starts = syn.random_starts(rng, num_samples, sample_rate, rate)
        train = syn.impulses(starts, syn.log_uniform(rng, 0.15, 1, len(starts)), num_samples)
        modes = syn.log_uniform(rng, 900, 3000) * np.cumprod(rng.uniform(1.1, 1.6, 4))
        decays = syn.log_uniform(rng, 0.01, 0.12) * np.array([1, 0.8, 0.6, 0.4])
        output += syn.ring(train, modes, decays, rng.uniform(0.3, 1, 4), sample_rate)
    return syn.unit_peak(output)


def knocking(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Knuckles on a door: groups of two to five dull, dry knocks."""
    starts = syn.regular_starts(rng, num_samples, sample_rate, rng.uniform(3, 8), 0.12)
    group, pause = rng.integers(2, 6), rng.integers(2, 7)
    knocks = starts[np.arange(len(starts)) % (group + pause) < group]
    train = syn.impulses(knocks, rng.uniform(0.6, 1, len(knocks)), num_samples)
    panel = syn.log_uniform(rng, 90, 350) * np.cumprod(rng.uniform(1.2, 1.9, 4))
    decays = rng.uniform(0.008, 0.03) * np.array([1, 0.8, 0.6, 0.5])
    wood = syn.ring(train, panel, decays, [1.0, 0.8, 0.6, 0.4], sample_rate)
    tap = syn.decay(train, 0.002, sample_rate) * syn.white_noise(rng, num_samples)
    return syn.unit_peak(wood + rng.uniform(0.05, 0.4) * tap)


def drums(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """A drum kit in sixteenths: kick, snare and hi-hat, each with its own pattern."""
    steps = syn.regular_starts(rng, num_samples, sample_rate, rng.uniform(5, 10), 0.02)
    beat = np.arange(len(steps)) % 8
    noise = syn.white_noise(rng, num_samples)
    bright = np.diff(noise, prepend=0.0)

    def part(always, chance):
        hit = np.isin(beat, always) | (rng.random(len(steps)) < chance)
        return syn.impulses(steps, hit * rng.uniform(0.6, 1, len(steps)), num_samples)

    kick, snare, hat = part([0], 0.15), part([4], 0.05), part([], rng.uniform(0.3, 1))
    output = syn.ring(
        kick, [rng.uniform(45, 90)], [rng.uniform(0.06, 0.2)], [1.0], sample_rate
    ) + 0.2 * noise * syn.decay(kick, 0.003, sample_rate)
    skin = rng.uniform(160, 260)
    output += syn.ring(snare, [skin, 1.6 * skin], [0.05, 0.04], [0.5, 0.3], sample_rate)
    output += rng.uniform(0.2, 0.5) * noise * syn.decay(snare, rng.uniform(0.03, 0.1), sample_rate)
    ringing = syn.log_uniform(rng, 0.01, 0.08)
    output += rng.uniform(0.03, 0.15) * bright * syn.decay(hat, ringing, sample_rate)
    return syn.unit_peak(output)
