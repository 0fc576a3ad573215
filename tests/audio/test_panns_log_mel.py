import keras
import numpy as np
import pytest

from sepssl.audio.log_mel import LogMel
from sepssl.audio.panns_log_mel import PannsLogMel, slaney_mel_matrix

RATES = pytest.mark.parametrize(
    ("sample_rate", "fft_length", "hop", "high_hz"),
    [(32000, 1024, 320, 14000), (16000, 512, 160, 8000)],
)


def to_mel(hz):
    """Slaney's scale: 200/3 Hz a mel up to 1 kHz = 15 mel, then a factor of 6.4 in 27 mel."""
    return 3 * hz / 200 if hz <= 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


def to_hz(mel):
    return 200 * mel / 3 if mel <= 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def panns_log_mel(waveform, sample_rate, fft_length, hop, high_hz):
    """PANNs' front end in float64 NumPy, written from its description; frames are centred."""
    padded = np.pad(waveform, fft_length // 2, mode="reflect")
    frames = 1 + len(waveform) // hop
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft_length) / fft_length)
    cut = np.stack([padded[hop * i : hop * i + fft_length] for i in range(frames)]) * window
    power = np.abs(np.fft.rfft(cut)) ** 2
    edges = [to_hz(mel) for mel in np.linspace(to_mel(50), to_mel(high_hz), 66)]
    weights = np.zeros((fft_length // 2 + 1, 64))
    for band in range(64):
        low, centre, high = edges[band : band + 3]
        for k in range(len(weights)):
            hz = k * sample_rate / fft_length
            slope = min((hz - low) / (centre - low), (high - hz) / (high - centre))
            weights[k, band] = max(0.0, slope) * 2 / (high - low)
    return 10 * np.log10(np.maximum(power @ weights, 1e-10))


@RATES
@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_equals_panns_front_end_away_from_the_ends(gain, sample_rate, fft_length, hop, high_hz):
    waveform = (gain * np.random.default_rng(0).normal(size=50 * hop)).astype(np.float32)
    log_mel = PannsLogMel(sample_rate)
    found = log_mel.spectrogram(waveform[None, 2 * hop - fft_length // 2 :])[0]
    expected = panns_log_mel(waveform.astype(np.float64), sample_rate, fft_length, hop, high_hz)
    np.testing.assert_allclose(found, expected[2:-2], atol=1e-4)
    assert log_mel.patch_samples == 95 * hop + fft_length


def test_filters_are_librosas():
    """`librosa.mel_frequencies(n_mels=40)`, 0 to 11025 Hz, as its documentation prints them."""
    documented = [0.0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221]
    documented += [682.538, 767.855, 853.173, 938.49, 1024.856, 1119.114, 1222.042, 1334.436]
    filters = slaney_mel_matrix(38, 110251, 22050, 0.0, 11025.0)  # 0.1 Hz a bin
    np.testing.assert_allclose(0.1 * filters[:, :14].argmax(axis=0), documented[1:15], atol=0.051)
    np.testing.assert_allclose(0.1 * filters.sum(axis=0), 1.0, rtol=1e-5)


def test_patches_are_stretches_of_the_spectrogram():
    waveform = np.random.default_rng(1).normal(size=(2, 70000)).astype(np.float32)
    log_mel = PannsLogMel(patch_hop_frames=96)
    mel, patches = np.asarray(log_mel.spectrogram(waveform)), np.asarray(log_mel(waveform))
    assert patches.shape == log_mel.compute_output_shape(waveform.shape) == (2, 3, 96, 64)
    for i in range(2):
        np.testing.assert_array_equal(patches[:, i], mel[:, 96 * i : 96 * i + 96])
    end = np.asarray(log_mel.spectrogram(waveform[:, -log_mel.patch_samples :]))
    np.testing.assert_allclose(patches[:, 2], end, atol=1e-3)
    before = PannsLogMel(patch_hop_frames=96, cover_end=False)
    np.testing.assert_array_equal(before(waveform), patches[:, :2])


def test_is_the_same_from_its_configuration():
    log_mel = PannsLogMel(16000, bands=32, high_hz=7000.0, patch_frames=64)
    other = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(log_mel))
    waveform = np.random.default_rng(2).normal(size=(1, 16000)).astype(np.float32)
    np.testing.assert_array_equal(other(waveform), log_mel(waveform))
    assert other.get_config() == log_mel.get_config()


def test_from_magnitudes():
    magnitude = np.array([0.0, 1e-5, 0.1, 1.0, 10.0], np.float32)
    expected = np.log(magnitude + 0.001)
    np.testing.assert_allclose(LogMel().from_magnitude(magnitude), expected, rtol=1e-6)
    expected = np.array([-100.0, -100.0, -20.0, 0.0, 20.0])
    np.testing.assert_allclose(PannsLogMel().from_magnitude(magnitude), expected, atol=1e-4)


def test_patches_of_normalised_level():
    waveform = 1e-3 * np.random.default_rng(4).normal(size=(1, 40000)).astype(np.float32)
    log_mel = PannsLogMel(16000, normalize_level="patch")
    assert PannsLogMel.from_config(log_mel.get_config()).normalize_level == "patch"
    power = 10 ** (np.asarray(PannsLogMel(16000)(waveform), np.float64) / 10)
    expected = 10 * np.log10(4.0 * power / power.mean(axis=(2, 3), keepdims=True))
    np.testing.assert_allclose(log_mel(waveform), expected, atol=1e-3)
    # Digital silence within a recording stays at the floor, however loud the rest is.
    waveform[:, 10_000:] = 0.0
    for gain in (1.0, 0.01):
        quiet = np.asarray(PannsLogMel(16000, normalize_level="waveform")(gain * waveform))
        np.testing.assert_allclose(quiet[:, -1], -100.0, atol=1e-4)


def test_magnitudes_are_those_that_a_gain_multiplies():
    waveform = np.random.default_rng(3).normal(size=(1, 16000)).astype(np.float32)
    for log_mel in (LogMel(), PannsLogMel(16000)):
        magnitude = np.asarray(log_mel.magnitude(waveform))
        np.testing.assert_allclose(log_mel.magnitude(3.0 * waveform), 3.0 * magnitude, rtol=1e-4)
        spectrogram = log_mel.spectrogram(waveform)
        np.testing.assert_array_equal(log_mel.from_magnitude(magnitude), spectrogram)
