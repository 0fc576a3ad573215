"""A batch that is computed in parts: the same update where the loss is a mean over examples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sepssl.audio.log_mel import LogMel
from sepssl.errors import InputError
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.training.learner import Learner
from sepssl.training.loop import LearningRate, train_on_dataset
from sepssl.training.separator_learner import SeparatorLearner
from sepssl.training.similarity_learner import SimilarityLearner


def separator_learner(parts, dtype="float32", rate=0.02, **options):
    keras.utils.set_random_seed(0)
    tdcn = TDCN(6, 8, 1, 1, unroll=True, dtype=dtype)
    separator = Separator(2, STFTBasis(64, 32), tdcn, "uniform", dtype=dtype)
    learner = SeparatorLearner(separator, gradient_accumulation_steps=parts, **options)
    learner.build()
    learner.compile(keras.optimizers.SGD(rate, momentum=0.9), jit_compile=False)
    learner.optimizer.build(learner.trainable_variables)
    return learner


def batch(seed):
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(4, 2, 600))
    return {
        "recordings": rng.normal(size=(8, 600)).astype(np.float32),
        "uniforms": rng.random((8, 2), np.float32),
        "sources": sources.astype(np.float32),
        "mixtures": sources.sum(1).astype(np.float32),
    }


def trained(parts, graph=True, **options):
    rate = LearningRate(0.02, "cosine", warmup_steps=2, steps=5)
    learner = separator_learner(
        parts, rate=rate, clip_norm=0.1, average_decay=0.9, sparsity_weight=0.3,
        penalty_ramp_steps=3, **options,
    )  # fmt: skip
    step = tf.function(learner.update, autograph=False) if graph else learner.update
    metrics = [{k: float(v) for k, v in step(batch(seed)).items()} for seed in range(4)]
    assert learner.optimizer.iterations == 4
    return metrics, learner.separator.get_weights() + learner.average.get_weights()


@pytest.mark.parametrize("objective", ["mixit", "remixit"])
def test_parts_of_a_batch_make_the_update_of_the_batch(objective):
    """Clipped by the norm of the whole gradient; schedules and averages count updates."""
    metrics, weights = trained(1, graph=False, objective=objective)
    start = separator_learner(1).separator.get_weights()
    moved = max(np.abs(a - b).max() for a, b in zip(weights, start * 2, strict=True))
    assert min(m["gradient_norm"] for m in metrics) > 0.1  # all are clipped
    assert moved > 0.005
    for parts, graph in ((4, True), (2, False)):
        in_parts, found = trained(parts, graph, objective=objective)
        for one, other in zip(metrics, in_parts, strict=True):
            assert one.keys() == other.keys()
            for name in ("loss", "snr", "sparsity", "gradient_norm", "parameter_norm"):
                assert other[name] == pytest.approx(one[name], rel=2e-6, abs=1e-6), name
        apart = max(np.abs(a - b).max() for a, b in zip(found, weights, strict=True))
        assert apart < 1e-6


def test_under_float16_an_overflow_lowers_the_scale_once():
    learner = separator_learner(2, "mixed_float16", 1e-3)
    learner.optimizer.dynamic_scale.assign(2.0**60)
    before = [v.numpy() for v in learner.trainable_variables]
    step = tf.function(learner.update, autograph=False)
    data = {"recordings": batch(0)["recordings"]}
    assert float(step(data)["skipped"]) == 1.0
    assert float(learner.optimizer.dynamic_scale) == 2.0**59
    for b, v in zip(before, learner.trainable_variables, strict=True):
        np.testing.assert_array_equal(b, v)
    learner.optimizer.dynamic_scale.assign(256.0)
    found = step(data)
    assert (float(found["skipped"]), float(found["loss_scale"])) == (0.0, 256.0)
    assert (int(learner.optimizer.iterations), int(learner.optimizer.step_counter)) == (1, 1)
    exact = separator_learner(1, "float32", 1e-3).update(data)
    for name in ("loss", "gradient_norm"):
        assert float(found[name]) == pytest.approx(float(exact[name]), rel=1e-2)


def test_negatives_are_those_of_a_part():
    """The mean of the steps of small batches, which is not the step of a large one."""
    rng = np.random.default_rng(0)
    views = [rng.normal(size=(8, 96, 64)).astype(np.float32) for _ in range(2)]

    def step(data, parts):
        keras.utils.set_random_seed(0)
        encoder = Encoder(SmallBackbone(8, width=2), LogMel())
        learner = SimilarityLearner(encoder, gradient_accumulation_steps=parts)
        learner.build()
        learner.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        before = [v.numpy() for v in learner.trainable_variables]
        metrics = learner.update(tuple(data))
        moved = [v.numpy() - b for v, b in zip(learner.trainable_variables, before, strict=True)]
        return float(metrics["similarity_loss"]), np.concatenate([m.ravel() for m in moved])

    halves = [step([v[half] for v in views], 1) for half in (slice(4), slice(4, 8))]
    loss, moved = step(views, 2)
    assert loss == pytest.approx(np.mean([found for found, _ in halves]), rel=1e-5)
    expected = np.mean([way for _, way in halves], axis=0)
    np.testing.assert_allclose(moved, expected, atol=1e-5 * np.abs(expected).max())
    assert step(views, 1)[0] > loss + 0.3  # of 8 clips: log(15 / 7) more, by chance


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 8 in 3 parts"):
        separator_learner(3).update({"recordings": batch(0)["recordings"]})
    with pytest.raises(ValueError, match="gradient_accumulation_steps=0: expected 1 or more"):
        separator_learner(0)


class Hungry(Learner):
    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), initializer="ones")

    def build(self, input_shape=None):
        self.built = True

    @property
    def product(self):
        return self

    def loss_and_metrics(self, data, training):
        return tf.reduce_sum(tf.broadcast_to(self.scale * data, [2**22, 2**22])), {}


def test_a_step_that_does_not_fit_into_memory_ends_in_one_line(tmp_path):
    dataset = tf.data.Dataset.from_tensors(tf.ones([1]))
    with pytest.raises(InputError) as raised:
        train_on_dataset(dataset, Hungry, tmp_path / "run", steps=1, verbose=False)
    assert str(raised.value) == (
        f"{tmp_path / 'run'}: a step does not fit into memory (shape[4194304,4194304]); "
        "expected smaller batches"
    )
