import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from sepssl.audio.log_mel import LogMel
from sepssl.data.store import ClipStore, store_channels
from sepssl.errors import InputError
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.training.batches import ViewBatches
from sepssl.views import FrontEnd, OnlineSeparation
from sepssl.views.picture import draw_views, view_reasons

SAMPLES = 32000
PATCH = LogMel().patch_samples


@pytest.fixture(scope="module")
def separators():
    """Of different numbers of sources, as an early and a late one of two runs might be."""
    keras.utils.set_random_seed(0)
    return {f"of-{m}": Separator(m, STFTBasis(64, 32), TDCN(8, 12, 2, 1)) for m in (2, 3)}


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory):
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(1, SAMPLES)) * rng.uniform(0.01, 1) for _ in range(6)]
    store = ClipStore(tmp_path_factory.mktemp("clips"))
    store.fill(
        "test", [f"{i}.wav" for i in range(6)], lambda indices: [clips[i] for i in indices], "clips"
    )
    return store


@pytest.fixture(scope="module")
def stored(separators, mixtures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("channels")
    return [
        store_channels(s, name, mixtures, 16000, folder, 10.0) for name, s in separators.items()
    ]


def batches(mixtures, channels, **options):
    return ViewBatches(mixtures, channels, 6, PATCH, SAMPLES - PATCH, True, 15, 0, **options)


def test_separation_in_the_graph_gives_the_views_of_stored_channels(separators, mixtures, stored):
    front_end = FrontEnd(LogMel(), 0.2, 0.5, 0.3, example_mixing=0.5)
    online = FrontEnd(
        LogMel(),
        0.2,
        0.5,
        0.3,
        example_mixing=0.5,
        separation=OnlineSeparation(separators.values(), PATCH),
    )
    ready = batches(mixtures, stored)
    clips = batches(mixtures, [], online_separators=2, clip_samples=SAMPLES)
    for step in range(3):
        a, b, shown = front_end(ready.load(step))
        online_a, online_b, online_shown = online(clips.load(step))
        np.testing.assert_array_equal(online_shown, shown)
        # Stores keep 16 bits: near the floor of log(mel + 0.001), that is what differs.
        np.testing.assert_allclose(online_a, a, atol=5e-3)
        np.testing.assert_allclose(online_b, b, atol=5e-3)
    assert not online.trainable_variables


def test_no_gradient_is_kept_for_separators(separators, mixtures):
    batch = batches(mixtures, [], online_separators=2, clip_samples=SAMPLES).load(0)
    layer = OnlineSeparation(separators.values(), PATCH)
    layer.build()
    kernel = layer.separators[0].variables[0].value
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        total = tf.reduce_sum(layer(batch)["channels"] ** 2)
    assert tape.gradient(total, kernel) is None


def test_separators_stay_trainable_and_draws_are_as_without_them():
    separator = Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1))
    separator.build((None, None))
    keras.utils.set_random_seed(5)
    expected = keras.initializers.GlorotUniform()((3, 3))
    keras.utils.set_random_seed(5)
    layer = OnlineSeparation([separator], PATCH)
    np.testing.assert_array_equal(keras.initializers.GlorotUniform()((3, 3)), expected)
    assert separator.trainable
    assert separator.trainable_variables
    assert not layer.separators[0].trainable_variables
    for own, given in zip(layer.separators[0].weights, separator.weights, strict=True):
        np.testing.assert_array_equal(own, given)


def test_plain_waveforms_are_separated_by_a_separator_drawn_for_each():
    keras.utils.set_random_seed(0)
    bank = [Separator(m, STFTBasis(64, 32), TDCN(8, 12, 2, 1)) for m in (1, 2)]
    options = {"channel_channel": 1.0, "mixture_channel": 0.0}
    options |= {"time_masks": 0, "frequency_masks": 0, "channel_floor_db": -100.0}
    front_end = FrontEnd(
        LogMel(), **options, mixture_floor_db=-100.0, separation=OnlineSeparation(bank, PATCH)
    )
    clips = np.random.default_rng(0).normal(size=(40, PATCH)).astype(np.float32)
    views, _, shown = (np.asarray(x) for x in front_end(clips))
    channels = [np.asarray(separator(clips)) for separator in bank]
    candidates = [channels[0][:, 0], channels[1][:, 0], channels[1][:, 1]]
    spectra = np.stack([np.asarray(LogMel()(c))[:, 0] for c in candidates])
    errors = np.abs(spectra - views).max(axis=(2, 3))
    assert errors.min(axis=0).max() < 1e-4
    found = errors.argmin(axis=0)
    # The only channel of the first separator is the clip itself, which half of them show.
    assert 10 <= np.sum(found == 0) <= 30
    assert {0, 1, 2} == set(found.tolist())
    np.testing.assert_array_equal(shown[:, 0], np.where(found == 2, 1, 0))


def test_patches_of_a_long_recording_lie_in_the_clip_that_is_separated(separators, tmp_path):
    ramp = np.linspace(0, 1, 3 * SAMPLES)[None]
    store = ClipStore(tmp_path)
    store.fill("test", ["a", "b"], lambda indices: [ramp, -ramp], "ramps")
    made = ViewBatches(store, [], 2, PATCH, 10000, True, 15, 0, None, 2, SAMPLES)
    for step in range(10):
        batch = made.load(step)
        separated = OnlineSeparation(separators.values(), PATCH)(batch)
        for view in range(2):
            found = np.abs(np.asarray(separated["mixtures"])[:, view, 0])
            expected = batch["starts"][:, view] / (3 * SAMPLES - 1)
            np.testing.assert_allclose(found, expected, atol=1e-4)
        # Channels are consistent with their mixture, sample by sample.
        total = np.asarray(separated["channels"]).sum(axis=2)
        np.testing.assert_allclose(total, separated["mixtures"], atol=1e-4)


def test_reasons_say_what_was_done(mixtures, stored, tmp_path):
    front_end = FrontEnd(LogMel(), 0.0, 1.0, 0.0, example_mixing=0.5)
    batch = batches(mixtures, stored).load(0)
    batch["uniforms"][0, 4:7] = (0.2, 0.7, 0.5)  # the second view is mixed, half-way up
    batch["uniforms"][1, 4:7] = (0.6, 0.2, 0.5)  # not mixed
    batch["starts"][0] = (8000, 0)
    batch["separator"][0] = 1
    shown = np.array([[2, -1]] + [[-1, 0]] * 5)
    reasons = view_reasons(front_end, batch, shown, ["of-2", "of-3"])
    assert reasons[0] == ["0.50 s: channel 3 of of-3", "0.00 s: mixture, + neighbour at -12 dB"]
    assert "neighbour" not in "".join(reasons[1])
    # Names that matplotlib or a font would stumble over.
    names = ["a$x_$0.wav", "caf\udce9.wav", "雨.wav", *mixtures.names[3:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_views(front_end, batch, names, ["of-$_$2", "of-3"], tmp_path / "views.svg", count=5)
    picture = (tmp_path / "views.svg").read_text()
    assert picture.count("<image") == 10


def test_views_that_are_given_are_not_separated(separators):
    separation = OnlineSeparation(separators.values(), PATCH)
    pair = [np.random.default_rng(i).normal(size=(4, PATCH)).astype(np.float32) for i in (0, 1)]
    options = {"mixture_mixture": 1.0, "seed": 0}
    for view in (pair, {"mixtures": np.stack(pair, axis=1)}):
        found = FrontEnd(LogMel(), separation=separation, **options)(view)
        without = FrontEnd(LogMel(), **options)(view)
        for ours, theirs in zip(found[:2], without[:2], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="separators: there are none"):
        OnlineSeparation([], PATCH)


def test_channels_that_are_no_numbers_are_not_stored(mixtures, tmp_path):
    separator = Separator(2, STFTBasis(64, 32), TDCN(4, 8, 1, 1))
    separator.build()
    separator.mask.set_weights([np.full(w.shape, np.nan) for w in separator.mask.get_weights()])
    with pytest.raises(InputError, match=rf"{mixtures.names[0]}: its channels by broken hold NaN"):
        store_channels(separator, "broken", mixtures, 16000, tmp_path, 10.0, verbose=False)
