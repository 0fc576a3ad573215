import inspect

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from sepssl.audio.log_mel import LogMel
from sepssl.configs import encoder_small
from sepssl.errors import InputError
from sepssl.views import FrontEnd
from sepssl.views.channels import (
    NO_CHANNEL,
    choose_channel,
    choose_views,
    no_channel_warning,
    pairing_shares,
)
from sepssl.views.equalization import KNOTS, equalize
from sepssl.views.example_mixing import mix_examples, mix_spectrograms
from sepssl.views.patches import draw_patch_starts
from sepssl.views.spec_augment import mask_stripe, spec_augment


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 700), st.integers(100, 300))
def test_patches_that_may_not_overlap_do_not(seed, samples, distance):
    starts = draw_patch_starts(np.random.default_rng(seed), samples, 100, distance, overlap=False)
    assert all(0 <= start <= max(samples - 100, 0) for start in starts)
    # Or as little as the recording allows.
    assert min(100, max(samples - 100, 0)) <= abs(starts[0] - starts[1]) <= distance


def test_patches_that_do_not_overlap_come_in_both_orders_and_everywhere():
    rng = np.random.default_rng(0)
    starts = {draw_patch_starts(rng, 5, 2, 3, overlap=False) for _ in range(300)}
    assert starts == {(0, 2), (2, 0), (1, 3), (3, 1), (0, 3), (3, 0)}


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
    uniforms = np.array([0.0, 0.49, 0.51, 0.9999999], np.float32)
    numbers = choose_channel(channels, channels.sum(axis=1), uniforms)
    np.testing.assert_array_equal(numbers, [1, 1, 3, 3])
    half = keras.ops.cast(uniforms, "bfloat16")  # the last one is 1
    numbers = choose_channel(channels, channels.sum(axis=1), half)
    np.testing.assert_array_equal(numbers, [1, 1, 3, 3])


def test_each_floor_has_its_own_reference():
    # Four equal channels lie 12 dB below their sum.
    even = channels_of_gains([[0.25, 0.25, 0.25, 0.25]])
    for channel_db, mixture_db, expected in (
        (-1.0, -12.1, 3),
        (-1.0, -12.0, NO_CHANNEL),
        (-30.0, -12.0, NO_CHANNEL),
    ):
        found = choose_channel(even, even.sum(axis=1), np.array([0.9]), channel_db, mixture_db)
        assert found == [expected]
    # 0.2 lies 12 dB below the loudest channel, 14 dB below the mixture.
    uneven = channels_of_gains([[0.8, 0.2]])
    for channel_db, mixture_db, expected in ((-12.1, -14.1, 1), (-12.0, -14.1, 0)):
        found = choose_channel(uneven, uneven.sum(axis=1), np.array([0.9]), channel_db, mixture_db)
        assert found == [expected]


def test_silence_in_all_channels_is_silence():
    silence = np.zeros([1, 2, 3, 4], np.float32)
    views, _ = choose_views(silence[:, :, 0], silence, np.full([1, 4], 0.5, "f4"), (0, 1, 0))
    np.testing.assert_array_equal(views, np.zeros([1, 2, 4]))


def test_where_no_channel_is_heard_the_mixture_is_shown():
    # True sources that pause, beside an ambience that is in none of them.
    channels = channels_of_gains([[[0.0, 0.001], [0.5, 0.0]]])
    mixtures = channels_of_gains([[1.0, 2.0]])
    views, shown = choose_views(mixtures, channels, np.full([1, 4], 0.9, "f4"), (0, 0, 1))
    np.testing.assert_allclose(views[..., 0], [[1.0, 0.5]])
    np.testing.assert_array_equal(shown, [[NO_CHANNEL, 0]])
    shares = {name: float(share) for name, share in pairing_shares(shown).items()}
    assert shares == {
        "mixture_mixture_share": 0.0,
        "mixture_channel_share": 1.0,
        "channel_channel_share": 0.0,
        "no_channel_share": 1.0,
    }
    assert "no_channel_share=1" in no_channel_warning(shares)
    assert no_channel_warning({"no_channel_share": 0.05}) is None


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
    views, shown = choose_views(mixtures, channels, uniforms, (0.25, 0.5, 0.25))
    np.testing.assert_array_equal(views[..., 0], [[9, 9], [1, 9], [9, 2], [1, 2]])
    np.testing.assert_array_equal(shown, [[-1, -1], [0, -1], [-1, 1], [0, 1]])
    shares = {name: float(share) for name, share in pairing_shares(shown).items()}
    assert shares == {
        "mixture_mixture_share": 0.25,
        "mixture_channel_share": 0.5,
        "channel_channel_share": 0.25,
        "no_channel_share": 0.0,
    }


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


def test_example_mixing_in_the_spectrogram_adds_powers():
    rng = np.random.default_rng(0)
    magnitude = rng.uniform(0.01, 5.0, (2, 2, 3, 4)).astype(np.float32)
    # Level 0 dB, second view: the neighbour's power is scaled to the view's own, then added.
    uniforms = np.array([[0.0, 0.9, 0.5]] * 2, np.float32)
    mixed = mix_spectrograms(magnitude, uniforms, 0.5, -20.0, 20.0)
    expected = magnitude.astype(np.float64)
    power = expected[:, 1] ** 2
    for clip in range(2):
        neighbour = power[1 - clip] * power[clip].mean() / power[1 - clip].mean()
        expected[clip, 1] = np.sqrt(power[clip] + neighbour)
    np.testing.assert_allclose(mixed, expected, rtol=1e-4)


def test_equalization_is_a_gain_in_every_band():
    rng = np.random.default_rng(0)
    magnitude = rng.uniform(0.0, 5.0, (2, 7, 11)).astype(np.float32)
    # All knots at +6 dB; then a line from -12 to +12 dB over the bands.
    uniforms = np.stack([np.full(KNOTS, 0.75), np.linspace(0, 1, KNOTS)]).astype(np.float32)
    found = equalize(magnitude, uniforms, 12.0)
    gain_db = np.stack([np.full(11, 6.0), np.linspace(-12, 12, 11)])[:, None]
    np.testing.assert_allclose(found, magnitude * 10 ** (gain_db / 20), rtol=1e-4)


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


def make_batch(seed=0, batch=4, num_uniforms=15):
    rng = np.random.default_rng(seed)
    return {
        "mixtures": rng.normal(size=(batch, 2, 15600)).astype(np.float32),
        "channels": rng.normal(size=(batch, 2, 3, 15600)).astype(np.float32),
        "uniforms": rng.random((batch, num_uniforms), np.float32),
    }


def test_front_end_without_augmentation_is_log_mel():
    front_end = FrontEnd(
        LogMel(), mixture_mixture=1.0, mixture_channel=0.0, time_masks=0, frequency_masks=0
    )
    batch = make_batch()
    a, b, shown = front_end(batch)
    np.testing.assert_allclose(a, LogMel()(batch["mixtures"][:, 0])[:, 0], atol=1e-6)
    np.testing.assert_allclose(b, LogMel()(batch["mixtures"][:, 1])[:, 0], atol=1e-6)
    np.testing.assert_array_equal(shown, np.full([4, 2], -1))


def test_both_views_are_equalized_each_in_its_own_way():
    options = {"mixture_mixture": 1.0, "mixture_channel": 0.0, "time_masks": 0}
    front_end = FrontEnd(LogMel(), **options, frequency_masks=0, equalization_db=20.0)
    batch = make_batch(num_uniforms=front_end.num_uniforms)
    for view, uniforms in ((0, batch["uniforms"][:, 7:13]), (1, batch["uniforms"][:, 13:])):
        plain = LogMel()(batch["mixtures"][:, view])[:, 0]
        expected = np.log(equalize(np.exp(plain) - 0.001, uniforms, 20.0) + 0.001)
        np.testing.assert_allclose(front_end(batch)[view], expected, atol=1e-4)


def test_both_views_are_masked_each_in_its_own_way():
    masks = {"time_masks": 1, "time_width": 20, "frequency_masks": 2, "frequency_width": 10}
    front_end = FrontEnd(LogMel(), mixture_mixture=1.0, mixture_channel=0.0, **masks)
    batch = make_batch(num_uniforms=front_end.num_uniforms)
    for view, uniforms in ((0, batch["uniforms"][:, 7:13]), (1, batch["uniforms"][:, 13:])):
        plain = np.asarray(LogMel()(batch["mixtures"][:, view])[:, 0])
        expected = spec_augment(plain, uniforms, *masks.values())
        assert np.mean(np.asarray(expected) != plain) > 0.05
        np.testing.assert_allclose(front_end(batch)[view], expected, atol=1e-5)


@pytest.mark.parametrize("floor", ["channel_floor_db", "mixture_floor_db"])
def test_a_floor_leaves_quiet_channels_out_of_the_views(floor):
    batch = make_batch(batch=8)
    # 20 dB apart from each other, and the louder one 0 dB from the mixture.
    batch["channels"] = np.stack([batch["mixtures"], 0.1 * batch["mixtures"]], axis=2)
    batch["uniforms"][:, 2:4] = 0.9  # the last that can be heard
    for floor_db, channel in ((-19.9, 0), (-20.1, 1)):
        front_end = FrontEnd(LogMel(), 0.0, 0.0, 1.0, **{floor: floor_db})
        np.testing.assert_array_equal(front_end(batch)[2], np.full([8, 2], channel))


def test_front_end_is_a_function_of_the_batch_alone_and_of_each_pair_alone():
    front_end = FrontEnd(LogMel(), 0.2, 0.5, 0.3, example_mixing=0.5, equalization_db=6.0)
    batch = make_batch(num_uniforms=front_end.num_uniforms)
    whole = front_end(batch)
    again = front_end(batch)
    halves = [front_end({k: v[s] for k, v in batch.items()}) for s in (slice(2), slice(2, 4))]
    for view in range(2):
        np.testing.assert_array_equal(whole[view], again[view])
        np.testing.assert_allclose(
            whole[view], np.concatenate([h[view] for h in halves]), atol=1e-5
        )


def test_mixing_in_the_log_mel_spectrogram_is_close_to_mixing_waveforms():
    options = {"example_mixing": 1.0, "min_mixing_db": 0.0, "max_mixing_db": 0.0}
    options |= {"time_masks": 0, "frequency_masks": 0}
    batch = make_batch(num_uniforms=7)
    waveform, spectrogram, plain = (
        np.stack(FrontEnd(LogMel(), 1.0, 0.0, **more)(batch)[:2])
        for more in (
            options,
            options | {"mixing_domain": "log_mel"},
            options | {"example_mixing": 0.0},
        )
    )
    # White noise of equal energy: 3 dB up, in the same views. (A little more in the spectrogram,
    # where sums of powers fluctuate less.)
    for found in (waveform, spectrogram):
        raised = (found - plain).mean(axis=(2, 3))
        np.testing.assert_allclose(np.sort(raised, axis=0)[0], 0.0, atol=1e-5)
        np.testing.assert_allclose(np.sort(raised, axis=0)[1], np.log(2) / 2, atol=0.08)
    np.testing.assert_array_equal(
        np.argmax((waveform - plain).mean(axis=(2, 3)), 0),
        np.argmax((spectrogram - plain).mean(axis=(2, 3)), 0),
    )


def test_probabilities_must_add_up():
    with pytest.raises(InputError, match=r"\(0.5, 1.0, 0.0\)"):
        FrontEnd(LogMel(), mixture_mixture=0.5, mixture_channel=1.0)


def waveforms(batch=4, samples=40000, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, samples)).astype(np.float32)


PLAIN = {"mixture_mixture": 1.0, "time_masks": 0, "frequency_masks": 0}


def test_the_share_left_over_is_that_of_mixed_pairs():
    front_end = FrontEnd(LogMel(), mixture_mixture=0.5, channel_channel=0.25)
    assert front_end.mixture_channel == 0.25
    assert not FrontEnd(LogMel(), mixture_mixture=1.0).needs_channels
    with pytest.raises(InputError, match=r"\(1.0, -0.5, 0.5\)"):
        FrontEnd(LogMel(), mixture_mixture=1.0, channel_channel=0.5)


def test_every_option_of_the_configuration_is_one_of_the_front_end_and_the_reverse():
    driver = {"separators", "online", "max_distance_seconds", "overlap"}
    options = set(inspect.signature(FrontEnd).parameters) - {"log_mel", "separation", "seed"}
    assert set(encoder_small.get_config().views) - driver == options - {"kwargs"}


def test_plain_waveforms_give_patches_at_random_places():
    """Of a clip whose level rises with time, the level of a view tells where it lies."""
    front_end = FrontEnd(LogMel(), **PLAIN)
    samples = 15600 + 32000
    ramp = np.exp(np.arange(samples) / samples * 4.0)
    clips = (waveforms(1, samples) * ramp).repeat(200, axis=0)
    a, b, shown = (np.asarray(x) for x in front_end(clips))
    np.testing.assert_array_equal(shown, np.full([200, 2], -1))
    grid = LogMel(cover_end=False)
    level_of_first = np.asarray(grid(clips[:1]))[0].mean(axis=(1, 2))  # by patch of 48 frames
    places = [np.interp(x.mean(axis=(1, 2)), level_of_first, np.arange(5)) for x in (a, b)]
    for place in places:  # uniform over 0 to 4.17 hops of 48 frames
        assert place.min() < 0.3
        assert place.max() > 3.8
        assert abs(np.mean(place) - 2.08) < 4 * 4.17 / np.sqrt(12 * 200)
    assert abs(np.corrcoef(places)[0, 1]) < 0.3
    # A clip of one patch has only one place.
    a, b, _ = front_end(clips[:2, :15600])
    np.testing.assert_allclose(a, LogMel()(clips[:2, :15600])[:, 0], atol=1e-6)
    np.testing.assert_allclose(b, a, atol=1e-6)


@pytest.mark.parametrize("normalize_level", ["none", "patch", "waveform"])
def test_two_plain_views_are_views(normalize_level):
    first, second = waveforms(seed=1), 0.01 * waveforms(samples=9000, seed=2)
    log_mel = LogMel(normalize_level=normalize_level)
    a, b, _ = FrontEnd(log_mel, **PLAIN)((first, second))
    a_expected, b_expected = log_mel(first)[:, 0], log_mel(second)[:, 0]
    if normalize_level == "waveform":  # of the louder one of a pair
        second = np.pad(second, ((0, 0), (0, 15600 - 9000)))
        grid = LogMel(patch_hop_frames=98, normalize_level="waveform", cover_end=False)
        both = grid(np.concatenate([first[:, :15600], np.zeros([len(first), 80]), second], axis=1))
        a_expected, b_expected = both[:, 0], both[:, 1]
    margin = 1e-6 if normalize_level == "none" else 1e-5
    np.testing.assert_allclose(a, a_expected, atol=margin)
    np.testing.assert_allclose(b, b_expected, atol=margin)


def test_numbers_are_drawn_anew_in_every_call_from_the_seed():
    batch = make_batch()
    del batch["uniforms"]
    options = {"channel_channel": 0.3, "mixture_mixture": 0.2, "example_mixing": 0.5}
    front_end, again, other = (FrontEnd(LogMel(), **options, seed=seed) for seed in (3, 3, 4))
    first, second = front_end(batch)[0], front_end(batch)[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(again(batch)[0], first)
    # It goes on where it stopped, from its state.
    other.seed_generator.state.assign(again.seed_generator.state)
    np.testing.assert_array_equal(other(batch)[0], second)
    assert FrontEnd.from_config(front_end.get_config()).seed == 3
    # The same in a graph whose batch and lengths are not known.
    plain = FrontEnd(LogMel(), **PLAIN)
    expected = plain(waveforms())[0]
    graph = tf.function(
        FrontEnd(LogMel(), **PLAIN), input_signature=[tf.TensorSpec([None, None], tf.float32)]
    )
    np.testing.assert_allclose(graph(waveforms())[0], expected, atol=1e-5)


def test_views_without_channels_are_refused_where_channels_are_asked_for():
    with pytest.raises(ValueError, match="views need channels"):
        FrontEnd(LogMel())((waveforms(), waveforms()))
    with pytest.raises(ValueError, match="3 pairs: expected an even number"):
        FrontEnd(LogMel(), mixture_mixture=1.0, example_mixing=0.5)(waveforms(3))
    with pytest.raises(ValueError, match=r"\(4, 40000, 1\): expected \[batch, samples\]"):
        FrontEnd(LogMel(), **PLAIN)(waveforms()[..., None])


def test_channels_keep_their_level_in_the_mixture():
    log_mel = LogMel(normalize_level="waveform")
    options = {"mixture_channel": 1.0, "time_masks": 0, "frequency_masks": 0}
    batch = make_batch()
    plain = [np.asarray(x) for x in FrontEnd(LogMel(), **options)(batch)]
    found = [np.asarray(x) for x in FrontEnd(log_mel, **options)(batch)]
    np.testing.assert_array_equal(found[2], plain[2])
    mel = np.exp(np.stack([np.asarray(LogMel()(x))[:, 0] for x in batch["mixtures"]])) - 0.001
    gain = 2.0 / np.sqrt(np.mean(mel**2, axis=(2, 3)).max(axis=1))[:, None, None]
    for view, as_it_is in zip(found[:2], plain[:2], strict=True):
        expected = np.log(gain * (np.exp(as_it_is) - 0.001) + 0.001)
        np.testing.assert_allclose(view, expected, atol=1e-4)
    # How loud the clips are makes no difference.
    louder = {name: 10.0 * batch[name] for name in ("mixtures", "channels")}
    for view, louder_view in zip(found, FrontEnd(log_mel, **options)(batch | louder), strict=True):
        np.testing.assert_allclose(view, louder_view, atol=1e-3)
