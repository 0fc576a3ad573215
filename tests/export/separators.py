"""What the tests of exported separators and scenes share."""

import keras

from sepssl.separation import TDCN, Separator

# Loads a SavedModel without this package, calls it in every way and trains it.
LOOK = """
import json, sys
import keras, numpy as np, tensorflow as tf

directory, waveforms, output = sys.argv[1:]
waveforms = dict(np.load(waveforms))
loaded = tf.saved_model.load(directory)
found = {}
for name, waveform in waveforms.items():
    called = loaded(tf.constant(waveform))
    called = called if isinstance(called, dict) else {"sources": called}
    for key, value in loaded.signatures["serving_default"](waveform=waveform).items():
        found[f"{key}_{name}"] = value
        found[f"called_{key}_{name}"] = called[key]
broken = waveforms["batch"].copy()
broken[:, 7::1000] = np.nan
for key, value in loaded.signatures["serving_default"](waveform=broken).items():
    found[f"{key}_broken"] = value

with tf.GradientTape() as tape:
    outputs = loaded(tf.constant(waveforms["batch"]), training=True)
    outputs = outputs.values() if isinstance(outputs, dict) else [outputs]
    loss = sum(tf.reduce_sum(x**2) for x in outputs)
gradients = tape.gradient(loss, loaded.trainable_variables)

layer = keras.layers.TFSMLayer(directory, call_endpoint="serving_default")
inputs = keras.Input([None])
(key, *_) = layer(inputs)
model = keras.Model(inputs, layer(inputs)[key])
model.compile(keras.optimizers.Adam(0.01), "mse")
model.optimizer.build(model.trainable_variables)
before = [v.numpy() for v in layer.trainable_weights]
model.fit(waveforms["batch"], 0.5 * model(waveforms["batch"]).numpy(), verbose=0)
moved = [bool(np.any(v.numpy() != b)) for v, b in zip(layer.trainable_weights, before)]
np.savez(output, **{name: np.asarray(value) for name, value in found.items()})
print(json.dumps({
    "sepssl": any(name.split(".")[0] == "sepssl" for name in sys.modules),
    "gradients": [g is not None and bool(np.any(g.numpy() != 0)) for g in gradients],
    "moved": moved,
}))
"""


def make_separator(basis, **kwargs):
    keras.utils.set_random_seed(0)
    tdcn = {"bottleneck_channels": 8, "conv_channels": 16, "dilations_per_repeat": 3, "repeats": 2}
    separator = Separator(3, basis, TDCN(**tdcn | kwargs), normalize_input=True)
    separator.build()
    return separator
