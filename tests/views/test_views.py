import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

from sepssl.audio.log_mel import LogMel
from sepssl.errors import InputError
from sepssl.views import FrontEnd
from sepssl.views.channels import choose_channel, choose_views
from sepssl.views.example_mixing import mix_examples
from sepssl.views.patches import draw_patch_starts
from sepssl.views.spec_augment import mask_stripe, spec_augment


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 500), st.integers(0, 300))
def test_patches_lie_in_the_recording_and_near_each_other(seed, samples, distance):
    starts = draw_patch_starts(np.random.default_rng(seed), samples, 100, distance)
    assert abs(starts[0] - starts[1]) <= distance
    assert all(0 <= start <= max(samples - 100, 0) for start in starts)


def test_patches_reach_everywhere_they_may():
    rng = np.random.default_rng(0)
    starts = np.array([draw_patch_starts(rng, 12, 10, 1) for _ in range(300)])
    assert {tuple(s) for s in starts.tolist()} == {
        (a, b) for a in range(3) for b in range(3) if abs(a - b) <= 1
    }


def channels_of_gains(gains):
    return np.array(gains, np.float32)[..., None] * np.ones(4, np.float32)


def test_near_silent_channels_are_passed_over():
    # 30 dB is a factor of 31.6: 0.02 is too quiet beside 1, 0.04 is not.
    channels = channels_of_gains([[0.02, 1.0, 0.0, 0.04]] * 4)
    chosen = choose_channel(channels, np.array([0.0, 0.49, 0.51, 0.9999999], np.float32))
    np.testing.assert_allclose(chosen[:, 0], [1.0, 1.0, 0.04, 0.04])


def test_silence_in_all_channels_is_silence():
    chosen = choose_channel(np.zeros([1, 3, 4], np.float32), np.array([0.5], np.float32))
    np.testing.assert_array_equal(chosen, np.zeros([1, 4]))


def test_pairings_follow_the_uniform_numbers():
    mixtures = np.full([4, 2, 4], 9.0, np.float32)
    channels = np.stack([channels_of_gains([[1.0, 2.0]] * 4)] * 2, axis=1)
    uniforms = np.array(
        [
            [0.1, 0.0, 0.0, 0.0],  # mixture, mixture
            [0.3, 0.2, 0.0, 0.9],  # the first view is the channel
            [0.3, 0.7, 0.0, 0.9],  # the second
            [0.8, 0.0, 0.0, 0.9],  # channel, channel
        ],
        np.float32,
    )
    views, is_channel = choose_views(mixtures, channels, uniforms, (0.25, 0.5, 0.25))
    np.testing.assert_array_equal(views[..., 0], [[9, 9], [1, 9], [9, 2], [1, 2]])
    np.testing.assert_array_equal(is_channel, [[0, 0], [1, 0], [0, 1], [1, 1]])


def test_example_mixing_matches_energies_in_one_view_of_a_pair():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(4, 2, 1000)) * rng.uniform(0.1, 5.0, (4, 2, 1))
    views = views.astype(np.float32)
    uniforms = np.array(
        [[0.0, 0.0, 0.0], [0.4, 0.9, 1.0], [0.6, 0.0, 0.0], [0.1, 0.4, 0.5]], np.float32
    )
    added = np.asarray(mix_examples(views, uniforms, 0.5, -20.0, -10.0)) - views
    energy = lambda x: np.sum(x**2, axis=-1)  # noqa: E731
    levels = 10 * np.log10(energy(added) / energy(views) + 1e-9)
    expected = [[-20.0, -90.0], [-90.0, -10.0], [-90.0, -90.0], [-15.0, -90.0]]
    np.testing.assert_allclose(levels, expected, atol=0.05)
    # What is added is the neighbour: 1 for 0, 0 for 1, 2 for 3.
    for clip, view, neighbour in ((0, 0, 1), (1, 1, 0), (3, 0, 2)):
        assert np.corrcoef(added[clip, view], views[neighbour, view])[0, 1] > 0.999


def test_stripes_hand_worked():
    patches = np.arange(24.0, dtype=np.float32).reshape(1, 4, 6)
    # width floor(0.5 * 4) = 2, start floor(0.4 * (4 - 2 + 1)) = 1
    masked = np.asarray(mask_stripe(patches, np.array([[0.5, 0.4]], np.float32), 1, 3))
    expected = patches.copy()
    expected[:, 1:3] = patches.mean()
    np.testing.assert_allclose(masked, expected)
    # width floor(0.99 * 3) = 2, start floor(0.99 * 5) = 4
    masked = np.asarray(mask_stripe(patches, np.array([[0.99, 0.99]], np.float32), 2, 2))
    expected = patches.copy()
    expected[..., 4:] = patches.mean()
    np.testing.assert_allclose(masked, expected)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 10**6))
def test_spec_augment_masks_no_more_than_it_may(seed):
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(3, 96, 64)).astype(np.float32)
    uniforms = rng.random((3, 6), np.float32)
    found = np.asarray(spec_augment(patches, uniforms, 1, 10, 2, 5))
    changed = found != patches
    assert np.max(np.sum(changed.all(axis=2), axis=1)) <= 10
    assert np.max(np.sum(changed.all(axis=1), axis=1)) <= 10


def make_batch(seed=0, batch=4):
    rng = np.random.default_rng(seed)
    return {
        "mixtures": rng.normal(size=(batch, 2, 15600)).astype(np.float32),
        "channels": rng.normal(size=(batch, 2, 3, 15600)).astype(np.float32),
        "uniforms": rng.random((batch, 15), np.float32),
    }


def test_front_end_without_augmentation_is_log_mel():
    front_end = FrontEnd(
        LogMel(), mixture_mixture=1.0, mixture_channel=0.0, time_masks=0, frequency_masks=0
    )
    batch = make_batch()
    a, b, share = front_end(batch)
    np.testing.assert_allclose(a, LogMel()(batch["mixtures"][:, 0])[:, 0], atol=1e-6)
    np.testing.assert_allclose(b, LogMel()(batch["mixtures"][:, 1])[:, 0], atol=1e-6)
    assert float(share) == 0.0


def test_front_end_is_a_function_of_the_batch_alone_and_of_each_pair_alone():
    front_end = FrontEnd(LogMel(), 0.2, 0.5, 0.3, example_mixing=0.5)
    batch = make_batch()
    whole = front_end(batch)
    again = front_end(batch)
    halves = [front_end({k: v[s] for k, v in batch.items()}) for s in (slice(2), slice(2, 4))]
    for view in range(2):
        np.testing.assert_array_equal(whole[view], again[view])
        np.testing.assert_allclose(
            whole[view], np.concatenate([h[view] for h in halves]), atol=1e-5
        )


def test_front_end_round_trip():
    front_end = FrontEnd(LogMel(), 0.2, 0.5, 0.3, example_mixing=0.5, time_width=7)
    config = keras.saving.serialize_keras_object(front_end)
    copy = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(copy(make_batch())[0], front_end(make_batch())[0])


def test_probabilities_must_add_up():
    with pytest.raises(InputError, match=r"\(0.5, 1.0, 0.0\)"):
        FrontEnd(LogMel(), mixture_mixture=0.5)
