"""`fit` on one replica and on two, in a process of its own; prints both histories as JSON."""

import json

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402

from sepssl.separation import TDCN, Separator, STFTBasis  # noqa: E402
from sepssl.training.separator_learner import SeparatorLearner  # noqa: E402

waveforms = np.random.default_rng(0).normal(size=(24, 400)).astype(np.float32)
histories = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        separator = Separator(2, STFTBasis(64, 32), TDCN(4, 6, 1, 1), "uniform")
        learner = SeparatorLearner(separator)
        learner.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices(waveforms).batch(8, drop_remainder=True)
    fitted = learner.fit(dataset, epochs=2, validation_data=dataset, verbose=0)
    histories.append(fitted.history)
print(json.dumps(histories))
