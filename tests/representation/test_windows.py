import tracemalloc

import keras
import numpy as np
import pytest
import soundfile

import sepssl
from sepssl.errors import InputError
from sepssl.representation import Encoder, SmallBackbone
from sepssl.representation.windows import WindowEmbedder

PATCH, HOP, RATE = 15600, 7680, 16000


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(16, width=4))
    encoder.build((None, None))
    return encoder


def noise(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=samples).astype(np.float32)


def collected(batches):
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def in_pieces(waveform, seed=0):
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(waveform), 7))
    return (piece[None] for piece in np.split(waveform, cuts) if len(piece))


def sliced(encoder, waveform, window, hop):
    """Every window on its own, by its definition: starts, and the mean over its patches."""
    starts = list(range(0, max(len(waveform) - window, 0) + 1, hop))
    if starts[-1] + window < len(waveform):
        starts.append(len(waveform) - window)
    cut, counts = [], []
    for start in starts:
        part = waveform[start : start + window]
        patches = list(range(0, max(len(part) - PATCH, 0) + 1, HOP))
        if patches[-1] + PATCH < len(part):
            patches.append(len(part) - PATCH)
        cut += [part[p : p + PATCH] for p in patches]
        counts.append(len(patches))
    vectors = np.asarray(encoder(np.stack(cut)))
    return np.array(starts), np.stack(
        [part.mean(axis=0) for part in np.split(vectors, np.cumsum(counts)[:-1])]
    )


@pytest.mark.parametrize("samples", [100, PATCH, PATCH + 1, PATCH + HOP, 400_123])
@pytest.mark.parametrize(
    ("seconds", "window", "hop"),
    [
        ((None, None), PATCH, HOP),
        ((None, 0.25), PATCH, 4000),
        ((None, 0.333), PATCH, 5328),  # not a whole number of the encoder's frames
        ((2.0, None), 32000, 16000),
        ((3.1, 1.7), 49600, 27200),
    ],
)
def test_windows_are_those_cut_one_by_one(encoder, samples, seconds, window, hop):
    waveform = noise(samples)
    embedder = WindowEmbedder(encoder, *seconds)
    starts, ends, embeddings, powers = collected(embedder(in_pieces(waveform)))
    expected_starts, expected = sliced(encoder, waveform, window, hop)
    np.testing.assert_array_equal(starts, expected_starts)
    np.testing.assert_array_equal(ends, np.minimum(starts + window, samples))
    assert ends[-1] == samples
    np.testing.assert_allclose(embeddings[:, 0], expected, atol=2e-6)
    parts = [waveform[s:e].astype(np.float64) for s, e in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(powers[:, 0], [np.mean(p**2) for p in parts], rtol=1e-4)


def test_taken_up_in_the_middle_the_same_to_the_last_bit(encoder):
    waveform = noise(900_000)
    for seconds in ((None, None), (2.0, 1.0)):
        embedder = WindowEmbedder(encoder, *seconds)
        whole = collected(embedder([waveform[None]]))[2]
        for first in (embedder.batch_size(1), len(whole) // embedder.batch_size(1)):
            first = first // embedder.batch_size(1) * embedder.batch_size(1)
            rest = collected(embedder(in_pieces(waveform), first))[2]
            np.testing.assert_array_equal(rest, whole[first:])


def test_every_channel_as_on_its_own(encoder):
    two = np.stack([noise(100_000, 1), noise(100_000, 2)])
    embedder = WindowEmbedder(encoder)
    both = collected(embedder([two]))[2]
    for channel in range(2):
        alone = collected(embedder([two[channel : channel + 1]]))[2]
        np.testing.assert_allclose(both[:, channel], alone[:, 0], atol=1e-6)


@pytest.mark.parametrize("seconds", [(None, None), (None, 0.33), (2.0, 1.0)])
def test_each_window_has_a_level_of_its_own(encoder, seconds):
    encoder = encoder.with_patches(normalize_level="waveform")
    waveform = noise(90_000)
    waveform[20_000:60_000] *= 0.003
    embedder = WindowEmbedder(encoder, *seconds)
    starts, ends, embeddings = collected(embedder([waveform[None]]))[:3]
    for start, end, found in zip(starts, ends, embeddings[:, 0], strict=True):
        np.testing.assert_allclose(found, encoder(waveform[None, start:end])[0], atol=1e-4)


def test_noise_in_the_last_half_second_is_heard(encoder):
    """1.454 s: the last 0.475 s lie in no whole patch that begins at a multiple of the hop."""
    quiet = 0.01 * noise(23264)
    loud = quiet.copy()
    loud[-7600:] = noise(7600, 1) * 10
    assert np.abs(encoder(quiet[None]) - encoder(loud[None])).max() > 0.01
    grid = encoder.with_patches(cover_end=False)
    np.testing.assert_array_equal(grid(quiet[None]), grid(loud[None]))
    # Windows reach the end whatever the encoder does of itself.
    for each in (encoder, grid):
        before, after = (sepssl.embed_windows(each, x)[2] for x in (quiet, loud))
        np.testing.assert_array_equal(before[0], after[0])
        assert np.abs(before[1] - after[1]).max() > 0.01


def test_of_a_file_and_of_an_array(encoder, tmp_path):
    waveform = noise(100_000)
    soundfile.write(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    starts, ends, embeddings = sepssl.embed_windows(encoder, tmp_path / "a.wav")
    again = sepssl.embed_windows(encoder, waveform)
    np.testing.assert_array_equal(embeddings, again[2])
    assert starts[1] == 0.48
    assert ends[-1] == 6.25
    # Their mean is the embedding of the recording.
    np.testing.assert_allclose(embeddings.mean(axis=0), sepssl.embed(encoder, waveform), atol=1e-6)


def test_memory_does_not_grow_with_the_recording(encoder):
    def peak(minutes):
        block = noise(RATE * 10)[None]
        tracemalloc.start()
        for _ in WindowEmbedder(encoder)(block for _ in range(6 * minutes)):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)
    assert peak(4) < 1.1 * peak(2)


def test_lengths_that_cannot_be(encoder):
    for window, hop, message in (
        (0.5, None, "window_seconds=0.5: expected the encoder's patch of 0.975 s or more"),
        (2.0, 3.0, "hop_seconds=3.0: expected one sample"),
        (None, 1e-9, "hop_seconds=1e-09"),
    ):
        with pytest.raises(InputError, match=message):
            WindowEmbedder(encoder, window, hop)
    apart = encoder.with_patches(patch_hop_frames=200)
    with pytest.raises(InputError, match="hop_seconds=None, and the encoder's is 2 s: expected"):
        WindowEmbedder(apart)
    assert WindowEmbedder(apart, hop_seconds=0.5).hop == 8000
