import numpy as np
import pytest
import soundfile

from sepssl.audio.files import read_audio
from sepssl.audio.streaming import resample_blocks, stream_audio
from sepssl.errors import InputError


def noise(samples, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=(samples, channels))


@pytest.mark.parametrize("rate", [16000, 44100, 8000, 11025])
def test_blocks_are_the_file(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(150_001, 2), rate, subtype="FLOAT")
    blocks = list(stream_audio(path, 16000))
    expected = read_audio(path, 16000)
    assert len(blocks) > 1
    found = np.concatenate(blocks)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0 if rate == 16000 else 1e-5)


def test_what_only_the_whole_file_shows_comes_last(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(100_000), 16000)
    blocks = []
    with pytest.raises(InputError, match="is silent"):
        blocks.extend(stream_audio(path, 16000))

    t = np.arange(400_000) / 192_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 60_000 * t), 192_000)
    with pytest.raises(InputError, match="nothing below 8000 Hz"):
        list(stream_audio(path, 16000))


def test_a_sample_remains_a_sample():
    """A sixth of one, at a lower rate: there is a recording, so that there is a result."""
    (block,) = resample_blocks([np.ones(1, np.float32)], 96000, 16000)
    assert block.shape == (1,)
    (block,) = resample_blocks([np.ones((1, 2), np.float32)], 96000, 16000)
    assert block.shape == (1, 2)


def test_blocks_of_any_float_are_resampled():
    sound = np.random.default_rng(0).normal(size=4000)
    found, expected = (
        np.concatenate(
            list(resample_blocks([sound[:1500].astype(t), sound[1500:].astype(t)], 16000, 8000))
        )
        for t in (np.float64, np.float32)
    )
    np.testing.assert_array_equal(found, expected)
