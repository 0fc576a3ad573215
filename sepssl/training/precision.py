"""Mixed precision for training; the models that training keeps are float32."""

from typing import Any

import keras

from sepssl.errors import InputError

# Keras's policies, by their name in a configuration. Weights, waveforms, spectra and losses are
# float32 under all of them; the mixed ones compute layers in half precision.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def policy_named(precision: str) -> str:
    """The dtype policy that "float32", "bfloat16" or "float16" stands for.

    Raises:
        InputError: if the name is unknown.
    """
    if precision not in POLICIES:
        raise InputError(f"train.precision={precision!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[precision]


class Float32Copy:
    """A model in the form in which it is saved: with the same weights, computing in float32.

    Files thus do not depend on the precision of training: loading, exporting and evaluating them
    all happen in float32. Weights are float32 under mixed policies too, so that nothing is rounded.

    Args:
        model: a built model. A model without mixed policies is its own copy.
        apart: whether to copy it all the same, into variables of this process alone.
    """

    def __init__(self, model: keras.Model, apart: bool = False):
        self._model = model
        config = keras.saving.serialize_keras_object(model)
        wanted = _in_float32(config)
        self._copy = model
        if apart or wanted != config:
            self._copy = keras.saving.deserialize_keras_object(wanted)
            if not self._copy.built:
                self._copy.build((None, None))

    def __call__(self) -> keras.Model:
        """The copy, with the model's current weights."""
        if self._copy is not self._model:
            self._copy.set_weights(self._model.get_weights())
        return self._copy


def _in_float32(config: Any) -> Any:
    """A serialized object with every mixed policy replaced."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return config | {"config": {**config["config"], "name": "float32"}}
        return {key: _in_float32(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_in_float32(value) for value in config)
    return "float32" if config in ("mixed_float16", "mixed_bfloat16") else config
