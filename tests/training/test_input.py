import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from sepssl.data.read_ahead import read_ahead
from sepssl.data.store import ClipStore
from sepssl.errors import InputError
from sepssl.training.batches import RecordingBatches, ViewBatches
from sepssl.training.input import Shuffle, distribute


def test_an_epoch_sees_no_clip_twice_and_all_but_the_rest():
    shuffle = Shuffle(num_clips=10, batch_size=4, seed=0)
    epochs = [np.concatenate([shuffle.indices(2 * e + b) for b in (0, 1)]) for e in range(20)]
    for epoch in epochs:
        assert len(set(epoch)) == 8
    assert set(np.concatenate(epochs)) == set(range(10))
    assert not np.array_equal(epochs[0], epochs[1])


def test_parts_of_a_recording_are_spread_over_the_epoch():
    """100 recordings of 20 parts each and 1000 single ones; batches of 60 of 3000 clips."""
    groups = [f"{i // 20}" for i in range(2000)] + [f"single{i}" for i in range(1000)]
    shuffle = Shuffle(3000, 60, 0, groups)
    for epoch in range(3):
        batches = [shuffle.indices(50 * epoch + b) for b in range(50)]
        assert sorted(np.concatenate(batches)) == list(range(3000))
        counts = [collections.Counter(groups[i] for i in batch).most_common(1) for batch in batches]
        # 20 parts in 50 batches: one every two and a half.
        assert max(count for ((_, count),) in counts) == 1
    assert shuffle.shared_share() == 0.0
    assert not np.array_equal(shuffle.indices(0), shuffle.indices(50))

    # Four recordings in batches of eight: two parts of each, so that one of seven negatives is its
    # own. At random it would be 24 / 99 * 7 = 1.7 of them.
    four = Shuffle(100, 8, 0, [str(i % 4) for i in range(100)])
    for step in range(24):
        assert sorted(four.indices(step) % 4) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert four.shared_share() == pytest.approx(1 / 7)


@given(st.integers(1, 60), st.integers(0, 99), st.data())
def test_single_recordings_are_in_the_order_of_the_permutation(num_clips, seed, data):
    batch_size = data.draw(st.integers(1, num_clips))
    names = data.draw(st.permutations([str(i) for i in range(num_clips)]))
    plain, grouped = (
        Shuffle(num_clips, batch_size, seed),
        Shuffle(num_clips, batch_size, seed, names),
    )
    for step in range(3):
        expected = np.random.default_rng([seed, step // (num_clips // batch_size)]).permutation(
            num_clips
        )
        first = step % (num_clips // batch_size) * batch_size
        np.testing.assert_array_equal(plain.indices(step), expected[first : first + batch_size])
        np.testing.assert_array_equal(grouped.indices(step), plain.indices(step))


def test_a_clip_would_be_its_own_negative_in_a_batch_larger_than_the_data():
    with pytest.raises(InputError, match=r"train\.batch_size=8, .*only 3 clips.*set a lower train"):
        Shuffle(num_clips=3, batch_size=8, seed=1)


@pytest.fixture
def stores(tmp_path):
    """Mixtures whose sample t of clip i is i + t / 1000; channel c of it holds -(c + 1) times."""
    lengths = [100, 300, 40]
    mixtures = [(i + np.arange(n) / 1000)[None].astype(np.float32) for i, n in enumerate(lengths)]
    channels = [np.concatenate([-m, -2 * m]) for m in mixtures]
    names = [f"clip{i}" for i in range(3)]
    found = []
    for name, clips in (("mixtures", mixtures), ("channels", channels)):
        store = ClipStore(tmp_path / name)
        store.fill("here", names, lambda indices, clips=clips: [clips[i] for i in indices], name)
        found.append(store)
    return found


def test_recordings_are_crops_of_the_clips_named(stores):
    batches = RecordingBatches(stores[0], np.arange(3), batch_size=2, crop_samples=60, seed=3)
    for step in range(5):
        crops = batches.load(step)["recordings"]
        np.testing.assert_array_equal(crops, batches.load(step)["recordings"])
        for name, crop in zip(batches.names(step), crops, strict=True):
            assert np.round(crop.min()) == int(name[-1])
            if name != "clip2":  # which is shorter than a crop, and repeated
                np.testing.assert_allclose(np.diff(crop), 0.001, atol=2e-4)


def test_clips_left_out_are_never_seen(stores):
    batches = RecordingBatches(stores[0], np.array([0, 2]), 2, crop_samples=20, seed=0)
    seen = {name for step in range(10) for name in batches.names(step)}
    assert seen == {"clip0", "clip2"}
    assert all(np.round(batches.load(s)["recordings"][:, 0]).max() == 2 for s in range(3))


def test_views_show_mixture_and_channels_at_the_same_time(stores):
    batches = ViewBatches(stores[0], [stores[1]], 3, 30, 50, True, num_uniforms=6, seed=0)
    distances = []
    for step in range(20):
        batch = batches.load(step)
        assert batch["uniforms"].shape == (3, 6)
        for channel, gain in ((0, -1), (1, -2)):
            np.testing.assert_allclose(
                batch["channels"][:, :, channel], gain * batch["mixtures"], atol=3e-4
            )
        distances.append(batch["mixtures"][:, 1, 0] - batch["mixtures"][:, 0, 0])
    distances = np.abs(np.array(distances)) * 1000
    assert distances.max() <= 50.5
    assert distances.max() > 30


def test_channels_are_those_of_the_separator_drawn(stores):
    # The mixtures stand for a second separator, of a single channel; the other is silence.
    channels = [stores[1], stores[0]]
    gains = np.array([[-1, -2], [1, 0]])
    batches = ViewBatches(stores[0], channels, 3, 30, 50, True, num_uniforms=1, seed=0)
    drawn = []
    for step in range(100):
        batch = batches.load(step)
        expected = gains[batch["separator"]][:, None, :, None] * batch["mixtures"][:, :, None]
        np.testing.assert_allclose(batch["channels"], expected, atol=3e-4)
        drawn.extend(batch["separator"])
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.1)  # 300 draws: a deviation of 0.03


def test_without_separators_there_are_no_channels(stores):
    batches = ViewBatches(stores[0], [], 2, 30, 50, True, num_uniforms=4, seed=0)
    assert set(batches.load(0)) == {"mixtures", "starts", "uniforms"}
    # An array without elements crashed the process after a few of these steps.
    for step, batch in enumerate(distribute(tf.distribute.get_strategy(), batches.load, 0, 200)):
        if step % 50 == 0:
            np.testing.assert_array_equal(batch["mixtures"], batches.load(step)["mixtures"])


def test_distribution_keeps_order_and_range():
    strategy = tf.distribute.get_strategy()
    load = lambda step: {"x": np.full([4, 2], step, np.float32)}  # noqa: E731
    found = [batch["x"].numpy() for batch in distribute(strategy, load, 3, 7)]
    np.testing.assert_array_equal(found, [np.full([4, 2], step) for step in range(3, 7)])


def test_read_ahead_keeps_order_and_raises_in_turn():
    assert list(read_ahead(lambda i: i * i, range(50), workers=3)) == [i * i for i in range(50)]

    def fails_at_5(index):
        if index == 5:
            raise ValueError("five")
        return index

    reader = read_ahead(fails_at_5, range(50), workers=3)
    assert [next(reader) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="five"):
        next(reader)
