import pathlib

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from sepssl.data.mixtures import MixtureConfig, Mixtures
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.evaluation.retrieval import expected_random_ap
from sepssl.evaluation.scene_retrieval import (
    draw_retrieval,
    evaluate_scene_retrieval,
    scene_retrieval,
)

RATE = 8000


def test_by_hand():
    # The scenes' mean is 0. The first query is most like the first scene, then the second and
    # third, which are equally like it, then the fourth; its class is in the first and third.
    scenes = [[2, 0], [0, 2], [0, -2], [-2, 0]]
    labels = [[1, 0], [0, 1], [1, 0], [0, 0]]
    result = scene_retrieval([[1, 0], [0, 3]], [[1, 0], [0, 1]], scenes, labels)
    # Hits at rank 1 and in the tie that ends at rank 3, where two of three are relevant.
    np.testing.assert_allclose(result.precisions, [(1 + 2 / 3) / 2, 1])
    assert result.map == pytest.approx((5 / 6 + 1) / 2)
    assert result.chance == pytest.approx((expected_random_ap(2, 4) + expected_random_ap(1, 4)) / 2)
    assert result.low < result.map < result.high


def test_the_mean_of_the_scenes_is_subtracted():
    rng = np.random.default_rng(0)
    queries, scenes = rng.normal(size=(5, 4)), rng.normal(size=(30, 4))
    labels = rng.integers(2, size=(30, 3))
    asked = np.eye(3, dtype=int)[[0, 1, 2, 0, 1]]
    first = scene_retrieval(queries, asked, scenes, labels)
    second = scene_retrieval(queries + 100, asked, scenes + 100, labels)
    np.testing.assert_allclose(first.precisions, second.precisions)
    for scale in (1e-200, 1e200):  # whose squares under- and overflow
        scaled = scene_retrieval(queries * scale, asked, scenes * scale, labels)
        np.testing.assert_allclose(first.precisions, scaled.precisions)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_best_or_the_mean_of_several_rows_counts(seed):
    """Against a loop with scikit-learn's average precision."""
    rng = np.random.default_rng(seed)
    queries, scenes = rng.normal(size=(4, 3)), rng.normal(size=(12, 3, 3))
    scenes[rng.random((12, 3)) < 0.3] = np.nan
    scenes[:, 0] = rng.normal(size=(12, 3))
    labels = rng.integers(2, size=(12, 4))
    labels[0], labels[1] = 1, 0
    asked = rng.integers(2, size=(4, 4))
    asked[:, 0] = 1
    best = scene_retrieval(queries, asked, scenes, labels)
    average = scene_retrieval(queries, asked, scenes, labels, several="mean")
    mean = scenes[:, 0].mean(axis=0)
    for q, query in enumerate(queries - mean):
        similarities, relevant = [], []
        for rows, row in zip(scenes, labels, strict=True):
            found = [r - mean for r in rows if not np.isnan(r[0])]
            cosines = [query @ r / np.linalg.norm(query) / np.linalg.norm(r) for r in found]
            similarities.append((max(cosines), sum(cosines) / len(cosines)))
            relevant.append(all(row[asked[q] == 1]))
        for result, scores in zip((best, average), zip(*similarities, strict=True), strict=True):
            assert result.precisions[q] == pytest.approx(average_precision_score(relevant, scores))


def test_the_interval_holds_the_mean_of_many_queries():
    """About 95 of 100 intervals of 60 queries hold the mean of 6,000."""
    rng = np.random.default_rng(1)
    scenes, labels = rng.normal(size=(40, 3)), rng.integers(2, size=(40, 1))
    queries = rng.normal(size=(6000, 3))
    whole = scene_retrieval(queries, np.ones((6000, 1), int), scenes, labels)
    held = 0
    for part in np.split(queries, 100):
        found = scene_retrieval(part, np.ones((60, 1), int), scenes, labels)
        held += found.low <= whole.map <= found.high
    assert 88 <= held <= 100


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"queries": np.ones((2, 3))}, "queries have the shape"),
        ({"query_labels": [[1], [0]]}, "queries have 1 classes, scenes 2"),
        ({"query_labels": [[1, 0], [0, 0]]}, "a query has no class"),
        ({"scenes": [[1, 0], [np.nan, np.nan], [0, 0]]}, "hold NaN or infinity"),
        ({"scene_labels": [[1, 1]] * 3}, "none of 2 queries has both"),
    ],
)
def test_bad_input(changes, says):
    good = {
        "queries": np.eye(2),
        "query_labels": np.eye(2, dtype=int),
        "scenes": [[1, 0], [0, 1], [1, 1]],
        "scene_labels": [[1, 0], [0, 1], [1, 1]],
    }
    with pytest.raises(InputError, match=says):
        scene_retrieval(**good | changes)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Two classes of 5 recordings in fold 2, each cut into two sounds; a sound each in fold 1."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    lines = ["filename,labels,fold"]
    for kind, (low, high) in {"low": (200, 400), "high": (2000, 3000)}.items():
        for recording in range(6):
            for take in "AB":
                name = f"{kind}-{recording}-{take}.wav"
                t = np.arange(RATE) / RATE
                tone = np.sin(2 * np.pi * rng.uniform(low, high) * t)
                soundfile.write(folder / name, 0.3 * tone, RATE)
                lines.append(f"{name},{kind},{1 if recording == 5 else 2}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def drawn(sounds, seed=0, recording=r"(\w+-\d+)-", folds=None, rooms=None):
    mixtures = Mixtures(
        {"test": 20},
        seed,
        MixtureConfig(duration=1.0, part_seconds=(0.5, 1.0), source_count_probabilities=(0.5, 0.5)),
        folds=folds or {"test": ("2",)},
    )
    clips = open_clips(sounds, RATE, labels=True)
    return draw_retrieval(clips, mixtures, str(sounds), recording, rooms)


def test_queries_are_of_other_recordings_than_scenes(sounds):
    queries, scenes = drawn(sounds)
    heard = {name for i in range(len(scenes)) for name in scenes.scene(i).names}

    def recordings(names):
        return {pathlib.Path(name).stem.rsplit("-", 1)[0] for name in names}

    assert recordings(queries.names).isdisjoint(recordings(heard))
    # Both sounds of two of five recordings of each class; nothing of fold 1.
    assert len(queries) == 8
    assert len(recordings(heard)) == 6
    assert not {"low-5", "high-5"} & (recordings(heard) | recordings(queries.names))
    assert set(queries.names) != set(drawn(sounds, seed=1)[0].names)
    np.testing.assert_array_equal(drawn(sounds)[1].read(3), scenes.read(3))


def test_scenes_are_heard_in_rooms(sounds, tmp_path):
    """An echo half as loud, 0.1 s after the direct sound."""
    response = np.zeros(RATE, np.float32)
    response[[0, RATE // 10]] = 1.0, 0.5
    soundfile.write(tmp_path / "room.wav", response, RATE, "FLOAT")
    dry, rooms = drawn(sounds)[1], open_clips(tmp_path, RATE)
    wet = drawn(sounds, rooms=rooms)[1]
    for index in range(3):
        assert wet.scene(index).names == dry.scene(index).names
        assert (wet.scene(index).room, dry.scene(index).room) == ("room.wav", "")
        assert not np.allclose(wet.read(index), dry.read(index))


def test_what_cannot_be_drawn(sounds):
    with pytest.raises(InputError, match="matches nothing in"):
        drawn(sounds, recording=r"x(\d)")
    with pytest.raises(InputError, match="no class has two recordings"):
        drawn(sounds, folds={"test": ("1",)})


def test_scores_by_mixture_and_by_channel(sounds):
    """The share of power below 1 kHz, as an embedding: one class only is heard in a channel."""
    queries, scenes = drawn(sounds)

    def embed(waveform):
        power = np.abs(np.fft.rfft(waveform)) ** 2
        low = power[:1000].sum() / power.sum()
        return np.array([low, 1 - low])

    def separated(index):
        sources = scenes.read_with_sources(index)[1]
        return np.concatenate([sources, 1e-3 * sources[::-1]])  # faint ones do not count

    scores = evaluate_scene_retrieval(embed, queries, scenes, {"x": separated}, 0, "x", False)
    assert scores["scene_x_map"] == 1
    assert scores["scene_x_mean_map"] > scores["scene_map"]
    assert "scene_mean_map" not in scores
    assert scores["scene_x_map"] > scores["scene_map"] > scores["scene_chance"]
    assert scores["scene_map_low"] < scores["scene_map"] < scores["scene_map_high"]
