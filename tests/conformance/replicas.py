"""Two replicas against one, where they have something to agree on.

Run by test_replicas.py, in a process of its own. Prints one JSON line: for every class, how far
outputs and weights after a step are apart, relative to the largest value.
"""

import json

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
from cases import CASES  # noqa: E402
from learners import LEARNERS, compiled  # noqa: E402

from sepssl.distribution import gather, global_mean_step  # noqa: E402

# Statistics over the batch, alone and in a network; gradients; negatives of other replicas and a
# front end that draws its own numbers. tests/training has the separator's learner.
CHECKED = (
    "GlobalBatchNorm",
    "SmallBackbone",
    "ProjectionHead",
    "SimilarityLearner",
    "SeparatorLearner-remixit",
)
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


def run(strategy, step, data):
    part = halves(data, strategy.num_replicas_in_sync)
    values = strategy.experimental_distribute_values_from_function(part)
    # In a graph: replicas that run eagerly would not agree on the order of collectives.
    results = tf.function(lambda x: strategy.run(step, (x,)), autograph=False)(values)
    return [np.asarray(strategy.experimental_local_results(x)[0]) for x in results]


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
            global_mean_step(model, loss, tape, 0.0)
        return [gather(x) for x in outputs]

    outputs = run(strategy, step, case.data())
    return outputs + [np.asarray(v) for v in model.variables]


def of_learner(case, replicas):
    """Loss of two steps, then the weights."""
    strategy = STRATEGIES[replicas]
    with strategy.scope():
        learner = compiled(case)
    losses = [
        run(strategy, lambda data: [learner.train_step(data)["loss"]], case.data(8, seed))
        for seed in range(2)
    ]
    return [np.asarray(losses)] + [np.asarray(v) for v in learner.variables]


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


apart = {}
for case in CASES:
    if str(case) in CHECKED:
        apart[str(case)] = distance(of_layer(case, 2), of_layer(case, 1))
for case in LEARNERS:
    if str(case) not in CHECKED:
        continue
    apart[str(case)] = distance(of_learner(case, 2), of_learner(case, 1))
print(json.dumps(apart))
