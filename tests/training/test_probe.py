import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from sepssl.configs import encoder_smoke
from sepssl.representation import Encoder, SmallBackbone
from sepssl.training.probe import LinearProbe, make_probe

RATE = 16000


def tone(frequency, seconds=1.0, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * frequency * t) + 0.01 * rng.normal(size=len(t))).astype("f4")


def test_classes_that_an_untrained_encoder_tells_apart_are_found_and_others_are_not():
    encoder = Encoder(SmallBackbone(16, width=4))
    low_high = [tone((300, 3000)[i % 4 // 2] * (1 + 0.01 * i), seed=i) for i in range(40)]
    labels = np.stack([[i % 4 // 2, 1 - i % 4 // 2] for i in range(40)])
    assert LinearProbe(low_high, labels)(encoder)["probe_map"] > 0.95
    rng = np.random.default_rng(0)
    maps = [LinearProbe(low_high, rng.permutation(labels))(encoder)["probe_map"] for _ in range(5)]
    assert np.mean(maps) < 0.75


def test_labels_of_a_folder_are_probed_and_broken_files_left_out(tmp_path):
    rows = ["filename,labels"]
    for i in range(12):
        soundfile.write(tmp_path / f"{i:02d}.wav", tone((300, 3000)[i // 2 % 2], 11, i), RATE)
        rows.append(f"{i:02d}.wav,{('low', 'high')[i // 2 % 2]}")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    rows.append("silent.wav,low")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = encoder_smoke.get_config().data
    data.directory = str(tmp_path)
    probe = make_probe(data, 400)
    assert [len(w) for w in probe._waveforms] == [10 * RATE] * 12
    assert probe(Encoder(SmallBackbone(16, width=4)))["probe_map"] == pytest.approx(1.0)
    (tmp_path / "labels.csv").unlink()
    assert make_probe(data, 400) is None


def test_no_clips_or_no_class_to_score_means_no_probe():
    data = ConfigDict(encoder_smoke.get_config().data)
    assert make_probe(data, 0) is None
    encoder = Encoder(SmallBackbone(16, width=4))
    same = LinearProbe([tone(300)] * 6, np.ones([6, 2]))
    assert same(encoder) == {}
