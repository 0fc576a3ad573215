import keras
import numpy as np
import pytest
import tensorflow as tf

import sepssl
from sepssl.errors import InputError
from sepssl.inference import embed, embed_windows, separate
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator, STFTBasis
from sepssl.serialization import save_model


def test_defaults_have_the_published_number_of_parameters():
    separator = Separator()
    separator.build((None, None))
    assert separator.count_params() == 9_067_009


VARIANTS = {
    "learned": lambda: Separator(3, LearnedBasis(16), TDCN(8, 12, 2, 2)),
    "stft": lambda: Separator(3, STFTBasis(64, 16), TDCN(8, 12, 2, 2), "uniform", True),
    "long_skips": lambda: Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 3, True), "power"),
    "bfloat16": lambda: Separator(
        2, STFTBasis(64, 32), TDCN(8, 12, 2, 2, dtype="mixed_bfloat16"), dtype="mixed_bfloat16"
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("samples", [1, 39, 1000])
def test_sources_add_up_to_the_mixture(variant, samples):
    mixture = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32)
    sources = VARIANTS[variant]()(mixture)
    assert sources.dtype == "float32"
    np.testing.assert_allclose(np.sum(sources, axis=1), mixture, atol=1e-5)


def test_without_consistency_nothing_is_added():
    separator = Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1), "none")
    separator.build((None, None))
    separator.mask.kernel.assign(np.zeros(separator.mask.kernel.shape))  # masks of 1/2
    mixture = np.random.default_rng(0).normal(size=(1, 500)).astype(np.float32)
    halves = np.stack([mixture / 2] * 2, axis=1)
    np.testing.assert_allclose(separator(mixture), halves, atol=1e-5)


def test_normalized_input_makes_the_output_follow_the_level():
    separator = VARIANTS["stft"]()
    mixture = np.random.default_rng(0).normal(size=(1, 800)).astype(np.float32)
    np.testing.assert_allclose(
        separator(0.01 * mixture), 0.01 * np.asarray(separator(mixture)), atol=1e-6
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_separator_is_the_same_when_loaded(variant, tmp_path):
    separator = VARIANTS[variant]()
    mixture = np.random.default_rng(0).normal(size=(2, 700)).astype(np.float32)
    expected = np.asarray(separator(mixture))
    save_model(separator, tmp_path / "separator.keras")
    loaded = sepssl.load_separator(tmp_path / "separator.keras")
    np.testing.assert_array_equal(loaded(mixture), expected)


def test_gradients_reach_every_weight_but_those_that_cancel():
    separator = Separator(3, LearnedBasis(16), TDCN(8, 12, 2, 2, True))
    mixture = np.random.default_rng(0).normal(size=(1, 400)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(separator(mixture)))
    gradients = tape.gradient(loss, [v.value for v in separator.trainable_variables])
    for variable, gradient in zip(separator.trainable_variables, gradients, strict=True):
        assert np.any(np.asarray(gradient) != 0), variable.path


def test_an_unknown_consistency_is_refused():
    with pytest.raises(ValueError, match="sample_rate=0: expected 1 Hz or more"):
        Separator(2, sample_rate=0)
    with pytest.raises(ValueError, match="mixture_consistency='sum'"):
        Separator(2, mixture_consistency="sum")


def test_a_block_equals_its_formula():
    """One TDCN++ block in float64 NumPy, from the description of the network."""
    keras.utils.set_random_seed(0)
    tdcn = TDCN(4, 6, dilations_per_repeat=2, repeats=1)
    x = np.random.default_rng(0).normal(size=(1, 9, 5))
    found = np.asarray(tdcn(x.astype(np.float32)))

    def norm(y, slope, gain, bias):
        y = np.where(y > 0, y, slope * y)
        return gain * (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-3) + bias

    y = x[0] @ np.asarray(tdcn.bottleneck.dense.kernel)
    for b, (dilation, scale) in enumerate([(1, 1.0), (2, 0.9)]):
        z = norm(y @ np.asarray(tdcn.up_kernel[b]), 0.1, 1.0, 0.0)
        padded = np.pad(z, ((dilation, dilation), (0, 0)))
        kernel = np.asarray(tdcn.conv_kernel[b])
        z = sum(kernel[k] * padded[k * dilation : k * dilation + 9] for k in range(3))
        z = norm(z, 0.1, 1.0, 0.0)
        y = y + scale * (z @ np.asarray(tdcn.down_kernel[b]))
    np.testing.assert_allclose(found[0], y, atol=1e-4)


def randomized(separator):
    """All weights random, so that none is a neutral 0 or 1."""
    separator.build((None, None))
    rng = np.random.default_rng(0)
    for variable in separator.weights:
        value = np.asarray(variable)
        variable.assign(value + 0.1 * rng.normal(size=value.shape).astype(np.float32))
    return separator


def loss_and_gradients(separator, mixture, compile_, training=True):
    def step(mixture):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(separator(mixture, training=training)))
        return loss, tape.gradient(loss, [v.value for v in separator.trainable_variables])

    if compile_ or not separator.tdcn.unroll:
        step = tf.function(step, jit_compile=compile_, autograph=False)
    loss, gradients = step(mixture)
    return float(loss), [np.asarray(gradient) for gradient in gradients]


@pytest.mark.parametrize("long_skips", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_loop_over_blocks_equals_their_graph(long_skips):
    """Unrolled, in a loop, and with activations computed again: the same loss and gradients."""
    # The gradient of a scale before a norm is what is left of large terms: little, by some weights.
    keras.utils.set_random_seed(0)
    mixture = np.random.default_rng(1).normal(size=(2, 900)).astype(np.float32)
    options, repeats = {"long_skips": long_skips}, 2 if long_skips else 1
    variants = [{"unroll": True}, {}, {"rematerialize": True}]
    variants.append({"unroll": True, "rematerialize": True})
    separators = [
        randomized(Separator(3, STFTBasis(64, 32), TDCN(6, 8, 2, repeats, **options, **variant)))
        for variant in variants
    ]
    for separator in separators[1:]:
        separator.set_weights(separators[0].get_weights())
    expected, expected_gradients = loss_and_gradients(separators[0], mixture, False, False)
    for separator, variant in zip(separators, variants, strict=True):
        # XLA has no gradient of a scan, and takes long to compile: one network is enough.
        loss, gradients = loss_and_gradients(
            separator, mixture, long_skips and variant is variants[-1]
        )
        assert loss == pytest.approx(expected, rel=1e-5)
        for found, gradient in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-3 * abs(gradient).max())


@pytest.mark.slow
def test_a_causal_loop_that_xla_compiles_equals_the_unrolled_blocks():
    """The whole call, and the middle of every block within a training step."""
    keras.utils.set_random_seed(0)
    mixture = np.random.default_rng(1).normal(size=(2, 320)).astype(np.float32)
    loop, unrolled = (
        randomized(Separator(3, STFTBasis(64, 32), TDCN(6, 8, 2, 1, **options), "uniform"))
        for options in ({"causal": True}, {"causal": True, "unroll": True})
    )
    loop.set_weights(unrolled.get_weights())
    compiled = tf.function(loop, jit_compile=True, autograph=False)
    for samples in (320, 133):  # a graph for each length
        expected = np.asarray(unrolled(mixture[:, :samples]))
        found = np.asarray(compiled(mixture[:, :samples]))
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    expected, expected_gradients = loss_and_gradients(unrolled, mixture, False)
    loss, gradients = loss_and_gradients(loop, mixture, False)
    assert loss == pytest.approx(expected, rel=1e-5)
    for found, gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-3 * abs(gradient).max())


@pytest.mark.parametrize("unroll", [False, True])
def test_a_causal_network_does_not_look_ahead(unroll):
    tdcn = TDCN(6, 8, 3, 2, causal=True, unroll=unroll)
    separator = randomized(Separator(2, LearnedBasis(8, 10, 5), tdcn, "uniform"))
    mixture = np.random.default_rng(1).normal(size=(1, 600)).astype(np.float32)
    changed = mixture.copy()
    changed[:, 400:] = 3.0
    # A frame of 10 samples is the whole latency.
    before, after = (np.asarray(separator(x))[..., :390] for x in (mixture, changed))
    np.testing.assert_allclose(before, after, atol=1e-6)
    assert np.abs(before).max() > 0.1


def test_causal_norms_take_the_moments_of_the_frames_so_far():
    tdcn = TDCN(4, 5, 2, 1, causal=True)
    x = np.random.default_rng(0).normal(size=(1, 50, 5)).astype(np.float32)
    found = np.asarray(tdcn._norm(x, 1.5, 0.25))[0]
    for t in range(50):
        past = x[0, : t + 1].astype(np.float64)
        expected = 1.5 * (past[-1] - past.mean(0)) / np.sqrt(past.var(0) + 1e-3) + 0.25
        np.testing.assert_allclose(found[t], expected, atol=1e-4)


def test_causal_norms_are_exact_far_from_zero_and_for_long():
    frames, offset = 30_000, 1000.0
    x = np.random.default_rng(0).normal(size=(1, frames, 3)) + np.array([offset, -offset, 0.0])
    x[:, 0] = 0.0  # digital silence first: the first frame says nothing of the mean
    x = x.astype(np.float32)
    found = np.asarray(TDCN(4, 5, 2, 1, causal=True)._norm(x, 1.5, 0.25))[0]
    past = x[0].astype(np.float64)
    count = np.arange(1, frames + 1)[:, None]
    mean = np.cumsum(past, axis=0) / count
    variance = np.cumsum(np.square(past - mean[-1]), axis=0) / count - np.square(mean - mean[-1])
    expected = 1.5 * (past - mean) / np.sqrt(np.maximum(variance, 0) + 1e-3) + 0.25
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(expected).max() > 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mixture_consistency": "uniform", "normalize_input": True}, "normalize_input=True"),
        ({"mixture_consistency": "predicted"}, "mixture_consistency='predicted'"),
        ({"mixture_consistency": "power"}, "mixture_consistency='power'"),
    ],
)
def test_options_that_look_ahead_are_refused_for_a_causal_network(options, says):
    with pytest.raises(ValueError, match=f"causal=True, but {says}.* looks ahead"):
        Separator(2, STFTBasis(64, 32), TDCN(6, 8, 3, 2, causal=True), **options)


@pytest.mark.parametrize("rate", [-1, 0, 44100.5])
def test_rates_of_waveforms_that_cannot_be(rate):
    separator = Separator(2, STFTBasis(64, 32), TDCN(4, 8, 1, 1), "uniform")
    with pytest.raises(InputError, match=f"sample_rate is {rate}; expected a positive"):
        separator.separate(np.ones(100, np.float32), rate)
    with pytest.raises(InputError, match=f"sample_rate is {rate}; expected a positive"):
        separate(separator, np.ones(100, np.float32), rate)


@pytest.mark.parametrize("sample", [np.nan, np.inf, -32768.0])
def test_samples_that_cannot_be_are_named(sample):
    """Beyond full scale a separator takes all that is finite, as it is: sums of recordings too."""
    separator = Separator(2, STFTBasis(64, 32), TDCN(4, 8, 1, 1), "uniform")
    encoder = Encoder(SmallBackbone(8, width=2))
    waveform = np.zeros(16000, np.float32)
    waveform[7000] = sample
    if np.isfinite(sample):
        channels = separator.separate(waveform, 16000)
        np.testing.assert_allclose(channels.sum(axis=0), waveform, atol=0.1)
    else:
        with pytest.raises(InputError, match="waveform: holds NaN or infinity"):
            separator.separate(waveform, 16000)
    for use in (
        lambda: separate(separator, waveform, 8000),
        lambda: embed(encoder, waveform),
        lambda: embed_windows(encoder, waveform, 44100),
    ):
        with pytest.raises(InputError, match="waveform: holds"):
            use()


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, bool, np.complex64])
def test_samples_that_are_no_floats_are_refused(dtype):
    separator = Separator(2, STFTBasis(64, 32), TDCN(4, 8, 1, 1), "uniform")
    with pytest.raises(ValueError, match=f"waveform of {np.dtype(dtype)}: expected floats"):
        separator.separate(np.ones(100, dtype), 16000)
