"""A SavedModel of any origin, waveform in, embeddings out."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sepssl.errors import InputError

_USUAL_NAMES = ("embedding", "embeddings")


class SavedModelEmbedder:
    """Embeds a waveform by a SavedModel.

    What is called is a signature or, without one, the loaded object, as models of TF Hub are, or
    else the signature `serving_default`. It must take one waveform, float32 [samples] or [batch,
    samples]; where the number of samples is fixed, a waveform is cut into parts of that length, the
    last of them padded with zeros. Its output must be [dim], [batch, dim], [windows, dim] or
    [batch, windows, dim]; of several, the one that is called `embedding` or `embeddings`, unless
    another is named.

    Args:
        folder: the SavedModel.
        signature: name of a signature; "" for the loaded object.
        output: of several outputs, the name of one or, where they are a sequence, its place from 0;
            "" for the usual one.

    Raises:
        InputError: if it cannot be loaded, has no such signature, or takes anything else.
    """

    def __init__(self, folder: str | os.PathLike, signature: str = "", output: str = ""):
        self.folder = pathlib.Path(folder)
        self._output = output
        try:
            self._loaded = tf.saved_model.load(os.fspath(folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{folder}: cannot be loaded: {reason}; expected a SavedModel"
            ) from error
        signatures = self._loaded.signatures
        if not signature and not callable(self._loaded):
            signature = "serving_default"
        if signature and signature not in signatures:
            known = ", ".join(signatures) or "none"
            raise InputError(f"{folder}: has no signature {signature!r}; expected one of: {known}")
        self._name = None  # of the input
        if signature:
            self._call = signatures[signature]
            inputs = self._call.structured_input_signature[1]
            if len(inputs) != 1:
                taken = ", ".join(sorted(inputs)) or "nothing"  # TensorFlow's order varies
                raise InputError(
                    f"{folder}: signature {signature!r} takes {taken}; expected a waveform alone"
                )
            ((self._name, spec),) = inputs.items()
        else:
            self._call = self._loaded
            spec = _first_input(self._loaded)
        shape = [None, None] if spec is None or spec.shape.rank is None else spec.shape.as_list()
        if len(shape) not in (1, 2):
            raise InputError(
                f"{folder}: takes an input of shape {shape}; expected a waveform, [samples] or "
                "[batch, samples]"
            )
        self._batched = len(shape) == 2
        self._samples = shape[-1]
        self._size: int | None = None  # of an embedding, when one is known

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """float32 [samples] -> [windows, dim].

        Raises:
            InputError: if the model does not take the waveform, or its output cannot be used: it is
                not of numbers, not finite, of no window, or of another size than the one before.
        """
        length = self._samples or len(waveform)
        waveform = np.pad(waveform, (0, -len(waveform) % length))
        return np.concatenate([self._embedded(part) for part in waveform.reshape(-1, length)])

    def _embedded(self, waveform: np.ndarray) -> np.ndarray:
        value = tf.constant(waveform[None] if self._batched else waveform, tf.float32)
        try:
            found = self._call(**{self._name: value}) if self._name else self._call(value)
        except (TypeError, ValueError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.folder}: cannot be called with a waveform alone, {list(value.shape)}: "
                f"{reason}"
            ) from error
        embeddings = np.asarray(self._chosen(found))
        given = f"{self.folder}: gives {embeddings.dtype} {list(embeddings.shape)}"
        size = embeddings.shape[-1] if embeddings.ndim else 0
        kind = tf.as_dtype(embeddings.dtype)
        if not (kind.is_floating or kind.is_integer) or not 1 <= embeddings.ndim <= 3:
            raise InputError(
                f"{given}; expected numbers, [dim], [windows, dim] or [batch, windows, dim]"
            )
        if not embeddings.size or size != (self._size or size):
            expected = f"embeddings of {self._size} values" if self._size else "one or more"
            raise InputError(f"{given} for {len(waveform)} samples; expected {expected}")
        with np.errstate(over="ignore"):  # which makes them infinite
            embeddings = embeddings.reshape(-1, size).astype(np.float32)
        if not np.isfinite(embeddings).all():
            raise InputError(f"{given} with NaN or infinity; expected finite numbers")
        self._size = size
        return embeddings

    def _chosen(self, found: Any) -> Any:
        if isinstance(found, Mapping):
            outputs = {str(name): value for name, value in found.items()}
        elif isinstance(found, Sequence):
            outputs = {str(place): value for place, value in enumerate(found)}
        else:
            outputs = {"": found}
        names = [name for name in _USUAL_NAMES if name in outputs]
        if len(outputs) == 1:
            names = list(outputs)
        name = self._output or (names[0] if names else None)
        if name not in outputs:
            known = ", ".join(
                f"{name} {list(np.shape(value))}" for name, value in sorted(outputs.items())
            )
            problem = f"has no output {name!r}" if name else "has several outputs"
            raise InputError(f"{self.folder}: {problem}; expected the name of one: {known}")
        return outputs[name]


def _first_input(loaded: Any) -> tf.TensorSpec | None:
    """The first argument of a loaded object, as far as it is known."""
    for function in getattr(loaded.__call__, "concrete_functions", ()):
        arguments, _ = function.structured_input_signature
        if arguments and isinstance(arguments[0], tf.TensorSpec):
            return arguments[0]
    return None


def sample_rate_of(folder: str | os.PathLike) -> int | None:
    """The sample rate in the card of a model that this package has exported, in Hz, or None."""
    try:
        return int(json.loads((pathlib.Path(folder) / "card.json").read_text())["sample_rate"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def saved_model_digest(folder: str | os.PathLike) -> str:
    """64 hex digits that change with the graph or the weights of a SavedModel."""
    digest = hashlib.sha256()
    folder = pathlib.Path(folder)
    for path in [folder / "saved_model.pb", *sorted((folder / "variables").glob("*"))]:
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()
