"""The TFDS data set holds the scenes of `make_scene`, to 16-bit rounding."""

import io

import numpy as np
import pytest
import soundfile

from sepssl.audio.encoding import encoded
from sepssl.data.scenes import CLASS_NAMES, SCENE_TYPES, SceneConfig, make_scene
from sepssl.data.scenes.builder import SPLITS, ScenesBuilderConfig, SepsslScenes
from sepssl.errors import InputError

SCENE = SceneConfig(duration=0.5, sample_rate=8000)
SIZES = {"unlabelled": 4, "train": 3, "validation": 3, "test": 2}


def build(folder, **changes):
    config = ScenesBuilderConfig(**{**SIZES, "seed": 11, "scene": SCENE, **changes})
    builder = SepsslScenes(config=config, data_dir=folder)
    builder.download_and_prepare()
    return builder


def records(builder, split):
    return list(builder.as_dataset(split=split).as_numpy_iterator())


def decode(flac):
    waveform, sample_rate = soundfile.read(io.BytesIO(flac), dtype="float32")
    assert sample_rate == 8000
    return waveform


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("scenes"))


def test_splits_have_their_sizes(builder):
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == SIZES
    assert builder.info.file_format.value == "tfrecord"
    assert builder.info.features["labels"].feature.names == list(CLASS_NAMES)


@pytest.mark.parametrize("split", SPLITS)
def test_records_hold_the_scenes(builder, split):
    found = records(builder, split)
    expected_ids = {f"{split}-{index:06d}" for index in range(SIZES[split])}
    assert {record["id"].decode() for record in found} == expected_ids
    for record in found:
        scene = make_scene(SCENE, 11, split, int(record["id"].decode().split("-")[1]))
        assert np.abs(decode(record["audio"]) - scene.mixture).max() <= 0.5 / 32768 + 1e-7
        assert [CLASS_NAMES[label] for label in record["labels"]] == list(scene.class_names)
        assert list(SCENE_TYPES)[record["scene"]] == scene.scene_type
        assert record["num_sources"] == scene.num_sources
        stored = scene.num_sources if split in ("validation", "test") else 0
        assert len(record["sources"]) == stored
        for flac, source in zip(record["sources"], scene.sources, strict=False):
            assert np.abs(decode(flac) - source).max() <= 0.5 / 32768 + 1e-7


def test_two_builds_hold_equal_records(builder, tmp_path):
    other = build(tmp_path, workers=0)
    assert other.builder_config.name == builder.builder_config.name
    for split in ("train", "validation"):
        for a, b in zip(records(builder, split), records(other, split), strict=True):
            assert a.keys() == b.keys()
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])


def test_other_values_get_another_name():
    names = {
        ScenesBuilderConfig(**change).name
        for change in ({}, {"seed": 1}, {"train": 7}, {"scene": SCENE})
    }
    assert len(names) == 4
    assert ScenesBuilderConfig().name == ScenesBuilderConfig(workers=3).name
    assert [config.name for config in SepsslScenes.BUILDER_CONFIGS] == ["default", "tiny"]


def test_flac_keeps_full_scale():
    waveform = np.array([-1.0, 0.0, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(
        decode(encoded(waveform, 8000, "PCM_16")), [-1, 0, 0.5, 32767 / 32768], atol=1e-9
    )


def test_bad_sizes():
    with pytest.raises(InputError, match="train=0: expected"):
        ScenesBuilderConfig(train=0)
    with pytest.raises(InputError, match="seed=-2: expected"):
        ScenesBuilderConfig(seed=-2)
