"""Two replicas against one, where they have something to agree on.

    python replicas.py [NAME...]

Run by test_replicas.py, in a process of its own. Prints one JSON line: for every class, or those
named, how far outputs and weights after a step are apart, relative to the largest value; and what
float16 does.
"""

import json
import sys

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
from cases import CASES  # noqa: E402
from learners import LEARNERS, compiled  # noqa: E402

from sepssl.distribution import apply_global_mean, gather, replica_gradients  # noqa: E402
from sepssl.separation import TDCN, Separator, STFTBasis  # noqa: E402
from sepssl.training.separator import _evaluator  # noqa: E402

# Layers whose replicas have something to agree on: statistics over the batch. Others of that kind
# are in the learners.
CHECKED = ("GlobalBatchNorm", "ProjectionHead")
# One for all: each new one would number its collectives from the start again.
STRATEGIES = {
    1: tf.distribute.get_strategy(),
    2: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
}


def halves(data, replicas):
    """Per-replica values of a global batch."""
    count = len(keras.tree.flatten(data)[0]) // replicas

    def part(context):
        i = context.replica_id_in_sync_group
        return keras.tree.map_structure(lambda x: tf.constant(x[i * count :][:count]), data)

    return part


def runner(strategy, step):
    """Global batch -> what a step returns for it, on the first replica."""
    # In a graph: replicas that run eagerly would not agree on the order of collectives.
    graph = tf.function(lambda values: strategy.run(step, (values,)), autograph=False)

    def run(data):
        part = halves(data, strategy.num_replicas_in_sync)
        results = graph(strategy.experimental_distribute_values_from_function(part))
        return [np.asarray(strategy.experimental_local_results(x)[0]) for x in results]

    return run


def of_layer(case, replicas):
    """Outputs of the global batch, then the weights after a step of its mean square."""
    strategy = STRATEGIES[replicas]
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = case.model()
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        model.optimizer.build(model.trainable_variables)

    def step(data):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(model(data, training=True))
            outputs = [tf.cast(x, tf.float32) for x in outputs if len(x.shape)]
            loss = sum(tf.reduce_mean(tf.square(x)) for x in outputs)
        if model.trainable_variables:
            apply_global_mean(model, replica_gradients(model, loss, tape), 0.0)
        return [gather(x) for x in outputs]

    outputs = runner(strategy, step)(case.data())
    return outputs + [np.asarray(v) for v in model.variables]


def of_learner(case, replicas):
    """Loss of two steps, then the weights."""
    strategy = STRATEGIES[replicas]
    with strategy.scope():
        learner = compiled(case)
        # Unlike Adam's, its steps are as close, and as large, as gradients are.
        learner.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        learner.optimizer.build(learner.trainable_variables)
    run = runner(strategy, lambda data: [learner.train_step(data)["loss"]])
    losses = [run(case.data(8, seed)) for seed in range(2)]
    return [np.asarray(losses)] + [np.asarray(v) for v in learner.variables]


def of_float16(case, replicas):
    """Four steps, in the third of which gradients overflow.

    Returns:
        Losses, loss scales used, whether steps were skipped, and the scale and counter after each
        step; whether the overflow left all weights alone; the weights.
    """
    strategy = STRATEGIES[replicas]
    with strategy.scope():
        learner = compiled(case, "mixed_float16")
        learner.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        learner.optimizer.build(learner.trainable_variables)
    learner.optimizer.dynamic_growth_steps = 2

    def step(data):
        made = learner.update(data)
        return [made[name] for name in ("loss", "loss_scale", "skipped")]

    run = runner(strategy, step)
    steps, weights = [], []
    for seed, scale in enumerate((1024.0, None, 2.0**60, 512.0)):
        if scale:
            learner.optimizer.dynamic_scale.assign(scale)
        steps.append(run(case.data(8, seed)))
        after = (learner.optimizer.dynamic_scale, learner.optimizer.step_counter)
        steps[-1] += [np.float32(np.asarray(x)) for x in after]
        weights.append([np.asarray(v) for v in learner.trainable_variables])
    alone = all(np.array_equal(x, y) for x, y in zip(weights[1], weights[2], strict=True))
    return [*np.asarray(steps).T, np.asarray(alone), *weights[-1]]


def of_validation(replicas):
    """MoMi of two recordings."""
    with STRATEGIES[replicas].scope():
        keras.utils.set_random_seed(0)
        separator = Separator(2, STFTBasis(64, 32), TDCN(4, 6, 2, 1))
        separator.build()
    recordings = np.random.default_rng(0).normal(size=[2, 800]).astype(np.float32)
    return [np.float32([_evaluator([], list(recordings))(separator)["MoMi"]])]


def distance(found, expected):
    assert len(found) == len(expected)
    apart = [
        np.abs(x - y).max() / max(np.abs(y).max(), 1e-3)
        for x, y in zip(found, expected, strict=True)
        if np.issubdtype(y.dtype, np.floating) and y.size
    ]
    same = all(
        np.array_equal(x, y)
        for x, y in zip(found, expected, strict=True)
        if not np.issubdtype(y.dtype, np.floating)
    )
    return float(max(apart)) if same else float("inf")


chosen = sys.argv[1:] or [*CHECKED, *map(str, LEARNERS), "float16"]
apart = {}
for case in (*CASES, *LEARNERS):
    if str(case) in chosen:
        of = of_layer if case in CASES else of_learner
        apart[str(case)] = distance(of(case, 2), of(case, 1))
if "validation" in chosen:
    apart["validation"] = distance(of_validation(2), of_validation(1))
found = {"apart": apart}
if "float16" in chosen:
    supervised = next(case for case in LEARNERS if str(case) == "SupervisedLearner")
    single, two = (of_float16(supervised, replicas) for replicas in (1, 2))
    _, scales, skipped, *after, alone = (x.tolist() for x in two[:6])
    found["float16"] = {"scales": scales, "skipped": skipped, "after": after, "alone": alone}
    # Losses and weights; absolute, since biases before a batch norm are rounding alone.
    pairs = zip([two[0], *two[6:]], [single[0], *single[6:]], strict=True)
    found["float16 apart"] = max(float(np.abs(x - y).max()) for x, y in pairs)
print(json.dumps(found))
