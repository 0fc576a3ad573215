import numpy as np
import pytest

from sepssl.data.store import ClipStore
from sepssl.training.batches import RecordingBatches

SAMPLES = 400


def store(folder, clips):
    made = ClipStore(folder)
    names = [f"{i}.wav" for i in range(len(clips))]
    made.fill("test", names, lambda indices: [clips[i] for i in indices], "test")
    return made


@pytest.fixture
def sources():
    """Every clip has sources of its own frequency, to be told apart by."""
    t = np.arange(SAMPLES)
    return [
        np.stack([np.sin((i + 1) * (0.1 + 0.01 * n) * t) for n in range(2 + i % 2)])
        for i in range(12)
    ]


def make(tmp_path, sources, **options):
    clips = [np.concatenate([s.sum(axis=0, keepdims=True), s]) for s in sources]
    options = {"batch_size": 12, "crop_samples": 100, "seed": 0} | options
    return RecordingBatches(store(tmp_path / "clips", clips), np.arange(12), **options)


def test_sources_are_of_the_same_crop_as_their_mixture(tmp_path, sources):
    batches = make(tmp_path, sources, num_sources=4, supervised_clips=4)
    batch = batches.load(0)
    assert batch["recordings"].shape == (8, 100)
    assert batch["sources"].shape == (4, 4, 100)
    np.testing.assert_allclose(batch["sources"].sum(axis=1), batch["mixtures"], atol=1e-3)
    silent = np.sum(np.all(batch["sources"] == 0, axis=-1), axis=-1)
    names = batches.names(0)[8:]
    assert silent.tolist() == [4 - (2 + int(name.split(".")[0]) % 2) for name in names]
    again = batches.load(0)
    for key, value in batch.items():
        np.testing.assert_array_equal(again[key], value)


def test_a_batch_of_one_kind_lacks_the_other(tmp_path, sources):
    assert set(make(tmp_path / "a", sources).load(0)) == {"recordings"}
    supervised = make(tmp_path / "b", sources, num_sources=3, supervised_clips=12)
    assert set(supervised.load(0)) == {"mixtures", "sources"}


def test_gains_are_within_their_range_and_crops_stay_the_same(tmp_path, sources):
    plain = make(tmp_path / "a", sources).load(3)["recordings"]
    loud = make(tmp_path / "b", sources, gain_range_db=(-6.0, 12.0)).load(3)["recordings"]
    gains = np.sum(loud * plain, axis=1) / np.sum(plain * plain, axis=1)
    np.testing.assert_allclose(loud, gains[:, None] * plain, atol=1e-4)
    db = 20 * np.log10(gains)
    assert -6 <= db.min() < 0 < 6 < db.max() <= 12


def test_single_mixtures_leave_the_other_recordings_silent(tmp_path, sources):
    batches = make(tmp_path, sources, num_mixtures=3, single_mixture_fraction=0.5)
    silent = np.concatenate(
        [np.all(batches.load(step)["recordings"] == 0, axis=1).reshape(4, 3) for step in range(50)]
    )
    assert not silent[:, 0].any()
    np.testing.assert_array_equal(silent[:, 1], silent[:, 2])
    assert 0.4 < silent[:, 1].mean() < 0.6


def test_recordings_to_remix_need_not_be_pairs(tmp_path, sources):
    gained = {"batch_size": 3, "num_uniforms": 3}
    plain = make(tmp_path / "a", sources, **gained).load(3)
    loud = make(tmp_path / "b", sources, gain_range_db=(6.0, 6.0), **gained).load(3)
    np.testing.assert_allclose(loud["recordings"], 10**0.3 * plain["recordings"], rtol=1e-6)
    np.testing.assert_array_equal(loud["uniforms"], plain["uniforms"])
    assert plain["recordings"].shape[0] == 3


def test_a_share_of_the_crops_is_played_backwards_with_its_sources(tmp_path, sources):
    options = {"num_sources": 4, "supervised_clips": 6}
    forwards = make(tmp_path / "a", sources, **options)
    found = make(tmp_path / "b", sources, reversed_fraction=0.3, **options)
    shares = []
    for step in range(40):
        batch, plain = found.load(step), forwards.load(step)
        for name in ("recordings", "mixtures"):
            back = np.any(batch[name] != plain[name], axis=1)
            np.testing.assert_array_equal(batch[name][back], plain[name][back, ::-1])
            shares.append(back.mean())
        np.testing.assert_array_equal(batch["sources"][back], plain["sources"][back, :, ::-1])
        np.testing.assert_array_equal(batch["sources"][~back], plain["sources"][~back])
    assert 0.25 < np.mean(shares) < 0.35
    # The first start is what it was before there were reversals.
    first, start = int(found.names(5)[0].split(".")[0]), np.random.default_rng([0, 5, 1])
    start = int(start.integers(SAMPLES - 100 + 1))
    expected = sources[first].sum(axis=0)[start : start + 100]
    np.testing.assert_allclose(forwards.load(5)["recordings"][0], expected, atol=1e-3)
    everything = make(tmp_path / "c", sources, reversed_fraction=1.0, **options).load(0)
    plain = forwards.load(0)["recordings"]
    np.testing.assert_array_equal(everything["recordings"], plain[:, ::-1])
