"""Scenes are what their description says, and a pure function of their key."""

import dataclasses

import numpy as np
import pytest

from sepssl.data.scenes import (
    CLASS_NAMES,
    SCENE_TYPES,
    SceneConfig,
    active_rms,
    make_scene,
)
from sepssl.data.scenes.scene import scene_labels
from sepssl.errors import InputError

SHORT = SceneConfig(duration=1.0, sample_rate=8000)


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(SHORT, 0, "train", index) for index in range(400)]


def rms(waveform):
    return np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))


def test_equal_keys_give_equal_scenes_and_others_do_not():
    first = make_scene(SHORT, 0, "train", 3)
    again = make_scene(SHORT, 0, "train", 3)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    for key in ((0, "train", 4), (1, "train", 3), (0, "test", 3)):
        other = make_scene(SHORT, *key)
        assert abs(np.corrcoef(first.mixture, other.mixture)[0, 1]) < 0.2


@pytest.mark.parametrize("config", [SHORT, SceneConfig(), SceneConfig(ambience_range_db=None)])
def test_mixture_is_the_sum_of_its_parts(config):
    for index in range(8):
        scene = make_scene(config, 1, "test", index)
        assert scene.mixture.shape == (config.num_samples,)
        assert scene.sources.shape == (4, config.num_samples)
        assert scene.mixture.dtype == scene.sources.dtype == scene.ambience.dtype == np.float32
        total = scene.sources.sum(0, dtype=np.float64) + scene.ambience
        np.testing.assert_allclose(scene.mixture, total, atol=1e-6)
        for part in (scene.mixture, scene.sources, scene.ambience):
            assert np.abs(part).max() < 1


def test_labels_and_rows_match_the_sources(scenes):
    for scene in scenes:
        names = scene.class_names
        assert len(set(names)) == len(names) == scene.num_sources == scene.labels.sum()
        assert scene.labels.dtype == np.int8
        assert {CLASS_NAMES[i] for i in np.flatnonzero(scene.labels)} == set(names)
        assert set(names) <= set(SCENE_TYPES[scene.scene_type])
        loud = np.sqrt(np.mean(scene.sources**2, axis=1)) > 0
        assert loud.tolist() == [i < scene.num_sources for i in range(4)]


def test_labels_without_the_sound(scenes):
    for index in range(50):
        np.testing.assert_array_equal(scene_labels(SHORT, 0, "train", index), scenes[index].labels)


def test_scene_types_overlap_and_cover_all_classes(scenes):
    assert len(SCENE_TYPES) >= 8
    members = [name for names in SCENE_TYPES.values() for name in names]
    assert set(members) == set(CLASS_NAMES)
    assert len(members) > 1.8 * len(CLASS_NAMES)
    assert all(len(set(names)) == len(names) for names in SCENE_TYPES.values())
    assert {scene.scene_type for scene in scenes} == set(SCENE_TYPES)
    assert {name for scene in scenes for name in scene.class_names} == set(CLASS_NAMES)


def test_source_counts_follow_their_probabilities(scenes):
    counts = np.bincount([scene.num_sources for scene in scenes], minlength=5) / len(scenes)
    # 4 standard deviations of a share of 400 draws are below 0.1.
    np.testing.assert_allclose(counts, [0, 0.2, 0.3, 0.3, 0.2], atol=0.1)
    single = SceneConfig(
        duration=0.5, sample_rate=8000, max_sources=2, source_count_probabilities=(1.0,)
    )
    assert {make_scene(single, 0, "train", index).num_sources for index in range(20)} == {1}


def test_gains_are_active_levels_within_their_range(scenes):
    gains = []
    for scene in scenes:
        levels = [active_rms(scene.sources[i], 8000) for i in range(scene.num_sources)]
        levels_db = 20 * np.log10(levels)
        # The common scale moves all of them together.
        np.testing.assert_allclose(
            levels_db - levels_db[0], scene.gains_db - scene.gains_db[0], atol=1e-3
        )
        gains.extend(scene.gains_db)
    assert -12 <= min(gains) < -11
    assert 5 < max(gains) <= 6
    assert np.mean(gains) == pytest.approx(-3, abs=0.6)


def test_active_rms_ignores_silence():
    tone = np.sin(np.arange(16000) * 0.3)
    assert active_rms(tone, 16000) == pytest.approx(np.sqrt(0.5), rel=1e-3)
    tone[4096:] = 0
    assert active_rms(tone, 16000) == pytest.approx(np.sqrt(0.5), rel=1e-3)


def test_ambience_level_is_relative_to_the_summed_sources(scenes):
    levels = []
    for scene in scenes:
        level = 20 * np.log10(rms(scene.ambience) / rms(scene.sources.sum(0)))
        assert level == pytest.approx(scene.ambience_db, abs=1e-2)
        levels.append(level)
    assert -20.01 <= min(levels) < -19
    assert -6 < max(levels) <= -4.99


def test_without_ambience_the_sources_stay_the_same():
    clean = dataclasses.replace(SHORT, ambience_range_db=None)
    for index in range(10):
        with_it, without = (make_scene(c, 5, "train", index) for c in (SHORT, clean))
        assert without.ambience_db is None
        assert not without.ambience.any()
        assert with_it.class_names == without.class_names
        correlation = np.corrcoef(with_it.sources[0], without.sources[0])[0, 1]
        assert correlation == pytest.approx(1.0, abs=1e-5)  # up to the common scale


def test_onsets_and_lengths_vary():
    config = SceneConfig(duration=5.0, sample_rate=8000)
    onsets, lengths = [], []
    for index in range(40):
        scene = make_scene(config, 2, "train", index)
        for source in scene.sources[: scene.num_sources]:
            active = np.flatnonzero(np.abs(source) > 1e-3 * np.abs(source).max())
            onsets.append(active[0] / 8000)
            lengths.append((active[-1] - active[0]) / 8000)
    assert min(onsets) < 0.3
    assert max(onsets) > 2
    assert min(lengths) < 2
    assert max(lengths) > 4.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"sample_rate": -16000}, "sample_rate=-16000"),
        ({"sample_rate": 16000.5}, "sample_rate=16000.5"),
        ({"duration": -1.0}, "duration=-1.0"),
        ({"duration": 0}, "duration=0"),
        ({"duration": float("nan")}, "duration=nan"),
        ({"max_sources": 0}, "max_sources=0"),
        ({"max_sources": 99}, "max_sources=99: expected 1 to 7"),
        ({"max_sources": 2}, "source_count_probabilities"),
        ({"source_count_probabilities": (0.5, 0.4)}, "source_count_probabilities"),
        ({"source_count_probabilities": (1.5, -0.5)}, "source_count_probabilities"),
        ({"source_count_probabilities": ()}, "source_count_probabilities"),
        ({"gain_range_db": (6, -12)}, "gain_range_db"),
        ({"gain_range_db": (float("nan"), 0)}, "gain_range_db"),
        ({"ambience_range_db": (-5, -20)}, "ambience_range_db"),
        ({"min_active_fraction": 0}, "min_active_fraction=0"),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(InputError, match=message) as caught:
        SceneConfig(**change)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_bad_keys():
    with pytest.raises(InputError, match="seed=-1"):
        make_scene(SHORT, -1, "train", 0)
    with pytest.raises(InputError, match="index=-1"):
        make_scene(SHORT, 0, "train", -1)
