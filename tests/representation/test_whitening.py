"""Whitening by pairs of views: hand-worked, against SciPy, in an encoder and its file."""

import numpy as np
import pytest
import scipy.linalg

import sepssl
from sepssl.representation.whitening import pair_whitening


def random_pairs(count, size, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.gamma(1.0, size=(count, size))
    mixed = rng.normal(size=(size, size))
    return shared + 0.1 * rng.normal(size=(count, size)) @ mixed, shared


def test_of_two_independent_directions():
    # Variances of the differences 2 and 1/2, their mean 5/4, of which 3/10 are added to each.
    a = np.array([[5.0, 4.0], [1.0, 4.0], [3.0, 5.0], [3.0, 3.0]])
    b = np.array([[3.0, 4.0]] * 4)
    kernel, bias = pair_whitening(a, b)
    np.testing.assert_allclose(kernel, np.diag([2.375**-0.5, 0.875**-0.5]), atol=1e-12)
    np.testing.assert_allclose(bias, [-3 * 2.375**-0.5, -4 * 0.875**-0.5])


def test_is_the_inverse_square_root_of_the_smoothed_covariance_of_differences():
    a, b = random_pairs(200, 7)
    kernel, bias = pair_whitening(a, b)
    within = sum(np.outer(d, d) for d in a - b) / 200
    smoothed = within + 0.3 * np.mean(np.diag(within)) * np.eye(7)
    expected = scipy.linalg.inv(scipy.linalg.sqrtm(smoothed))
    np.testing.assert_allclose(kernel, expected, rtol=1e-9, atol=1e-9)
    # Variances of the differences are then below 1.
    assert 0 < np.linalg.eigvalsh(kernel.T @ within @ kernel).max() < 1
    np.testing.assert_allclose((np.concatenate([a, b]) @ kernel + bias).mean(axis=0), 0, atol=1e-12)
    # The scale of embeddings makes no difference, nor do directions that no pair has.
    np.testing.assert_allclose(5 * pair_whitening(5 * a, 5 * b)[0], kernel)
    wide = [np.pad(x, [(0, 0), (0, 2)]) for x in (a, b)]
    assert np.isfinite(pair_whitening(*wide)[0]).all()


def test_sounds_are_told_apart_by_what_their_views_share():
    # Clips differ in eight values, their views more in two others; all point into one direction.
    rng = np.random.default_rng(0)
    spread = [0.1] * 8 + [3.0] * 2
    clips = rng.normal(size=(400, 10)) * ([1.0] * 8 + [0.0] * 2) + 10.0
    a, b = (clips + rng.normal(size=clips.shape) * spread for _ in range(2))
    kernel, bias = pair_whitening(a, b)

    def found(x, y):
        """How often the most alike of ten is the other view of the clip."""
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        alike = x.reshape(40, 10, 10) @ y.reshape(40, 10, 10).swapaxes(1, 2)
        return np.mean(alike.argmax(axis=2) == np.arange(10))

    assert found(a, b) < 0.5
    assert found(a @ kernel + bias, b @ kernel + bias) > 0.95


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (np.zeros([0, 3]), np.zeros([0, 3]), r"\[0, 3\].*expected \[pairs, size\] twice"),
        (np.zeros([2, 3]), np.zeros([2, 4]), r"\[2, 4\]"),
        (np.ones([2, 3]), np.ones([2, 3]), "do not differ"),
        (np.full([2, 3], np.nan), np.ones([2, 3]), "finite"),
    ],
)
def test_pairs_that_say_nothing(a, b, reason):
    with pytest.raises(ValueError, match=reason):
        pair_whitening(a, b)


def encoder():
    made = sepssl.Encoder(sepssl.SmallBackbone(6, width=2), sepssl.LogMel())
    made.build()
    return made


def test_an_encoder_is_whitened_and_whitened_again(tmp_path):
    plain = encoder()
    waveform = 0.1 * np.random.default_rng(1).normal(size=[3, 40000]).astype(np.float32)
    before = np.asarray(plain(waveform), np.float64)
    a, b = random_pairs(50, 6)
    once = sepssl.whitened(plain, a, b)
    kernel, bias = pair_whitening(a, b)
    # Several patches: the mean over them may come before the map or after it.
    np.testing.assert_allclose(np.asarray(once(waveform)), before @ kernel + bias, atol=1e-5)
    c, d = random_pairs(50, 6, seed=2)
    twice = sepssl.whitened(once, c, d)
    second, shift = pair_whitening(c, d)
    expected = (before @ kernel + bias) @ second + shift
    np.testing.assert_allclose(np.asarray(twice(waveform)), expected, atol=1e-4)
    assert isinstance(twice.backbone.backbone, sepssl.SmallBackbone)
    np.testing.assert_allclose(np.asarray(once(waveform)), before @ kernel + bias, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(plain(waveform)), before.astype(np.float32))
    sepssl.save_model(twice, tmp_path / "twice.keras")
    loaded = sepssl.load_encoder(tmp_path / "twice.keras")
    np.testing.assert_allclose(loaded(waveform), twice(waveform), atol=1e-6)
    with pytest.raises(ValueError, match="pairs of 5 values: expected the encoder's 6"):
        sepssl.whitened(plain, *random_pairs(50, 5))
