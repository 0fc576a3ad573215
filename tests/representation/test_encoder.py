import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import sepssl
from sepssl.audio.log_mel import LogMel
from sepssl.errors import InputError
from sepssl.representation import Encoder, SmallBackbone
from sepssl.representation.embed import embed_patches, embed_recording
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.serialization import save_model


def small_encoder(**kwargs):
    return Encoder(SmallBackbone(8, width=4, **kwargs))


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=(2, samples))).astype(np.float32)


def test_a_clip_is_the_mean_of_its_patches():
    encoder = small_encoder()
    waveform = noise(40000)
    patches = np.asarray(encoder.patch_embeddings(waveform))
    np.testing.assert_allclose(encoder(waveform), patches.mean(axis=1), atol=1e-6)
    # Patch 2 alone, cut out of the waveform: 48 frames of 160 samples a patch.
    cut = waveform[:, 2 * 7680 : 2 * 7680 + 15600]
    np.testing.assert_allclose(encoder(cut), patches[:, 2], atol=1e-5)


def test_backbone_equals_its_formula():
    keras.utils.set_random_seed(0)
    backbone = SmallBackbone(8, width=2)
    patches = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    found = np.asarray(backbone(patches))
    x = patches[..., None].astype(np.float64)
    for conv in backbone.convs:
        kernel = np.asarray(conv.kernel)
        padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # 'same' at stride 2, even size
        size = x.shape[1] // 2
        y = np.zeros((1, size, size, kernel.shape[-1]))
        for i in range(size):
            for j in range(size):
                window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                y[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel)
        x = np.maximum(y / np.sqrt(1 + 1e-3), 0)  # batch norm at its initial statistics
    time = x.mean(axis=2)
    np.testing.assert_allclose(found, time.mean(axis=1) + time.max(axis=1), atol=1e-5)


def test_stretches_have_the_level_of_the_whole_recording():
    encoder = small_encoder().with_patches(normalize_level="waveform")
    waveform = np.concatenate([0.001 * noise(50000)[0], noise(30000)[0], 0.01 * noise(40000)[0]])
    expected = np.asarray(encoder.patch_embeddings(waveform[None]))[0]
    for gain in (1.0, 0.01):
        louder = (gain * waveform).astype(np.float32)
        found = np.concatenate(list(embed_patches(encoder, louder, max_patches=3)))
        np.testing.assert_allclose(found, expected, atol=1e-3)
        found = embed_recording(encoder, louder, max_patches=3)
        np.testing.assert_allclose(found, expected.mean(axis=0), atol=1e-3)
    # Not that of each stretch.
    first = np.asarray(encoder.patch_embeddings(waveform[None, :40000]))[0]
    assert np.abs(first[:3] - expected[:3]).max() > 0.01


@pytest.mark.parametrize("samples", [1, 15600, 100000, 15600 + 11 * 7680 + 1])
@pytest.mark.parametrize("cover_end", [True, False])
def test_recordings_are_embedded_in_stretches(samples, cover_end):
    encoder = small_encoder().with_patches(cover_end=cover_end)
    waveform = noise(samples)[0]
    found = embed_recording(encoder, waveform, max_patches=3)
    np.testing.assert_allclose(found, encoder(waveform[None])[0], atol=1e-5)
    padded = np.pad(waveform, (0, max(15600 - samples, 0)))
    starts = list(range(0, len(padded) - 15599, 7680))
    if cover_end and starts[-1] + 15600 < len(padded):
        starts.append(len(padded) - 15600)
    patches = np.asarray(encoder(np.stack([padded[s : s + 15600] for s in starts])))
    np.testing.assert_allclose(found, patches.mean(axis=0), atol=1e-5)


def test_many_encoders_are_no_retracing(monkeypatch):
    said = []
    monkeypatch.setattr(tf.get_logger(), "handle", lambda record: said.append(record.getMessage()))
    for _ in range(6):
        assert list(embed_patches(small_encoder(), noise(16000)[0]))
    assert not said


def test_a_saved_encoder_is_the_same_when_loaded(tmp_path):
    encoder = Encoder(SmallBackbone(8, width=4), LogMel(patch_hop_frames=96))
    expected = np.asarray(encoder(noise(50000)))
    save_model(encoder, tmp_path / "encoder.keras")
    loaded = sepssl.load_encoder(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(noise(50000)), expected)
    assert loaded.log_mel.patch_hop_frames == 96


def test_half_precision_computes_close_to_float32(tmp_path):
    encoder = small_encoder(dtype="mixed_bfloat16")
    found = encoder(noise(20000))
    assert found.dtype == "float32"
    exact = small_encoder()
    exact(noise(20000))
    exact.set_weights(encoder.get_weights())
    np.testing.assert_allclose(found, exact(noise(20000)), rtol=0.05, atol=0.02)
    save_model(encoder, tmp_path / "encoder.keras")
    np.testing.assert_array_equal(
        sepssl.load_encoder(tmp_path / "encoder.keras")(noise(20000)), found
    )


def test_files_that_hold_no_encoder(tmp_path):
    with pytest.raises(InputError, match=r"missing\.keras: no such file"):
        sepssl.load_encoder(tmp_path / "missing.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(InputError, match=r"text\.keras: could not be loaded"):
        sepssl.load_encoder(tmp_path / "text.keras")
    separator = Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1))
    separator.build((None, None))
    save_model(separator, tmp_path / "separator.keras")
    with pytest.raises(InputError, match=r"holds a Separator; expected .* Encoder"):
        sepssl.load_encoder(tmp_path / "separator.keras")
    whole = (tmp_path / "separator.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.keras: could not be loaded"):
        sepssl.load_separator(tmp_path / "cut.keras")


def functional_backbone():
    patches = keras.Input((96, 64))
    x = keras.layers.Dense(5, name="dense")(patches)
    return keras.Model(patches, keras.layers.GlobalAveragePooling1D()(x))


def test_a_functional_model_is_a_backbone(tmp_path):
    backbone = functional_backbone()
    encoder = Encoder(backbone)
    assert encoder.embedding_size == 5
    waveform = noise(40000)
    kernel, bias = (np.asarray(w) for w in backbone.get_layer("dense").weights)
    expected = np.asarray(LogMel()(waveform)).mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(encoder(waveform), expected, atol=1e-4)
    save_model(encoder, tmp_path / "encoder.keras")
    loaded = sepssl.load_encoder(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(waveform), encoder(waveform))


def test_a_network_of_keras_applications_is_a_backbone(tmp_path):
    patches = keras.Input((96, 64))
    network = keras.applications.MobileNetV2(
        (96, 64, 1), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    encoder = Encoder(keras.Model(patches, network(keras.layers.Reshape((96, 64, 1))(patches))))
    assert encoder.embedding_size == 1280
    waveform = noise(15600)
    expected = np.asarray(network(np.asarray(LogMel()(waveform))[:, 0, ..., None]))
    np.testing.assert_allclose(encoder(waveform), expected, atol=1e-5)
    encoder(waveform, training=True)  # moves its batch norms' statistics
    expected = np.asarray(encoder(waveform))
    save_model(encoder, tmp_path / "encoder.keras")
    found = sepssl.load_encoder(tmp_path / "encoder.keras")(waveform)
    np.testing.assert_array_equal(found, expected)


@keras.saving.register_keras_serializable(package="test_encoder")
class FirstAndLast(keras.layers.Layer):
    """A backbone of one's own, as short as Keras allows: without `build` and output shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, patches):
        return self.dense(keras.ops.concatenate([patches[:, 0], patches[:, -1]], axis=-1))


def test_a_layer_is_a_backbone(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        encoder = Encoder(FirstAndLast())
        assert encoder.embedding_size == 3
        waveform = noise(15600)
        kernel, bias = (np.asarray(w) for w in encoder.backbone.weights)
        patch = np.asarray(LogMel()(waveform))[:, 0]
        expected = np.concatenate([patch[:, 0], patch[:, -1]], axis=-1) @ kernel + bias
        np.testing.assert_allclose(encoder(waveform), expected, atol=1e-4)
        save_model(encoder, tmp_path / "encoder.keras")
        loaded = sepssl.load_encoder(tmp_path / "encoder.keras")
        np.testing.assert_array_equal(loaded(waveform), encoder(waveform))
        Encoder(FirstAndLast()).build()


def test_a_backbone_without_a_vector_is_refused():
    encoder = Encoder(keras.layers.Dense(5, name="flat"))
    with pytest.raises(ValueError, match=r"'flat' maps .* to \(None, 96, 5\): expected \[batch"):
        encoder.build()


@pytest.mark.parametrize("shape", [(16000,), (2, 16000, 1)])
def test_waveforms_of_other_shapes_are_refused(shape):
    separator = Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1))
    for model in (small_encoder(), separator):
        with pytest.raises(ValueError, match=r"expected \[batch, samples\]; a single one is"):
            model(np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match=r"expected \[batch, samples\]"):
            model(keras.Input(batch_shape=shape))
