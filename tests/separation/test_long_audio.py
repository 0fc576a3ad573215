import numpy as np
import pytest

from sepssl.separation.long_audio import separate_chunks


def shuffling_separator(seed=0):
    """Fixed shares of the mixture as channels, in another order at every call."""
    rng = np.random.default_rng(seed)

    def separate(mixture):
        shares = np.array([0.5, 0.2, 0.3], np.float32)[rng.permutation(3)]
        return shares[None, :, None] * mixture[:, None]

    return separate


@pytest.mark.parametrize("samples", [1, 900, 1000, 1001, 1650, 12345])
def test_channels_keep_their_identity_and_add_up(samples):
    waveform = np.random.default_rng(1).normal(size=samples).astype(np.float32)
    pieces = list(separate_chunks(shuffling_separator(), waveform, 1000, 1.0, 0.1))
    channels = np.concatenate(pieces, axis=1)
    np.testing.assert_allclose(channels.sum(axis=0), waveform, atol=1e-6)
    shares = channels / waveform
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), rtol=1e-5)


def test_what_lies_near_a_chunks_edge_is_discarded():
    def marks_edges(mixture):
        estimate = mixture.copy()
        estimate[:, :99] = estimate[:, -99:] = 0.9
        return np.stack([estimate, mixture - estimate], axis=1)

    waveform = np.ones(5000, np.float32)
    pieces = list(separate_chunks(marks_edges, waveform, 1000, 1.0, 0.1))
    inside = np.concatenate(pieces, axis=1)[0, 99:-99]
    np.testing.assert_array_equal(inside, np.ones(5000 - 198))


def test_a_context_of_half_a_chunk_is_refused():
    with pytest.raises(ValueError, match=r"context_seconds=0\.5"):
        list(separate_chunks(shuffling_separator(), np.ones(100), 1000, 1.0, 0.5))
