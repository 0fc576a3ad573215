import warnings

import keras
import numpy as np
import pytest
import soundfile

from sepssl.data.labels import with_labels
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.sources import open_clips
from sepssl.representation import Encoder, SmallBackbone
from sepssl.training.monitors import TrainingDiverged
from sepssl.training.probe import LinearProbe, make_probe

RATE = 16000


def tone(frequency, seconds=1.0, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * frequency * t) + 0.01 * rng.normal(size=len(t))).astype("f4")


def test_classes_that_an_untrained_encoder_tells_apart_are_found_and_others_are_not():
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(16, width=4))
    low_high = [tone((300, 3000)[i % 4 // 2] * (1 + 0.01 * i), seed=i) for i in range(40)]
    labels = np.stack([[i % 4 // 2, 1 - i % 4 // 2] for i in range(40)])
    assert LinearProbe(low_high, labels)(encoder)["probe_map"] > 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LinearProbe(low_high, labels[:, :1])(encoder)["probe_map"] > 0.95
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
    probe = make_probe(open_clips(tmp_path, RATE, labels=True), 400)
    assert [len(w) for w in probe._waveforms] == [10 * RATE] * 12
    assert probe(Encoder(SmallBackbone(16, width=4)))["probe_map"] == pytest.approx(1.0)


def test_subfolders_are_probed_too(tmp_path):
    for i in range(12):
        (tmp_path / ("low", "high")[i % 2]).mkdir(exist_ok=True)
        file = tmp_path / ("low", "high")[i % 2] / f"{i:02d}.wav"
        soundfile.write(file, tone((300, 3000)[i % 2], 1, i), RATE)
    probe = make_probe(with_labels(open_clips(tmp_path, RATE)), 400)
    # Sorted by name: six times "high", six times "low", which take turns.
    np.testing.assert_array_equal(probe._fit, [[1, 0]] * 3 + [[0, 1]] * 3)
    np.testing.assert_array_equal(probe._score, probe._fit)
    assert 0 < probe(Encoder(SmallBackbone(16, width=4)))["probe_map"] <= 1


def test_splits_and_folds_are_followed(tmp_path):
    """Test clips are of another class and never seen; validation clips are scored, not fitted."""
    for column, roles in (("split", ("train", "validation", "test")), ("fold", ("1", "2", "3"))):
        folder = tmp_path / column
        folder.mkdir()
        rows = [f"filename,labels,{column}"]
        for i in range(18):
            seconds = 1 + 0.1 * (i % 3)
            soundfile.write(folder / f"{i:02d}.wav", tone((300, 3000)[i % 2], seconds, i), RATE)
            rows.append(f"{i:02d}.wav,{('low', 'high')[i % 2]},{roles[i % 3]}")
        (folder / "labels.csv").write_text("\n".join(rows))
        probe = make_probe(open_clips(folder, RATE, labels=True), 400)
        seconds = [len(w) / RATE for w in probe._waveforms]
        assert seconds == [1.0, 1.1] * 6
        assert probe._scored.tolist() == [False, True] * 6
        # Classes "high", "low" of clips 0, 3, 6, ... and 1, 4, 7, ...
        np.testing.assert_array_equal(probe._fit, [[0, 1], [1, 0]] * 3)
        np.testing.assert_array_equal(probe._score, [[1, 0], [0, 1]] * 3)


def test_no_clips_or_no_class_to_score_means_no_probe():
    scenes = SceneClips(SceneConfig(duration=1.0), 0, "probe", 4)
    assert make_probe(scenes, 0) is None
    assert make_probe(None, 4) is None
    encoder = Encoder(SmallBackbone(16, width=4))
    same = LinearProbe([tone(300)] * 6, np.ones([6, 2]))
    assert same(encoder) == {}


def test_embeddings_that_are_not_numbers_stop_the_run():
    encoder = Encoder(SmallBackbone(16, width=4))
    encoder.build()
    encoder.set_weights([np.full_like(weight, np.nan) for weight in encoder.get_weights()])
    sounds, labels = [tone(300 * (1 + i % 4 // 2)) for i in range(8)], np.eye(2)[[0, 0, 1, 1] * 2]
    with pytest.raises(TrainingDiverged, match="embeddings of a labelled clip hold NaN"):
        LinearProbe(sounds, labels)(encoder)
