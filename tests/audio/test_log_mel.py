import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sepssl.audio.log_mel import LogMel
from sepssl.audio.panns_log_mel import PannsLogMel


def yamnet_log_mel(waveform):
    """YAMNet's front end in float64 NumPy, written from its description."""
    frames = 1 + (len(waveform) - 400) // 160
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    cut = np.stack([waveform[160 * i : 160 * i + 400] for i in range(frames)]) * window
    magnitude = np.abs(np.fft.rfft(cut, 512))
    mel = lambda hz: 1127 * np.log(1 + hz / 700)  # noqa: E731
    edges = np.linspace(mel(125), mel(7500), 66)
    weights = np.zeros((257, 64))
    for k in range(1, 257):
        position = mel(k * 16000 / 512)
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            slope = min((position - low) / (centre - low), (high - position) / (high - centre))
            weights[k, band] = max(0.0, slope)
    return np.log(magnitude @ weights + 0.001)


@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_equals_yamnets_front_end(gain):
    waveform = (gain * np.random.default_rng(0).normal(size=20000)).astype(np.float32)
    found = LogMel().spectrogram(waveform[None])[0]
    np.testing.assert_allclose(found, yamnet_log_mel(waveform.astype(np.float64)), atol=1e-5)


def test_equals_yamnets_front_end_on_a_loud_sine():
    waveform = np.sin(2 * np.pi * 440 * np.arange(20000) / 16000).astype(np.float32)
    found = np.exp(LogMel().spectrogram(waveform[None])[0])
    expected = np.exp(yamnet_log_mel(waveform.astype(np.float64)))
    # Before the logarithm: bands 100 dB below the sine hold the rounding of a float32 FFT.
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())


def test_patches_are_stretches_of_the_spectrogram():
    waveform = np.random.default_rng(1).normal(size=(2, 40000)).astype(np.float32)
    log_mel = LogMel()
    mel, patches = np.asarray(log_mel.spectrogram(waveform)), np.asarray(log_mel(waveform))
    assert patches.shape == log_mel.compute_output_shape(waveform.shape) == (2, 5, 96, 64)
    for i in range(4):
        np.testing.assert_array_equal(patches[:, i], mel[:, 48 * i : 48 * i + 96])
    # One more ends with the last sample, between the frames of the others.
    for found, end in zip(patches[:, 4], waveform[:, -15600:], strict=True):
        np.testing.assert_allclose(found, yamnet_log_mel(end.astype(np.float64)), atol=1e-4)
    # As files have it that were saved before.
    config = log_mel.get_config()
    assert config.pop("cover_end") is True
    before = LogMel.from_config(config)
    assert before.compute_output_shape(waveform.shape) == (2, 4, 96, 64)
    np.testing.assert_array_equal(before(waveform), patches[:, :4])


@pytest.mark.parametrize("kind", [LogMel, PannsLogMel])
def test_waveforms_are_not_rounded_under_any_policy(kind):
    waveform = np.random.default_rng(2).normal(size=(1, 20000)).astype(np.float32)
    expected = np.asarray(kind(sample_rate=16000, high_hz=7500.0)(waveform))
    for policy in ("mixed_float16", "bfloat16"):
        half = kind(sample_rate=16000, high_hz=7500.0, dtype=policy)
        np.testing.assert_array_equal(half(waveform), expected)


def test_every_sample_counts():
    """Half of full scale in 10 samples before the end, in hops of an eighth of a patch's."""
    log_mel = LogMel()
    for samples in range(15600, 15600 + 2 * 7680, 960):
        waveform = np.zeros([1, samples], np.float32)
        silence = np.log(np.float32(0.001))
        waveform[0, -60:-50] = 0.5  # weighed by 0.14 and more
        patches = np.asarray(log_mel(waveform))
        assert patches.shape[1] == log_mel.num_patches(samples)
        assert patches[0, -1, -1].max() > silence + 1


@pytest.mark.parametrize("normalize_level", ["waveform", "patch"])
def test_levels_are_normalised(normalize_level):
    rng = np.random.default_rng(4)
    loud, quiet = 0.1 * rng.normal(size=15600), 1e-4 * rng.normal(size=15600)
    waveform = np.concatenate([quiet, loud, quiet]).astype(np.float32)
    found = np.asarray(LogMel(normalize_level=normalize_level)(waveform[None]))[0]
    starts = [0, 7680, 15360, 23040, 30720, 31200]  # the last one ends with the waveform
    cut = [waveform[start : start + 15600].astype(np.float64) for start in starts]
    mel = np.exp([yamnet_log_mel(patch) for patch in cut]) - 0.001
    rms = np.sqrt(np.mean(mel**2, axis=(1, 2), keepdims=True))
    assert rms.argmax() == 2
    if normalize_level == "waveform":
        rms = rms.max()
    np.testing.assert_allclose(found, np.log(2.0 * mel / rms + 0.001), atol=1e-4)
    with pytest.raises(ValueError, match="normalize_level='file': expected one of"):
        LogMel(normalize_level="file")


@settings(max_examples=25, deadline=None)
@given(
    gain_db=st.floats(-50.0, 60.0),
    seed=st.integers(0, 99),
    normalize_level=st.sampled_from(["waveform", "patch"]),
)
def test_the_level_makes_no_difference_where_it_is_normalised(gain_db, seed, normalize_level):
    waveform = 0.1 * np.random.default_rng(seed).normal(size=(1, 20000))
    waveform[:, :5000] *= 0.01
    log_mel = LogMel(normalize_level=normalize_level)
    expected = np.asarray(log_mel(waveform.astype(np.float32)))
    found = log_mel((10 ** (gain_db / 20) * waveform).astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_silence_is_not_amplified_to_sound():
    log_mel = LogMel(normalize_level="waveform")
    np.testing.assert_allclose(log_mel(np.zeros([1, 15600], np.float32)), np.log(0.001), atol=1e-3)
    # By 60 dB at most: rounding at 24 bits comes to about the offset.
    rounding = np.random.default_rng(5).uniform(-(2.0**-24), 2.0**-24, size=15600)
    found = np.exp(np.asarray(log_mel(rounding[None].astype(np.float32)))) - 0.001
    mel = np.exp(yamnet_log_mel(1000 * rounding)) - 0.001
    np.testing.assert_allclose(found[0, 0], mel, rtol=1e-2, atol=1e-6)


def test_a_short_waveform_is_padded_to_one_patch():
    waveform = np.random.default_rng(2).normal(size=(1, 700)).astype(np.float32)
    padded = np.pad(waveform, ((0, 0), (0, 15600 - 700)))
    np.testing.assert_array_equal(LogMel()(waveform), LogMel()(padded))
    assert LogMel().patch_samples == 15600


@pytest.mark.parametrize("normalize_level", ["none", "waveform", "patch"])
def test_dynamic_length_and_finite_gradient_on_silence(normalize_level):
    log_mel = LogMel(normalize_level=normalize_level)

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(log_mel(x))
        return y, tape.gradient(y, x)

    for samples in (1, 15600, 30000):
        value, slope = gradient(tf.zeros([1, samples]))
        patches = {1: 1, 15600: 1, 30000: 3}[samples]
        # The floor of magnitudes is amplified, too.
        margin = 1e-5 if normalize_level == "none" else 1e-4
        assert float(value) == pytest.approx(patches * 96 * 64 * np.log(0.001), rel=margin)
        assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("samples", [1, 15600, 15601, 15600 + 7680, 40000])
def test_a_graph_of_unknown_sizes_gives_the_same_patches(samples):
    log_mel = LogMel()
    of_any_size = tf.function(log_mel, input_signature=[tf.TensorSpec([None, None], tf.float32)])
    for batch in (1, 3):
        waveform = np.random.default_rng(3).normal(size=(batch, samples)).astype(np.float32)
        found = of_any_size(waveform)
        assert found.shape == log_mel.compute_output_shape(waveform.shape)
        np.testing.assert_allclose(found, log_mel(waveform), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"sample_rate": 0},
        {"low_hz": -1000.0},
        {"low_hz": 7500.0},
        {"low_hz": 8000.0},
        {"high_hz": 8001.0},
        {"offset": -1.0},
    ],
)
def test_arguments_that_give_no_spectrogram_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        LogMel(**options)
