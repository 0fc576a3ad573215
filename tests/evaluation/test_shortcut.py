import numpy as np
import pytest

from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.scene import make_scene
from sepssl.errors import InputError
from sepssl.evaluation.shortcut import shortcut_clips, sources_preferred

CONFIG = SceneConfig(sample_rate=8000, duration=1.0)
SCENES = [make_scene(CONFIG, 3, "shortcut", index) for index in range(12)]
CLIPS = shortcut_clips(CONFIG, 3, 12)


def correlation(parts):
    """With each scene's sources, or ambience: an encoder that knows nothing else."""
    basis = np.stack([part / np.linalg.norm(part) for part in parts])
    return lambda waveform: (basis @ waveform / np.linalg.norm(waveform)) ** 2


def test_encoders_that_hear_one_or_the_other():
    sources = correlation([scene.sources.sum(axis=0) for scene in SCENES])
    assert sources_preferred(sources, CLIPS) == 1.0
    ambience = correlation([scene.ambience for scene in SCENES])
    assert sources_preferred(ambience, CLIPS) == 0.0


def test_what_the_clips_are():
    pairs = [
        (a, b)
        for a, b in zip(SCENES, SCENES[1:] + SCENES[:1], strict=True)
        if not set(a.class_names) & set(b.class_names)
    ]
    assert len(CLIPS) == len(pairs)
    for (scene, after), clips in zip(pairs, CLIPS, strict=True):
        np.testing.assert_allclose(clips[0], scene.mixture, atol=1e-6)
        for clip, sources, ambience in ((clips[1], scene, after), (clips[2], after, scene)):
            sound = sources.sources.sum(axis=0)
            parts = np.stack([sound, ambience.ambience], axis=1)
            (one, other), *_ = np.linalg.lstsq(parts, clip, rcond=None)
            np.testing.assert_allclose(parts @ [one, other], clip, atol=1e-5)
            assert np.max(np.abs(clip)) <= 1.0
            rest = np.linalg.norm(other * ambience.ambience) / np.linalg.norm(one * sound)
            assert 20 * np.log10(rest) == pytest.approx(ambience.ambience_db, abs=0.01)


def test_scenes_without_ambience():
    with pytest.raises(InputError, match="expected scenes with ambience"):
        shortcut_clips(SceneConfig(ambience_range_db=None), 0, 4)
