import keras
import numpy as np
import pytest
from scipy import signal

from sepssl.separation.basis import LearnedBasis, STFTBasis


@pytest.mark.parametrize("samples", [1, 255, 256, 1000, 4097])
@pytest.mark.parametrize(("frame_length", "hop"), [(512, 256), (512, 128), (64, 8)])
def test_stft_reconstructs_exactly(samples, frame_length, hop):
    x = np.random.default_rng(samples).normal(size=(2, samples)).astype(np.float32)
    np.testing.assert_allclose(STFTBasis(frame_length, hop)(x), x, atol=2e-6)


def test_stft_magnitudes_equals_scipys():
    x = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    features, _ = STFTBasis(512, 256).analyze(x[None])
    window = np.sqrt(signal.windows.hann(512, sym=False)) / 16  # sqrt of the sum of squares
    padded = np.pad(x, 256)
    expected = [np.abs(np.fft.rfft(padded[i : i + 512] * window)) for i in range(0, 4097, 256)]
    np.testing.assert_allclose(features[0], expected, atol=1e-5)


def test_stft_bins_of_noise_have_its_rms():
    x = np.random.default_rng(0).normal(size=(1, 65536)).astype(np.float32)
    features, _ = STFTBasis(256, 64).analyze(x)
    assert np.sqrt(np.mean(np.square(features))) == pytest.approx(1.0, rel=0.02)


def test_learned_basis_equals_its_formula():
    basis = LearnedBasis(num_coefficients=6, frame_length=8, hop=4)
    x = np.random.default_rng(0).normal(size=(1, 18)).astype(np.float32)
    found = np.asarray(basis(x))
    w, v = (np.asarray(layer.kernel) for layer in (basis.encoder, basis.decoder))
    expected = np.zeros(20)
    for i in range(4):  # 1 + ceil((18 - 8) / 4) frames
        frame = np.pad(x[0], (0, 2))[4 * i : 4 * i + 8]
        expected[4 * i : 4 * i + 8] += np.maximum(frame @ w, 0) @ v
    np.testing.assert_allclose(found[0], expected[:18], atol=1e-5)


def test_windows_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="frame_length=512, hop=512"):
        STFTBasis(512, 512)


@pytest.mark.parametrize("basis", [LearnedBasis(6, 8, 4), STFTBasis(64, 32)])
def test_the_shape_is_known_without_a_call(basis):
    assert basis.compute_output_shape((None, 100)) == (None, 100)
    assert keras.Sequential([keras.Input((100,)), basis]).output_shape == (None, 100)


@pytest.mark.parametrize("num_samples", [50, 100, 101, 200])
def test_a_learned_basis_never_runs_one_clip_into_the_next(num_samples):
    basis = LearnedBasis(8, 40, 20)
    waveform = np.random.default_rng(0).normal(size=[2, 100]).astype(np.float32)
    _, coefficients = basis.analyze(waveform)
    masks = np.ones([2, 3, 4, 8], np.float32)
    found = np.asarray(basis.synthesize(masks, coefficients, num_samples))
    frames = np.asarray(coefficients[0]) @ np.asarray(basis.decoder.kernel)
    expected = np.zeros([2, 100], np.float32)
    for i in range(4):
        expected[:, 20 * i : 20 * i + 40] += frames[:, i]
    np.testing.assert_allclose(
        found, np.repeat(expected[:, None, :num_samples], 3, axis=1), atol=1e-5
    )
