"""The published networks: their formulas, sizes, gradients, and what every backbone must do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view

from sepssl.representation import (
    Cnn14Backbone,
    EfficientNetB0Backbone,
    MobileNetV1Backbone,
    SmallBackbone,
    VggishBackbone,
)
from sepssl.representation.backbones.batch_norm import GlobalBatchNorm

TINY = {
    Cnn14Backbone: 2,
    VggishBackbone: 2,
    MobileNetV1Backbone: 2,
    EfficientNetB0Backbone: 4,
    SmallBackbone: 2,
}
every_backbone = pytest.mark.parametrize("backbone_class", TINY)


def tiny(backbone_class, frames=96, bands=64, **kwargs):
    """A narrow backbone with batch norms that do something."""
    keras.utils.set_random_seed(0)
    backbone = backbone_class(8, width=TINY[backbone_class], **kwargs)
    backbone.build((None, frames, bands))
    rng = np.random.default_rng(0)
    for weight in backbone.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.6, 1.4, weight.shape))
        elif weight.name in ("beta", "bias", "moving_mean"):
            weight.assign(0.3 * rng.normal(size=weight.shape))
    return backbone


def patches(count, frames=96, bands=64):
    return np.random.default_rng(1).normal(size=(count, frames, bands)).astype(np.float32)


def conv(x, kernel, stride=1, bias=0.0):
    """'same' as TensorFlow means it: [b, h, w, c] and [k, k, c, d] -> [b, h / s, w / s, d]."""
    size = len(kernel)
    missing = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
    padded = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)])
    windows = sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwckl,klcd->bhwd", windows, kernel) + bias


def depthwise(x, kernel, stride):
    channels = [conv(x[..., [c]], kernel[:, :, [c]], stride) for c in range(x.shape[-1])]
    return np.concatenate(channels, axis=-1)


def pool(x, reduce):
    """2 x 2 blocks."""
    batch, height, width, channels = x.shape
    return reduce(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def norm(x, layer, epsilon):
    gamma = np.asarray(layer.gamma) if layer.scale else 1.0
    mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + np.asarray(layer.beta)


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("frames", [32, 47, 101])
def test_cnn14_equals_its_formula(frames):
    backbone = tiny(Cnn14Backbone, frames=None)
    x = patches(2, frames)
    found = backbone(x)
    x = norm(x.astype(np.float64), backbone.band_norm, 1e-5)[..., None]
    for i, (layer, after) in enumerate(zip(backbone.convs, backbone.norms, strict=True)):
        x = relu(norm(conv(x, np.asarray(layer.kernel)), after, 1e-5))
        if i % 2 == 1 and i < 11:
            x = pool(x[:, : len(x[0]) // 2 * 2], np.mean)
    assert x.shape == (2, frames // 32, 2, 64)
    time = x.mean(axis=2)
    time = time.mean(axis=1) + time.max(axis=1)
    dense = backbone.dense
    expected = relu(time @ np.asarray(dense.kernel) + np.asarray(dense.bias))
    assert expected.max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("unpooled", [0, 1])
def test_small_equals_its_formula(unpooled):
    backbone = tiny(SmallBackbone, 41, 50, unpooled_channels=unpooled)
    x = patches(2, 41, 50)
    found = backbone(x)
    x = x.astype(np.float64)[..., None]
    for layer, after in zip(backbone.convs, backbone.norms, strict=True):
        x = relu(norm(conv(x, np.asarray(layer.kernel), 2), after, 1e-3))
    pooled = 8 - 4 * unpooled
    assert x.shape == (2, 3, 4, pooled + unpooled)
    time = [
        *x[..., :pooled].mean(axis=2).transpose(2, 0, 1),
        *(x[:, :, band, c] for band in range(4) for c in range(pooled, pooled + unpooled)),
    ]
    expected = np.stack([x.mean(axis=1) + x.max(axis=1) for x in time], axis=1)
    assert expected.max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_unpooled_channels_tell_low_from_high():
    keras.utils.set_random_seed(0)
    backbone = SmallBackbone(64, width=8, unpooled_channels=12)
    low = patches(1)
    low[..., 1:] = 0.0
    changed = np.abs(np.asarray(backbone(low) - backbone(np.zeros_like(low)))[0]) > 1e-6
    assert changed[16:28].any()  # of the lowest band, after the 16 that are averaged over all
    assert not changed[52:].any()


@pytest.mark.parametrize("unpooled", [0, 1])
def test_small_takes_any_number_of_frames(unpooled):
    bands = 64 if unpooled else None
    symbol = keras.Input((None, bands))
    backbone = SmallBackbone(8, width=2, unpooled_channels=unpooled)
    model = keras.Model(symbol, backbone(symbol))
    for frames in (1, 96):
        x = patches(2, frames)
        np.testing.assert_allclose(model(x), backbone(x), rtol=1e-5)


@pytest.mark.parametrize("unpooled", [-1, 2])
def test_small_refuses_more_unpooled_channels_than_features(unpooled):
    with pytest.raises(ValueError, match=f"unpooled_channels={unpooled}: expected 0 to 1, "):
        SmallBackbone(8, width=2, unpooled_channels=unpooled).build((None, 96, 64))


def test_cnn14_refuses_patches_that_poolings_leave_nothing_of():
    with pytest.raises(ValueError, match="31 frames x 64 bands: expected at least 32"):
        Cnn14Backbone(8, width=2).build((None, 31, 64))


def test_vggish_equals_its_formula():
    backbone = tiny(VggishBackbone)
    x = patches(2)
    found = backbone(x)
    x = x.astype(np.float64)[..., None]
    convs = backbone.convs
    assert [layer.filters // 2 for layer in convs] == [1, 2, 4, 4, 8, 8]
    for i, layer in enumerate(convs):
        x = relu(conv(x, np.asarray(layer.kernel), bias=np.asarray(layer.bias)))
        if i in (0, 1, 3, 5):
            x = pool(x, np.max)
    x = x.reshape(2, 6 * 4 * 16)
    for layer in backbone.dense:
        x = relu(x @ np.asarray(layer.kernel) + np.asarray(layer.bias))
    expected = x @ np.asarray(backbone.embedding.kernel) + np.asarray(backbone.embedding.bias)
    assert expected.min() < -0.1  # no ReLU at the end
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_mobilenet_v1_equals_its_formula():
    backbone = tiny(MobileNetV1Backbone, 50, 33)
    x = patches(2, 50, 33)
    found = backbone(x)
    layers = zip(backbone.convs, backbone.norms, strict=True)

    def step(x, convolution, stride):
        layer, after = next(layers)
        return relu(norm(convolution(x, np.asarray(layer.kernel), stride), after, 1e-4))

    x = step(x.astype(np.float64)[..., None], conv, 2)
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        x = step(step(x, depthwise, stride), conv, 1)
    assert x.shape == (2, 2, 2, 8)
    expected = x.mean(axis=(1, 2))
    assert expected.max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_efficientnet_b0_equals_keras_applications():
    keras.utils.set_random_seed(0)
    reference = keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(96, 64, 1)
    )
    rng = np.random.default_rng(0)
    for weight in reference.weights:
        if weight.path.endswith(("bn/gamma", "bn/moving_variance")):
            weight.assign(rng.uniform(0.6, 1.4, weight.shape))
        elif weight.path.endswith(("bn/beta", "bn/moving_mean", "bias")):
            weight.assign(0.3 * rng.normal(size=weight.shape))
    x = patches(2)
    expected = np.asarray(reference(255.0 * x[..., None]))  # it divides by 255

    backbone = EfficientNetB0Backbone()
    backbone.build((None, 96, 64))
    values = {weight.path: np.asarray(weight) for weight in reference.weights}
    copied = 0

    def copy(layer, name):
        nonlocal copied
        for weight in layer.weights:
            value = values[f"{name}/{weight.name}"]
            weight.assign(value.reshape(weight.shape))
            copied += value.size

    def copy_pair(pair, name, name_of_norm):
        copy(pair[0], name)
        copy(pair[1], name_of_norm)

    copy_pair(backbone.stem, "stem_conv", "stem_bn")
    copy_pair(backbone.top, "top_conv", "top_bn")
    repeats = (1, 2, 2, 3, 3, 4, 1)
    names = [f"block{i + 1}{'abcd'[j]}" for i, n in enumerate(repeats) for j in range(n)]
    for name, block in zip(names, backbone.blocks, strict=True):
        if block.up is not None:
            copy_pair(block.up, f"{name}_expand_conv", f"{name}_expand_bn")
        copy_pair(block.depthwise, f"{name}_dwconv", f"{name}_bn")
        copy(block.squeeze, f"{name}_se_reduce")
        copy(block.excite, f"{name}_se_expand")
        copy_pair(block.down, f"{name}_project_conv", f"{name}_project_bn")
    assert copied == backbone.count_params() == reference.count_params() - 3  # its normalization
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(backbone(x), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("backbone_class", "counted", "besides", "published"),
    [
        # Table of Kong et al. (2020), with the classifier of 527 classes.
        (Cnn14Backbone, "trainable_weights", 2048 * 527 + 527, 80_753_615),
        # The often quoted 72.1 million of VGGish without a classifier.
        (VggishBackbone, "weights", 0, 72_141_184),
        # YAMNet's model.summary(), with the classifier of 521 classes.
        (MobileNetV1Backbone, "weights", 1024 * 521 + 521, 3_751_369),
        # Keras's EfficientNetB0, with 1000 classes, 3 colours and their normalization.
        (EfficientNetB0Backbone, "weights", 1280 * 1000 + 1000 + 2 * 9 * 32 + 7, 5_330_571),
    ],
)
def test_sizes_are_the_published_ones(backbone_class, counted, besides, published):
    backbone = backbone_class()
    backbone.build((None, 96, 64))
    count = sum(int(np.prod(weight.shape)) for weight in getattr(backbone, counted))
    assert count + besides == published


def test_mobilenet_v1_multiplies_as_often_as_yamnet():
    """YAMNet's README: 69.2 million multiplications for a patch of 0.96 s."""
    backbone = MobileNetV1Backbone()
    backbone.build((None, 96, 64))
    shape, count = (1, 96, 64, 1), 1024 * 521  # the classifier
    for layer in backbone.convs:
        shape = layer.compute_output_shape(shape)
        count += shape[1] * shape[2] * int(np.prod(layer.kernel.shape))
    assert round(count / 1e6, 1) == 69.2


@every_backbone
def test_half_precision_computes_close_to_float32(backbone_class):
    exact, half = tiny(backbone_class), tiny(backbone_class, dtype="mixed_bfloat16")
    expected, found = np.asarray(exact(patches(4))), half(patches(4))
    assert found.dtype == "bfloat16"
    assert all(weight.dtype == "float32" for weight in half.weights)
    error = np.asarray(keras.ops.cast(found, "float32")) - expected
    assert 0.0 < np.linalg.norm(error) < 0.05 * np.linalg.norm(expected)


@every_backbone
def test_every_variable_learns(backbone_class):
    backbone = tiny(backbone_class)
    x, slope = patches(8), np.random.default_rng(2).normal(size=(8, 8))
    before = [np.asarray(weight) for weight in backbone.non_trainable_weights]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(slope * tf.cast(backbone(x, training=True), tf.float64))
    # Only 1 x 1 convolutions with batch norm see a bottleneck's last shift, and take it out again.
    undone = [block.down[1].beta.path for block in getattr(backbone, "blocks", [])]
    weights = [weight for weight in backbone.trainable_weights if weight.path not in undone]
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        assert np.abs(gradient).max() > 1e-3, weight.path
    for weight, old in zip(backbone.non_trainable_weights, before, strict=True):
        assert not np.array_equal(weight, old), weight.path


def test_moving_statistics_move_by_what_the_momentum_leaves():
    layer = GlobalBatchNorm(momentum=0.8)
    batch = np.array([[1.0, 2.0], [5.0, 4.0]], np.float32)  # means 3 and 3, variances 4 and 1
    layer(batch, training=True)
    np.testing.assert_allclose(layer.moving_mean, [0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [0.8 + 0.2 * 4, 0.8 + 0.2 * 1], rtol=1e-6)
    layer(batch, training=True)
    np.testing.assert_allclose(layer.moving_mean, [0.8 * 0.6 + 0.6] * 2, rtol=1e-6)
