import numpy as np
import pytest

from sepssl.audio.log_mel import LogMel
from sepssl.evaluation import baselines
from sepssl.evaluation.baselines import log_mel_statistics, untrained_like
from sepssl.representation import Encoder, SmallBackbone


@pytest.mark.parametrize("samples", [100, 400, 16000 * 3 + 77])
def test_statistics_do_not_depend_on_the_stretches(samples, monkeypatch):
    waveform = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    waveform *= np.linspace(0, 1, samples, dtype=np.float32)
    log_mel = LogMel()
    mel = np.asarray(log_mel.spectrogram(np.pad(waveform, (0, max(0, 400 - samples)))[None]))[0]
    monkeypatch.setattr(baselines, "_STRETCH_FRAMES", 100)
    mean, deviation, highest = log_mel_statistics(log_mel, waveform).reshape(3, 64)
    np.testing.assert_allclose(mean, mel.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(deviation, mel.std(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(highest, mel.max(axis=0), rtol=1e-5)


def test_baselines_are_those_of_the_encoder():
    encoder = Encoder(SmallBackbone(embedding_size=8, width=2), LogMel(bands=40))
    untrained, same, other = (untrained_like(encoder, seed) for seed in (5, 5, 6))
    waveform = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    found = baselines.baselines(untrained)
    embedding = found.untrained_encoder(waveform)
    np.testing.assert_allclose(embedding, same(waveform[None])[0], atol=1e-6)
    for different in (other, encoder):
        assert np.abs(embedding - different(waveform[None])[0]).max() > 1e-3
    statistics = log_mel_statistics(encoder.log_mel, waveform)
    np.testing.assert_array_equal(found.log_mel_statistics(waveform), statistics)
    assert statistics.shape == (120,)
