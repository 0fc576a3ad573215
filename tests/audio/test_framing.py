import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from sepssl.audio.framing import frame, overlap_add


def test_frames_of_a_ramp():
    frames = np.asarray(frame(np.arange(7.0, dtype=np.float32)[None], 4, 2))
    np.testing.assert_array_equal(frames[0], [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 0]])


def test_a_waveform_shorter_than_a_frame_gives_one():
    np.testing.assert_array_equal(
        np.asarray(frame(np.ones([1, 1], np.float32), 4, 2)), [[[1, 0, 0, 0]]]
    )


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    st.integers(1, 200), st.sampled_from([(40, 20), (8, 2), (5, 5), (55, 28), (7, 3)])
)
def test_frame_count_and_transpose(samples, sizes):
    length, hop = sizes
    rng = np.random.default_rng(samples)
    x = rng.normal(size=(1, samples)).astype(np.float32)
    frames = np.asarray(frame(x, length, hop))
    assert frames.shape[1] == 1 + max(0, -(-(samples - length) // hop))
    # <frame(x), y> = <x, overlap_add(y)>
    y = rng.normal(size=frames.shape).astype(np.float32)
    added = np.asarray(overlap_add(y, hop, samples))
    assert np.sum(frames * y) == pytest.approx(np.sum(x * added), rel=1e-4, abs=1e-4)


def test_equals_tensorflow():
    x = np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    frames = frame(x, 55, 28)
    expected = tf.signal.frame(x, 55, 28, pad_end=True)[:, : 1 - (-(300 - 55) // 28)]
    np.testing.assert_array_equal(frames, expected)
    added = tf.signal.overlap_and_add(expected, 28)[:, :300]
    np.testing.assert_allclose(overlap_add(frames, 28, 300), added, atol=1e-6)


@pytest.mark.parametrize("hop", [0, 401])
def test_frames_that_leave_gaps_are_refused(hop):
    with pytest.raises(ValueError, match=f"frame_length=400, hop={hop}"):
        frame(np.zeros([1, 800], np.float32), 400, hop)
