"""Every class sounds, varies within itself, and can be told from the others."""

import functools

import numpy as np
import pytest
from scipy import signal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_limits

from sepssl.data.scenes import CLASS_NAMES, SOURCE_CLASSES, render_source, synthesis
from sepssl.errors import InputError

RATE = 16000


def spectrum(waveform, sample_rate):
    """(frequencies [bins], power [bins, frames])"""
    frequencies, _, power = signal.spectrogram(waveform, sample_rate, nperseg=400, noverlap=240)
    return frequencies, power


@functools.cache
def look(class_name, seed):
    """Of 2 s of a class: mean and standard deviation over time of 40 log band powers, as of
    log-mel, [80], and the spectral centroid."""
    waveform = render_source(class_name, np.random.default_rng(seed), 2 * RATE, RATE)
    frequencies, power = spectrum(waveform, RATE)
    mel = np.log1p(frequencies / 700)
    centres = np.linspace(mel[2], mel[-1], 42)
    rising = (mel - centres[:-2, None]) / np.diff(centres)[:-1, None]
    falling = (centres[2:, None] - mel) / np.diff(centres)[1:, None]
    bands = np.maximum(np.minimum(rising, falling), 0) @ power
    bands = np.log(bands / bands.max() + 1e-6)
    centroid = frequencies @ power.mean(1) / power.sum(0).mean()
    return np.concatenate([bands.mean(1), bands.std(1)]), centroid


def test_classes_are_named_in_alphabetical_order():
    assert len(CLASS_NAMES) == 42
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES)
    for name, function in SOURCE_CLASSES.items():
        assert function.__name__ == name
        assert function.__doc__


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_sounds_at_every_length_and_rate(class_name):
    for sample_rate in (8000, 16000, 22050):
        for seconds in (0.1, 0.5, 1.0, 5.0)[: 4 if sample_rate == RATE else 3]:
            samples = int(seconds * sample_rate)
            for seed in range(2):
                dry = SOURCE_CLASSES[class_name](np.random.default_rng(seed), samples, sample_rate)
                wet = render_source(class_name, np.random.default_rng(seed), samples, sample_rate)
                for waveform in (dry, wet):
                    assert waveform.dtype == np.float32
                    assert waveform.shape == (samples,)
                    assert np.isfinite(waveform).all()
                    assert np.abs(waveform).max() == pytest.approx(1.0, abs=1e-6)
                    assert abs(waveform.mean()) < 0.1


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_varies_within_a_class_and_not_within_a_seed(class_name):
    levels_db, centroids = [], []
    for seed in range(12):
        statistics, centroid = look(class_name, seed)
        levels_db.append(statistics[:40] * 10 / np.log(10))
        centroids.append(centroid)
    assert max(centroids) / min(centroids) > 1.3
    # The sparse classes (drips, knocks) are at the floor of the statistics most of the time.
    assert np.median(np.std(levels_db, axis=0)) > 1.2
    first, again = (
        render_source(class_name, np.random.default_rng(11), RATE, RATE) for _ in range(2)
    )
    np.testing.assert_array_equal(again, first)


@threadpool_limits.wrap(limits=1)  # matrices too small for threads, on CPUs that others use
def test_a_linear_classifier_tells_most_isolated_sources_apart():
    features, labels, seeds = [], [], []
    for label, class_name in enumerate(CLASS_NAMES):
        for seed in range(24):
            features.append(look(class_name, seed)[0])
            labels.append(label)
            seeds.append(seed)
    features, labels, held_out = np.array(features), np.array(labels), np.array(seeds) >= 16
    # Linear with a closed form: a fit of milliseconds.
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    classifier.fit(features[~held_out], labels[~held_out])
    accuracy = classifier.score(features[held_out], labels[held_out])
    assert 0.6 < accuracy < 0.95, accuracy


def test_bell_partials_are_inharmonic_and_decay():
    train = synthesis.impulses([0], 1.0, RATE)
    partials = synthesis.ring(train, [440.0, 1056.0], [0.2, 0.2], [1.0, 1.0], RATE)
    frequencies, power = spectrum(partials, RATE)
    peaks = frequencies[signal.find_peaks(power[:, 5], height=power[:, 5].max() / 10)[0]]
    np.testing.assert_allclose(peaks, [440, 1056], atol=RATE / 400)
    # e^-1 in amplitude per 0.2 s: 8.69 dB; 0.6 s are 60 frames of 10 ms.
    fall_db = 10 * np.log10(power[:, 5].sum() / power[:, 65].sum())
    assert fall_db == pytest.approx(3 * 8.69, abs=0.5)


def test_oscillator_pitch_and_harmonics():
    tone = synthesis.oscillator(1000.0, [1.0, 0.5, 0.25], RATE, RATE)
    amplitude = np.abs(np.fft.rfft(tone)) * 2 / RATE
    np.testing.assert_allclose(amplitude[[1000, 2000, 3000]], [1.0, 0.5, 0.25], atol=2e-3)
    assert np.delete(amplitude, [1000, 2000, 3000]).max() < 2e-3
    high = synthesis.oscillator(7000.0, [1.0, 1.0], RATE, RATE)  # 14 kHz is left out, not folded
    amplitude = np.abs(np.fft.rfft(high)) * 2 / RATE
    assert amplitude[7000] == pytest.approx(1.0, abs=2e-3)
    assert amplitude[2000] < 2e-3


def test_progress_runs_from_start_to_end_of_each_event():
    done = synthesis.progress(np.array([2, 7]), np.array([4.0, 2.0]), 10)
    np.testing.assert_allclose(done, [1, 1, 0, 0.25, 0.5, 0.75, 1, 0, 0.5, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("siren", 16000, 0), "sample_rate=0"),
        (("siren", 100, 16000), "num_samples=100"),
        (("tuba", 16000, 16000), "'tuba'"),
    ],
)
def test_bad_arguments(arguments, message):
    class_name, samples, sample_rate = arguments
    with pytest.raises(InputError, match=message) as caught:
        render_source(class_name, np.random.default_rng(0), samples, sample_rate)
    assert "\n" not in str(caught.value)
