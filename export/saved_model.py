"""An encoder as a SavedModel that every TensorFlow loader understands."""

import os

import tensorflow as tf

from sepssl.atomic import atomic_folder
from sepssl.errors import InputError
from sepssl.export.card import write_card
from sepssl.export.check import SAVED_MODEL_LIMITS, compare, saved_model_embeddings
from sepssl.export.clips import LARGEST_SAMPLE, expected_embeddings, fixed_clips
from sepssl.export.errors import ExportError
from sepssl.representation.encoder import Encoder


def save_encoder(encoder: Encoder, directory: str | os.PathLike) -> dict:
    """Writes an encoder as a SavedModel, with `card.json` and `README.md` beside it.

    `loaded = tf.saved_model.load(directory)` needs neither sepssl nor Keras and has:

    - `loaded(waveform)`, `loaded(waveform, training=True)`: float32 [batch, samples] in [-1, 1],
      any batch, any number of samples from 1 up -> [batch, embedding_size]. With training=True,
      batch norm uses the statistics of the batch and updates its moving ones.
    - signature `serving_default`: `waveform` -> `embedding` [batch, embedding_size].
    - signature `patches`: `waveform` -> `embedding` [batch, patches, embedding_size].
    - `variables`, `trainable_variables`; `regularization_losses`, functions without arguments.

    Samples that are NaN, infinite or beyond 1e10 count as zeros, so the embedding is always
    finite (our choice: one damaged sample costs one sample, not the clip).

    What was written is loaded again and compared with the encoder on fixed clips.

    Args:
        encoder: the encoder to write; not changed.
        directory: a folder that does not exist or is empty. It appears whole or not at all.

    Returns:
        The content of `card.json`.

    Raises:
        InputError: if `encoder` is no encoder or gives embeddings that are not finite, or
            `directory` holds something or cannot be written.
        ExportError: if what was written computes something else: more than 1e-5 of the largest
            value of a clip's embedding away.
    """
    require_encoder(encoder)
    with atomic_folder(directory) as folder:
        clips = fixed_clips(encoder)
        expected = expected_embeddings(encoder, clips)
        write_saved_model(encoder, folder)
        try:
            with tf.device("CPU:0"):
                found = saved_model_embeddings(folder, clips)
            checks = compare(expected, found, SAVED_MODEL_LIMITS)
        except ValueError as error:
            raise ExportError(f"{directory}: the SavedModel is wrong: {error}") from error
        return write_card(folder, encoder, "saved_model", checks)


def require_encoder(encoder) -> None:
    """Raises InputError unless `encoder` is an `Encoder`."""
    if not isinstance(encoder, Encoder):
        raise InputError(f"encoder: is a {type(encoder).__name__}; expected a sepssl Encoder")


def write_saved_model(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Writes the SavedModel that `save_encoder` describes, unchecked.

    Args:
        encoder: a built encoder, that is, one that has been called.
        folder: an empty or new folder.
    """
    waveform = tf.TensorSpec([None, None], tf.float32, name="waveform")

    def usable(samples):
        # One comparison for all: it is False for NaN and for both infinities as well.
        return tf.where(tf.abs(samples) <= LARGEST_SAMPLE, samples, tf.zeros_like(samples))

    @tf.function
    def call(waveform, training=False):
        return encoder(usable(waveform), training=training)

    @tf.function(input_signature=[waveform])
    def serving_default(waveform):
        return {"embedding": encoder(usable(waveform), training=False)}

    @tf.function(input_signature=[waveform])
    def patches(waveform):
        return {"embedding": encoder.patch_embeddings(usable(waveform), training=False)}

    # A tf.train.Checkpoint is the one public class of plain trackable objects. A tf.Module would
    # hide the weights from hub.KerasLayer, a keras.Model cannot be called once loaded.
    root = tf.train.Checkpoint()
    root.__call__ = call
    root.variables = [v.value for v in encoder.variables]
    root.trainable_variables = [v.value for v in encoder.trainable_variables]
    root.regularization_losses = [
        tf.function(_penalty(v), input_signature=[])
        for v in encoder.trainable_variables
        if v.regularizer is not None
    ]
    for training in (False, True):
        call.get_concrete_function(waveform, training=training)
    for function in (serving_default, patches, *root.regularization_losses):
        function.get_concrete_function()
    signatures = {"serving_default": serving_default, "patches": patches}
    tf.saved_model.save(root, os.fspath(folder), signatures=signatures)


def _penalty(variable):
    return lambda: tf.convert_to_tensor(variable.regularizer(variable))
