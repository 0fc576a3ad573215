import shutil

import keras
import numpy as np
import pytest

from sepssl.configs import encoder_small, encoder_smoke, separator_small, separator_smoke
from sepssl.errors import InputError
from sepssl.files import lock_folder
from sepssl.separation import TDCN, Separator, STFTBasis, mixit_loss
from sepssl.separation.build import make_separator
from sepssl.training.encoder import train_encoder
from sepssl.training.loop import LearningRate, loop_settings
from sepssl.training.separator import train_separator
from sepssl.training.separator_learner import SeparatorLearner
from sepssl.training.start import settings_of_run


def test_learning_rates_hand_worked():
    cosine = LearningRate(0.1, "cosine", warmup_steps=4, steps=12)
    found = [float(cosine(step)) for step in (0, 1, 3, 4, 8, 12)]
    assert found == pytest.approx([0.025, 0.05, 0.1, 0.1, 0.05, 0.0], abs=1e-8)
    constant = LearningRate(0.1, "constant", warmup_steps=2, steps=9)
    assert [float(constant(step)) for step in (0, 1, 8)] == pytest.approx([0.05, 0.1, 0.1])
    assert float(LearningRate(0.1, "cosine", 0, 10)(0)) == pytest.approx(0.1)


BAD = [
    ("separator", "train.steps", 0, "train.steps=0"),
    ("separator", "train.crop_seconds", 0.0, "train.crop_seconds=0"),
    ("separator", "train.warmup_steps", -1, "train.warmup_steps=-1"),
    ("separator", "train.learning_rate", 0.0, "train.learning_rate=0"),
    ("separator", "train.strategy", "mirror", "strategy='mirror'"),
    ("separator", "separator.num_sources", 1, "1 sources"),
    ("separator", "separator.num_sources", 17, "17 sources"),
    ("separator", "train.num_mixtures", 1, "train.num_mixtures=1"),
    ("separator", "train.num_mixtures", 3, "train.batch_size=8, of which 0 with sources"),
    ("separator", "train.batch_size", 7, "train.batch_size=7, of which 0 with sources"),
    ("separator", "train.supervised_fraction", 0.4, "train.batch_size=8, of which 3 with sources"),
    ("separator", "train.supervised_fraction", 1.5, "train.supervised_fraction=1.5"),
    ("separator", "train.reversed_fraction", 1.1, "train.reversed_fraction=1.1"),
    ("separator", "train.single_mixture_fraction", -0.1, "train.single_mixture_fraction=-0.1"),
    ("separator", "train.gain_range_db", (3.0, -3.0), "train.gain_range_db=(3.0, -3.0)"),
    ("separator", "train.gain_range_db", (3.0,), "train.gain_range_db=(3.0,)"),
    ("separator", "train.gain_range_db", (), "train.gain_range_db=()"),
    ("separator", "train.supervised_fraction", 0.01, "expected at least one of the"),
    ("separator", "separator.causal", True, "separator: causal=True, but normalize_input=True"),
    ("separator", "train.state_steps", (5000,), "train.state_steps: 5000 is not one of"),
    ("encoder", "train.state_steps", (-3,), "train.state_steps: -3 is not one of the run's steps"),
    ("separator", "train.precision", "half", "train.precision='half': expected one of float32"),
    ("encoder", "train.precision", "float64", "train.precision='float64': expected one of"),
    ("separator", "train.signal_loss", "mse", "signal_loss='mse'"),
    ("separator", "train.search", "greedy", "search='greedy'"),
    ("separator", "train.sparsity_weight", -1.0, "train.sparsity_weight=-1"),
    ("separator", "separator.hop", 0, "hop=0"),
    ("separator", "separator.hop", 300, "hop=300"),
    ("separator", "separator.repeats", 0, "repeats"),
    ("separator", "separator.basis", "wavelet", "separator.basis='wavelet'"),
    ("separator", "separator.mixture_consistency", "sum", "mixture_consistency='sum'"),
    ("separator", "data.num_clips", 0, "data.num_clips=0"),
    ("separator", "data.num_validation", -2, "data.num_validation=-2"),
    ("separator", "seed", -1, "seed=-1"),
    ("encoder", "objective.temperature", 0.0, "temperature=0"),
    ("encoder", "objective.temperature", -0.2, "temperature=-0.2"),
    ("encoder", "objective.projection_size", 0, "objective.projection_size=0"),
    ("encoder", "encoder.embedding_size", -1, "encoder.embedding_size=-1"),
    ("encoder", "encoder.unpooled_channels", 100, "unpooled_channels=100: expected 0 to"),
    ("encoder", "encoder.unpooled_channels", -1, "unpooled_channels=-1: expected 0 to"),
    ("encoder", "train.probe_clips", -1, "train.probe_clips=-1"),
    ("encoder", "views.mixing_domain", "stft", "mixing_domain='stft'"),
    ("encoder", "views.equalization_db", -1.0, "equalization_db=-1"),
    ("encoder", "encoder.backbone", "huge", "encoder.backbone='huge'"),
    ("encoder", "views.max_distance_seconds", -1.0, "views.max_distance_seconds=-1"),
    ("encoder", "views.time_masks", -1, "time_masks=-1"),
    ("encoder", "views.time_width", 300, "time_width=300"),
    ("encoder", "views.mixture_channel", 0.5, "expected probabilities"),
    ("encoder", "data.sample_rate", 8000, "data.sample_rate=8000"),
    ("encoder", "train.batch_size", 64, "batch_size=64, but only 32 clips to train on"),
    ("encoder", "train.gradient_accumulation_steps", 0, "gradient_accumulation_steps=0"),
    ("encoder", "train.gradient_accumulation_steps", 3, "multiple of 6 with"),
    ("separator", "train.gradient_accumulation_steps", 8, "multiple of 16 (train.num_mixtures"),
]


@pytest.mark.parametrize(("stage", "key", "value", "says"), BAD)
def test_values_that_cannot_be_are_refused_before_any_work(stage, key, value, says, tmp_path):
    config = {"separator": separator_smoke, "encoder": encoder_smoke}[stage].get_config()
    config.update_from_flattened_dict({key: value})
    train = {"separator": train_separator, "encoder": train_encoder}[stage]
    with pytest.raises(InputError) as raised:
        train(config, tmp_path / "run")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_only_the_small_network_has_unpooled_channels(tmp_path):
    config = encoder_smoke.get_config()
    config.encoder.update(backbone="cnn14", unpooled_channels=4)
    with pytest.raises(InputError, match=r"unpooled_channels=4: expected 0 for .*'cnn14'"):
        train_encoder(config, tmp_path / "run")


def test_in_how_many_parts_a_separators_batch_is_computed_may_change_on_the_way():
    for module, network, same in (
        (separator_smoke, "separator", True),
        (encoder_smoke, "encoder", False),
    ):
        one, two = module.get_config(), module.get_config()
        two.train.gradient_accumulation_steps = 2
        two.train.keep_checkpoints = 5
        assert (settings_of_run(one, network) == settings_of_run(two, network)) == same


def test_a_folder_that_another_process_trains_in_is_refused(eager, tmp_path):
    config = separator_smoke.get_config()
    config.data.update(num_clips=8, clip_seconds=0.5, num_validation=0)
    config.train.update(steps=1, warmup_steps=0, crop_seconds=0.25, state_steps=())
    train_separator(config, tmp_path / "run")
    (store,) = (tmp_path / "run").glob("clips-*")
    shutil.rmtree(store)
    with (
        lock_folder(tmp_path / "run", wait=False),
        pytest.raises(InputError, match="run: another process is running in it"),
    ):
        train_separator(config, tmp_path / "run")
    assert not store.exists()  # refused before hours of decoding


def test_snr_compares_the_loss_with_that_of_silence():
    learner = SeparatorLearner(Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1, unroll=True)))
    learner.build()
    learner.compile(optimizer="adam", jit_compile=False)
    rng = np.random.default_rng(0)
    recordings = (rng.normal(size=(8, 800)) * 10.0 ** rng.uniform(-2, 0, (8, 1))).astype("float32")
    metrics = learner.train_step({"recordings": recordings})
    references = recordings.reshape(4, 2, 800)
    silence = float(np.mean(mixit_loss(references, np.zeros([4, 2, 800], np.float32))[0]))
    # The loss of silence holds the threshold, 0.1 % of the power: 0.0043 dB.
    expected = silence - 10 * np.log10(1.001) - float(metrics["loss"])
    assert float(metrics["snr"]) == pytest.approx(expected, abs=1e-3)


def test_a_short_run_needs_no_other_warm_up():
    """As --config.train.steps=60 alone: the configuration's warm-up is 100."""
    train = encoder_small.get_config().train
    train.steps = 60
    rate = loop_settings(train)["learning_rate"]
    assert (rate.warmup_steps, rate.steps) == (30, 60)
    train.update(steps=3000)
    assert loop_settings(train)["learning_rate"].warmup_steps == 100


def test_a_causal_separator_of_a_configuration_does_not_look_ahead():
    config = separator_small.get_config().separator
    config.update(causal=True, normalize_input=False, mixture_consistency="uniform")
    config.update(bottleneck_channels=8, conv_channels=12, dilations_per_repeat=3, repeats=2)
    keras.utils.set_random_seed(0)
    separator = make_separator(config, 16000)
    mixture = np.random.default_rng(0).normal(size=(1, 16000)).astype(np.float32)
    changed = mixture.copy()
    changed[:, 12000:] *= 10.0
    # A frame reaches 512 samples ahead of its first.
    before, after = (np.asarray(separator(x))[..., : 12000 - 512] for x in (mixture, changed))
    np.testing.assert_array_equal(before, after)
    assert np.abs(before).max() > 0.1
