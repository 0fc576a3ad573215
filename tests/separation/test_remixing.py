import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sepssl.separation.remixing import recordings_of, remix


def test_two_recordings_of_two_channels():
    estimates = np.array([[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [4.0, 40.0]]], np.float32)
    # The channels of the first recording stay, those of the second change places.
    sources = np.asarray(remix(estimates, np.array([[0.1, 0.2], [0.9, 0.3]], np.float32)))
    np.testing.assert_array_equal(sources, [[[1.0, 10.0], [3.0, 30.0]], [[4.0, 40.0], [2.0, 20.0]]])
    np.testing.assert_array_equal(recordings_of(sources), [[3.0, 30.0], [7.0, 70.0]])


def test_three_recordings_by_hand():
    # Channel n of recording r is the number 10 r + n.
    estimates = (10 * np.arange(3)[:, None] + np.arange(3))[..., None].astype(np.float32)
    in_order = np.tile(np.array([0.1, 0.2, 0.3], np.float32), (3, 1))
    sources = np.asarray(remix(estimates, in_order))[..., 0]
    np.testing.assert_array_equal(sources, [[0, 11, 22], [10, 21, 2], [20, 1, 12]])
    np.testing.assert_array_equal(recordings_of(sources[..., None])[:, 0], [3, 33, 63])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_channel_is_used_once_and_no_two_of_a_recording_meet(count, groups, seed):
    rng = np.random.default_rng(seed)
    batch = count * groups
    channels = np.arange(batch * count, dtype=np.float32).reshape(batch, count, 1)
    uniforms = rng.random((batch, count), np.float32)
    sources = np.asarray(remix(channels, uniforms))[..., 0].astype(int)
    assert sorted(sources.ravel()) == list(range(batch * count))
    for mixture, row in enumerate(sources):
        recordings = row // count
        assert len(set(recordings)) == count
        assert set(recordings // count) == {mixture // count}  # all of its group
    np.testing.assert_array_equal(
        recordings_of(sources[..., None].astype(np.float32)), channels.sum(axis=1)
    )
