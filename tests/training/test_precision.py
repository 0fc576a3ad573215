import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import sepssl
from sepssl.audio.log_mel import LogMel
from sepssl.configs import separator_smoke
from sepssl.errors import InputError
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator, STFTBasis
from sepssl.training.precision import POLICIES, Float32Copy, policy_named
from sepssl.training.separator import train_separator
from sepssl.training.separator_learner import SeparatorLearner
from sepssl.training.similarity_learner import SimilarityLearner
from sepssl.views import FrontEnd

RNG = np.random.default_rng(0)
RECORDINGS = {"recordings": RNG.normal(size=(8, 800)).astype(np.float32)}
VIEWS = {
    "mixtures": RNG.normal(size=(8, 2, 15600)).astype(np.float32)
    * np.linspace(0.01, 1, 15600, dtype=np.float32) ** np.arange(1, 9).reshape(8, 1, 1),
    "uniforms": RNG.random((8, 15), np.float32),
}


def separator_learner(dtype, causal=False, unroll=False, **options):
    keras.utils.set_random_seed(0)
    tdcn = TDCN(8, 12, 2, 1, causal=causal, unroll=unroll, dtype=dtype)
    separator = Separator(2, STFTBasis(64, 32), tdcn, "uniform", dtype=dtype)
    return SeparatorLearner(separator, **options)


def encoder_learner(dtype, **options):
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(16, width=4, dtype=dtype), dtype=dtype)
    return SimilarityLearner(
        encoder, FrontEnd(LogMel(), 1.0, 0.0, 0.0), learn_temperature=True, **options
    )


def unrolled_learner(dtype, **options):
    return separator_learner(dtype, unroll=True, **options)


def causal_learner(dtype, **options):
    # Without a loop, in which XLA takes long to compile cumulative sums.
    return separator_learner(dtype, causal=True, unroll=True, **options)


def first_update(learner, data, graph=True):
    """Metrics of the first step that is not skipped, how it moved the weights, steps skipped."""
    learner.build()
    learner.compile(keras.optimizers.SGD(1.0))
    learner.optimizer.build(learner.trainable_variables)
    before = [v.numpy() for v in learner.trainable_variables]
    step = tf.function(learner.update, autograph=False) if graph else learner.update
    for skipped in range(15):
        metrics = {name: float(value) for name, value in step(data).items()}
        moved = [v.numpy() - b for v, b in zip(learner.trainable_variables, before, strict=True)]
        if not metrics.get("skipped"):
            return metrics, np.concatenate([m.ravel() for m in moved]), skipped
        assert all(np.all(m == 0) for m in moved)
    pytest.fail("every step was skipped")


@pytest.mark.parametrize(
    ("make", "make_reference", "data", "clip_norm"),
    [
        (separator_learner, unrolled_learner, RECORDINGS, 0.1),
        (causal_learner, causal_learner, RECORDINGS, 0.0),
        (encoder_learner, encoder_learner, VIEWS, 0.5),
    ],
)
def test_a_float16_step_in_a_graph_is_that_of_float32(make, make_reference, data, clip_norm):
    metrics, moved, skipped = first_update(make("mixed_float16", clip_norm=clip_norm), data)
    learner = make_reference("float32", clip_norm=clip_norm)
    expected, reference, _ = first_update(learner, data, graph=False)
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert metrics["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-2)
    norms = np.linalg.norm(moved), np.linalg.norm(reference)
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    assert norms[1] == pytest.approx(clip_norm or expected["gradient_norm"], rel=1e-4)
    assert moved @ reference / (norms[0] * norms[1]) > 0.99
    # The scale starts at 2 ** 15 and is halved with every step that overflows.
    assert metrics["loss_scale"] == 2.0 ** (15 - skipped)
    assert "loss_scale" not in expected


def test_a_step_that_overflows_changes_the_scale_alone():
    learner = separator_learner("mixed_float16", unroll=True)
    learner.build()
    learner.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    learner.optimizer.build(learner.trainable_variables)
    learner.optimizer.dynamic_scale.assign(2.0**100)
    before = [v.numpy() for v in learner.trainable_variables]
    data = tf.data.Dataset.from_tensor_slices(RECORDINGS["recordings"]).batch(4)
    history = learner.fit(data, verbose=0).history
    assert history["skipped"] == [1.0]
    assert float(learner.optimizer.dynamic_scale) == 2.0**98
    assert np.isfinite(history["loss"]).all()
    for b, v in zip(before, learner.trainable_variables, strict=True):
        np.testing.assert_array_equal(b, v)
    assert learner.optimizer.iterations == 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_what_is_kept_computes_in_float32_with_the_same_weights(policy, tmp_path):
    basis, tdcn = LearnedBasis(8, 20, 10, dtype=policy), TDCN(4, 6, 1, 1, dtype=policy)
    separator = Separator(2, basis, tdcn, dtype=policy)
    encoder = Encoder(SmallBackbone(8, width=2, dtype=policy), dtype=policy)
    for model, load in ((separator, sepssl.load_separator), (encoder, sepssl.load_encoder)):
        model.build((None, None))
        copy = Float32Copy(model)
        for variable in model.trainable_variables:
            variable.assign(np.random.default_rng(1).normal(size=variable.shape))
        copy().save(tmp_path / "model.keras")
        loaded = load(tmp_path / "model.keras")
        layers = loaded._flatten_layers()
        assert {layer.dtype_policy.name for layer in layers} == {"float32"}
        for ours, theirs in zip(loaded.variables, model.variables, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert Float32Copy(loaded)() is loaded


def test_precisions_that_cannot_be_are_refused():
    assert {name: policy_named(name) for name in POLICIES} == POLICIES
    with pytest.raises(InputError, match=r"train\.precision='fp16': expected one of float32"):
        policy_named("fp16")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_configuration_asks_for_it(precision, tmp_path):
    config = separator_smoke.get_config()
    config.data.update(num_clips=8, clip_seconds=0.5, num_validation=2)
    config.separator.update(bottleneck_channels=4, conv_channels=6, repeats=1, unroll=False)
    config.train.update(steps=3, warmup_steps=1, crop_seconds=0.25, state_steps=(3,), log_every=1)
    config.train.precision = precision
    run = train_separator(config, tmp_path / "run")
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert ("loss_scale" in records[0]) == (precision == "float16")
    assert all(np.isfinite(r["loss"]) for r in records if "loss" in r)
    for path in (run.final, run.state(3)):
        separator = sepssl.load_separator(path)
        assert {layer.dtype_policy.name for layer in separator._flatten_layers()} == {"float32"}
