import json

import numpy as np
import pytest
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.representation.saved_model import (
    SavedModelEmbedder,
    sample_rate_of,
    saved_model_digest,
)


class Means(tf.Module):
    """Embeds windows of 4 samples as [mean, gain * first]; several forms of the same."""

    def __init__(self, gain=2.0):
        self.gain = tf.Variable(gain)

    def windows(self, waveform):
        frames = tf.signal.frame(waveform, 4, 4)
        return tf.stack([tf.reduce_mean(frames, -1), self.gain * frames[..., 0]], axis=-1)

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def hub(self, waveform):
        return tf.zeros([3, 7]), self.windows(waveform)

    @tf.function(input_signature=[tf.TensorSpec([None, None], name="waveform")])
    def batched(self, waveform):
        return {"embedding": self.windows(waveform), "other": waveform}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="audio")])
    def fixed(self, audio):
        return {"vector": self.windows(audio)[:, 0]}

    @tf.function(input_signature=[tf.TensorSpec([None], name="audio")])
    def strings(self, audio):
        return {"vector": tf.strings.as_string(audio)}

    @tf.function(input_signature=[tf.TensorSpec([None], name="audio")])
    def logarithm(self, audio):
        return {"vector": tf.math.log(audio)}

    @tf.function(input_signature=[tf.TensorSpec([None], name="audio")])
    def brain(self, audio):
        return {"vector": tf.cast(2 * audio, tf.bfloat16)}

    @tf.function(input_signature=[tf.TensorSpec([None], name="audio")])
    def double(self, audio):
        return {"vector": 1e39 * tf.cast(audio, tf.float64)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([])])
    def two(self, audio, rate):
        return {"vector": audio + rate}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    module = Means()
    names = ("batched", "brain", "double", "fixed", "logarithm", "strings", "two")
    signatures = {name: getattr(module, name) for name in names}
    served = signatures | {"serving_default": module.batched}
    tf.saved_model.save(module, str(folder / "served"), signatures=served)
    module.__call__ = module.hub
    tf.saved_model.save(module, str(folder / "hub"), signatures=signatures)
    module.gain.assign(3.0)
    tf.saved_model.save(module, str(folder / "louder"), signatures=signatures)
    return folder


WAVEFORM = np.arange(10, dtype=np.float32)
EXPECTED = [[1.5, 0], [5.5, 8]]  # of samples 0 to 7; two more do not fill a window


def test_the_object_takes_samples_and_gives_a_sequence(saved):
    embed = SavedModelEmbedder(saved / "hub", output="1")
    np.testing.assert_allclose(embed(WAVEFORM), EXPECTED)
    np.testing.assert_allclose(embed(WAVEFORM[4:9]), EXPECTED[1:])


def test_signatures_take_a_batch_of_any_or_one_length(saved):
    for folder, signature in (("hub", "batched"), ("served", "")):
        np.testing.assert_allclose(
            SavedModelEmbedder(saved / folder, signature)(WAVEFORM), EXPECTED
        )
    # The last part is padded: 8 + 9 over 4.
    found = SavedModelEmbedder(saved / "hub", "fixed")(WAVEFORM)
    np.testing.assert_allclose(found, [*EXPECTED, [4.25, 16]])


def test_numbers_of_other_precisions(saved):
    found = SavedModelEmbedder(saved / "hub", "brain")(WAVEFORM)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [2 * WAVEFORM])


def test_what_cannot_be_called(saved, tmp_path):
    with pytest.raises(InputError, match="hub: has several outputs; expected the name of one: 0"):
        SavedModelEmbedder(saved / "hub")(WAVEFORM)
    with pytest.raises(InputError, match=r"no output 'x'; .* embedding \[1, 2, 2\], other \[1, 10"):
        SavedModelEmbedder(saved / "hub", "batched", "x")(WAVEFORM)
    with pytest.raises(InputError, match="no signature 'x'; expected one of: batched, brain, dou"):
        SavedModelEmbedder(saved / "hub", "x")
    with pytest.raises(InputError, match="signature 'two' takes audio, rate; expected a waveform"):
        SavedModelEmbedder(saved / "hub", "two")
    (tmp_path / "saved_model.pb").write_text("not a graph")
    with pytest.raises(InputError, match=r"cannot be loaded: .*; expected a SavedModel"):
        SavedModelEmbedder(tmp_path)


def test_outputs_that_cannot_be_used(saved):
    embed = SavedModelEmbedder(saved / "hub", output="1")
    with pytest.raises(InputError, match=r"gives float32 \[0, 2\] for 3 samples; expected one or"):
        embed(WAVEFORM[:3])  # shorter than a window
    with pytest.raises(InputError, match=r"gives object \[10\]; expected numbers, \[dim\]"):
        SavedModelEmbedder(saved / "hub", "strings")(WAVEFORM)
    with pytest.raises(InputError, match=r"gives float64 \[10\] with NaN or infinity"):
        SavedModelEmbedder(saved / "hub", "double")(WAVEFORM)  # beyond float32
    embed = SavedModelEmbedder(saved / "hub", "logarithm")
    with pytest.raises(InputError, match=r"gives float32 \[10\] with NaN or infinity"):
        embed(WAVEFORM)
    np.testing.assert_allclose(embed(WAVEFORM[1:4]), [np.log([1, 2, 3])], rtol=1e-6)
    with pytest.raises(InputError, match=r"\[4\] for 4 samples; expected embeddings of 3 values"):
        embed(WAVEFORM[1:5])


def test_digest_and_sample_rate(saved, tmp_path):
    digests = {saved_model_digest(saved / name) for name in ("hub", "louder", "served")}
    assert len(digests) == 3
    assert sample_rate_of(tmp_path) is None
    (tmp_path / "card.json").write_text(json.dumps({"sample_rate": 32000}))
    assert sample_rate_of(tmp_path) == 32000
