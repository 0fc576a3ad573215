import numpy as np
import pytest

from sepssl.audio.log_mel import LogMel
from sepssl.evaluation import baselines
from sepssl.evaluation.baselines import log_mel_statistics


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
