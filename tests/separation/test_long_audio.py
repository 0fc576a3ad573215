import types

import numpy as np
import pytest
import soxr

from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.separation.long_audio import separate_chunks, separate_stream


def shuffling_separator(seed=0):
    """Fixed shares of the mixture as channels, in another order at every call."""
    rng = np.random.default_rng(seed)

    def separate(mixture):
        shares = np.array([0.5, 0.2, 0.3], np.float32)[rng.permutation(3)]
        return shares[None, :, None] * mixture[:, None]

    return separate


def in_blocks(waveform, size=777):
    return (waveform[i : i + size] for i in range(0, len(waveform), size))


@pytest.mark.parametrize("samples", [1, 900, 1000, 1001, 1650, 12345])
def test_channels_keep_their_identity_and_add_up(samples):
    waveform = np.random.default_rng(1).normal(size=samples).astype(np.float32)
    pieces = separate_chunks(shuffling_separator(), in_blocks(waveform), 1000, 100, 20)
    channels = np.concatenate(list(pieces), axis=1)
    np.testing.assert_allclose(channels.sum(axis=0), waveform, atol=1e-6)
    shares = channels / waveform
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), rtol=1e-4)


def test_every_chunk_is_as_long_as_the_others():
    lengths = []

    def separate(mixture):
        lengths.append(mixture.shape[1])
        return mixture[:, None]

    for samples in (1001, 1780, 1781, 5000):
        list(separate_chunks(separate, in_blocks(np.ones(samples, np.float32)), 1000, 100, 20))
    assert set(lengths) == {1000}


def test_channels_that_differ_stay_in_the_separators_own_order():
    """Only what is clearly a change of order is undone, not what matches a little better."""
    rng = np.random.default_rng(1)
    waveform = rng.normal(size=3000).astype(np.float32)
    shares = iter([[0.6, 0.4], [0.45, 0.55], [0.6, 0.4]])

    def separate(mixture):
        return np.array(next(shares), np.float32)[None, :, None] * mixture[:, None]

    pieces = list(separate_chunks(separate, [waveform], 1200, 100, 0))
    found = [np.mean(piece[0] / piece.sum(axis=0)) for piece in pieces]
    np.testing.assert_allclose(found, [0.6, 0.45, 0.6], atol=1e-5)


def test_chunks_start_on_the_grid():
    waveform = np.arange(5013, dtype=np.float32)
    starts, lengths = [], []

    def separate(mixture):
        starts.append(int(mixture[0, 0]))
        lengths.append(mixture.shape[1])
        return mixture[:, None]

    pieces = separate_chunks(separate, in_blocks(waveform), 1000, 100, 20, grid=20)
    np.testing.assert_allclose(np.concatenate(list(pieces), axis=1)[0], waveform, rtol=1e-6)
    assert all(start % 20 == 0 for start in starts)
    assert set(lengths[:-1]) == {1000}
    assert 1000 <= lengths[-1] < 1020


def test_what_lies_near_a_chunks_edge_is_discarded():
    def marks_edges(mixture):
        estimate = mixture.copy()
        estimate[:, :99] = estimate[:, -99:] = 0.9
        return np.stack([estimate, mixture - estimate], axis=1)

    waveform = np.ones(5000, np.float32)
    pieces = separate_chunks(marks_edges, in_blocks(waveform), 1000, 100, 20)
    inside = np.concatenate(list(pieces), axis=1)[0, 99:-99]
    np.testing.assert_allclose(inside, np.ones(5000 - 198), atol=1e-6)


def test_chunks_that_differ_are_faded_over():
    levels = iter([1.0, 2.0])

    def separate(mixture):
        return next(levels) * mixture[:, None]

    waveform = np.ones(1500, np.float32)
    channel = np.concatenate(list(separate_chunks(separate, [waveform], 1000, 100, 20)), axis=1)[0]
    # The second chunk is due at 780: it is heard from 880, and alone from 900.
    np.testing.assert_allclose(channel[:880], 1.0)
    np.testing.assert_allclose(channel[880:900], 1.0 + (np.arange(20) + 0.5) / 20, rtol=1e-6)
    np.testing.assert_allclose(channel[900:], 2.0)


@pytest.mark.parametrize(("context", "fade"), [(500, 0), (490, 20), (-1, 0), (0, -1)])
def test_chunks_shorter_than_their_context_are_refused(context, fade):
    with pytest.raises(ValueError, match=f"context={context}, fade={fade}"):
        list(separate_chunks(shuffling_separator(), [np.ones(100)], 1000, context, fade))


@pytest.fixture(scope="module")
def separator():
    return Separator(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), "uniform")


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
@pytest.mark.parametrize("seconds", [0.001, 0.5, 2.3])
@pytest.mark.parametrize("chunk_seconds", [1.0, None])
def test_channels_add_up_at_any_rate_and_length(separator, rate, seconds, chunk_seconds):
    waveform = 0.2 * np.random.default_rng(0).normal(size=int(seconds * rate)).astype(np.float32)
    channels = separator.separate(waveform, rate, chunk_seconds)
    assert channels.shape == (3, len(waveform))
    np.testing.assert_allclose(channels.sum(axis=0), waveform, atol=1e-5)


def test_what_a_separator_leaves_out_stays_out_at_any_rate():
    quarter = types.SimpleNamespace(
        sample_rate=8000,
        basis=types.SimpleNamespace(hop=1),
        predict_on_batch=lambda x: np.float32([0.25, 0])[None, :, None] * x[:, None],
    )
    t = np.arange(32000) / 16000
    low, high = np.sin(2 * np.pi * np.outer([500, 6000], t)).astype(np.float32)
    pieces = separate_stream(quarter, in_blocks(low + high), 16000, chunk_seconds=1.5)
    channels = np.concatenate(list(pieces), axis=1)[:, 100:-100]
    # What it has not heard, above its band, is in the channels all the same.
    np.testing.assert_allclose(channels[0], (0.25 * low + high)[100:-100], atol=2e-3)
    np.testing.assert_allclose(channels[1], 0, atol=1e-6)


def test_a_recording_of_one_chunk_is_separated_whole(separator):
    waveform = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    expected = separator(waveform[None])[0]
    for chunk_seconds in (1.0, 30.0, None):
        channels = separator.separate(waveform, 16000, chunk_seconds)
        np.testing.assert_allclose(channels, expected, atol=1e-6)


def test_a_stream_is_resampled_as_a_whole_recording_is(separator):
    waveform = np.random.default_rng(0).normal(size=44100).astype(np.float32)
    pieces = separate_stream(separator, in_blocks(waveform), 44100, None, keep_rate=False)
    channels = np.concatenate(list(pieces), axis=1)
    resampled = soxr.resample(waveform, 44100, 16000, quality="HQ")
    np.testing.assert_allclose(channels, separator(resampled[None])[0], atol=1e-5)


def test_what_is_above_the_band_goes_to_channels_by_power_and_without_a_step():
    shares = iter([[0.8, 0.2], [0.5, 0.5]])  # of two chunks
    halves = types.SimpleNamespace(
        sample_rate=8000,
        basis=types.SimpleNamespace(hop=1),
        predict_on_batch=lambda x: np.float32(next(shares))[None, :, None] * x[:, None],
    )
    t = np.arange(32000) / 16000
    low, high = np.sin(2 * np.pi * np.outer([500, 6000], t)).astype(np.float32)
    pieces = separate_stream(halves, in_blocks(low + high), 16000, chunk_seconds=1.5)
    channels = np.concatenate(list(pieces), axis=1)
    # Both tones have whole periods in 32 samples.
    tone = high[:32]
    weights = channels.reshape(2, -1, 32) @ tone / (tone @ tone)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-3)
    np.testing.assert_allclose(weights[0, 10:600], 16 / 17, atol=1e-3)  # of 0.64 and 0.04
    assert weights[0, -1] == pytest.approx(0.5, abs=0.01)
    assert np.abs(np.diff(weights)).max() < 0.01


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_what_is_no_recording_is_refused(separator, shape):
    with pytest.raises(ValueError, match="waveform of shape"):
        separator.separate(np.zeros(shape, np.float32), 16000)


def test_chunks_of_a_long_recording_are_compiled_to_the_same(separator):
    waveform = np.random.default_rng(0).normal(size=32000).astype(np.float32)
    found = separator.separate(waveform, 16000, chunk_seconds=0.25)  # 10 chunks of 4000
    expected = separate_chunks(separator.predict_on_batch, [waveform], 4000, 384, 64, 32)
    np.testing.assert_allclose(found, np.concatenate(list(expected), axis=1), atol=1e-5)


def test_taken_up_after_any_chunk_the_same_to_the_last_bit(separator):
    rate = separator.sample_rate
    recording = np.random.default_rng(3).normal(size=(20 * rate + 7,)).astype(np.float32)
    blocks = np.array_split(recording, 9)
    states = []
    pieces = list(
        separate_stream(separator, blocks, rate, chunk_seconds=4.0, on_chunk=states.append)
    )
    assert len(pieces) == len(states) > 4
    assert states[-1].overlapping is None
    whole = np.concatenate(pieces, axis=1)
    for state in states[:-1]:
        rest = separate_stream(separator, blocks, rate, chunk_seconds=4.0, done=state)
        np.testing.assert_array_equal(
            np.concatenate(list(rest), axis=1), whole[:, state.position :]
        )
    with pytest.raises(ValueError, match="at the separator's sample rate"):
        list(separate_stream(separator, blocks, 2 * rate, done=states[0]))


def test_chunks_without_overlap_may_be_read_only():
    waveform = np.random.default_rng(0).normal(size=2500).astype(np.float32)

    def separate(mixture):
        estimates = np.stack([0.25 * mixture, 0.75 * mixture], axis=1)
        estimates.flags.writeable = False
        return estimates

    found = np.concatenate(list(separate_chunks(separate, [waveform], 1000, 0, 0)), axis=1)
    np.testing.assert_array_equal(found, [0.25 * waveform, 0.75 * waveform])
