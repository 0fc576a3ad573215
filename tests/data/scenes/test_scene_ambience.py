"""The ambience differs from clip to clip and has the parts it says."""

import numpy as np
import pytest

from sepssl.data.scenes.ambience import Microphone, coloured_noise, mains_hum, make_ambience

RATE = 16000


def band_db(waveform, low, high):
    """Mean power density between two frequencies in dB."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return 10 * np.log10(power[(frequencies >= low) & (frequencies < high)].mean())


def test_ambience_has_unit_rms_and_its_own_colour():
    slopes = []
    for seed in range(30):
        ambience = make_ambience(np.random.default_rng(seed), 2 * RATE, RATE)
        assert ambience.dtype == np.float32
        assert np.sqrt(np.mean(ambience**2)) == pytest.approx(1.0, abs=1e-3)
        slopes.append(band_db(ambience, 200, 400) - band_db(ambience, 3200, 6400))
    assert np.std(slopes) > 5  # dB
    assert max(slopes) > 15  # some clips are dark


def test_coloured_noise_is_stationary():
    noise = coloured_noise(np.random.default_rng(1), 4 * RATE, RATE)
    levels = np.sqrt(np.mean(noise.reshape(4, RATE) ** 2, axis=1))
    assert levels.max() / levels.min() < 1.3


def test_hum_holds_harmonics_of_the_mains_only():
    for seed in range(5):
        hum = mains_hum(np.random.default_rng(seed), 4 * RATE, RATE)
        power = np.abs(np.fft.rfft(hum * np.hanning(len(hum)))) ** 2
        frequencies = np.fft.rfftfreq(len(hum), 1 / RATE)
        near = [
            np.abs(frequencies / mains - np.round(frequencies / mains)) * mains < 3
            for mains in (50, 60)
        ]
        assert max(power[mask].sum() for mask in near) / power.sum() > 0.999


def test_microphone_filters_by_its_gain_without_delay():
    microphone = Microphone.random(np.random.default_rng(3), RATE)
    for frequency in (200, 1000, 4000):
        tone = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE).astype(np.float32)
        recorded = microphone.record(tone[None], RATE)[0]
        gain = microphone.gain(np.array([frequency]))[0]
        middle = slice(4000, 12000)
        np.testing.assert_allclose(recorded[middle], gain * tone[middle], atol=0.02 * gain)
    assert microphone.gain(np.array([10.0]))[0] < 0.3
    others = [Microphone.random(np.random.default_rng(seed), RATE) for seed in range(20)]
    levels_db = [20 * np.log10(other.gain(np.array([1000.0]))[0]) for other in others]
    assert 1 < np.std(levels_db) < 5
