"""Models as TensorFlow graphs: the functions that a SavedModel or a TF Lite file holds.

All but `backbone_graph` take `waveform`, float32 [batch, samples] in [-1, 1], and all but that and
`patch_graph` any batch and any number of samples from 1 up. Samples that are NaN, infinite or
beyond 1e10 count as zeros, so that outputs are always finite (our choice: one damaged sample costs
one sample, not the clip).
"""

import dataclasses
import errno
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from sepssl.audio.decoding import SILENCE
from sepssl.errors import InputError
from sepssl.export.clips import LARGEST_SAMPLE
from sepssl.files import write_failure
from sepssl.representation.encoder import Encoder
from sepssl.separation.basis import STFTBasis
from sepssl.separation.separator import Separator
from sepssl.separation.tdcn import TDCN

WAVEFORM = tf.TensorSpec([None, None], tf.float32, name="waveform")


@dataclasses.dataclass(frozen=True)
class Graph:
    """Functions, and the models whose weights they use.

    Attributes:
        input: what all functions take.
        call: (input, training) -> tensor, or dict of tensors; what a loaded object computes when
            it is called. Its output is that of the signature `serving_default`.
        signatures: name -> tf.function of one tensor that returns a dict of tensors.
        models: Keras models, built.
    """

    input: tf.TensorSpec
    call: Callable
    signatures: dict[str, Callable]
    models: tuple[keras.Model, ...]


def encoder_graph(encoder: Encoder) -> Graph:
    """`serving_default` -> `embedding` [batch, size]; `patches` -> [batch, patches, size]."""
    require_encoder(encoder)
    patches = patches_signature(encoder)

    def call(waveform, training):
        if training:
            return encoder(usable(waveform), training=True)
        # By the other function, not by the encoder's call: the file holds the network once.
        return tf.reduce_mean(patches(waveform)["embedding"], axis=1)

    serving_default = _signature(lambda waveform: {"embedding": call(waveform, False)})
    signatures = {"serving_default": serving_default, "patches": patches}
    return Graph(WAVEFORM, call, signatures, (encoder,))


def patches_signature(encoder: Encoder) -> Callable:
    """`waveform` -> `embedding` [batch, patches, size]."""
    return _signature(
        lambda waveform: {"embedding": encoder.patch_embeddings(usable(waveform), training=False)}
    )


def windows_signature(encoder: Encoder, patches: Callable) -> Callable:
    """`waveform` -> `embeddings` [batch, windows, size] and `starts`, int64 [windows], in samples.

    The windows are those of `WindowEmbedder` with its defaults.

    Args:
        encoder: `Encoder`.
        patches: its `patches_signature`.
    """
    patches = _of_windows(encoder, patches)

    def call(waveform):
        embeddings, starts = _windows(encoder, patches, usable(waveform))
        return {"embeddings": embeddings, "starts": starts}

    return _signature(call)


def _of_windows(encoder: Encoder, patches: Callable) -> Callable:
    """`patches_signature` of windows, each of which has its own level."""
    own = encoder.of_windows()
    return patches if own is encoder else patches_signature(own)


def _windows(
    encoder: Encoder, patches: Callable, waveform: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Embeddings [batch, windows, size] and starts of windows of a patch."""
    log_mel = encoder.log_mel
    patch, hop = log_mel.patch_samples, log_mel.patch_hop_samples
    samples = tf.shape(waveform)[1]
    last = samples - patch  # start of the window that ends with the waveform
    tail = tf.cast((last > 0) & (last % hop != 0), tf.int32)
    waveform = tf.pad(waveform, [[0, 0], [0, tf.maximum(-last, 0)]])
    end = waveform[:, -patch:]
    embeddings = patches(waveform)["embedding"]
    if not log_mel.cover_end:
        embeddings = tf.concat([embeddings, patches(end)["embedding"][:, :tail]], axis=1)
    starts = tf.minimum(hop * tf.range(tf.shape(embeddings)[1]), tf.maximum(last, 0))
    sounds = tf.concat([tf.signal.frame(waveform, patch, hop), end[:, None][:, :tail]], axis=1)
    powers = tf.reduce_sum(sounds**2, axis=-1) / tf.cast(tf.minimum(samples, patch), tf.float32)
    embeddings = tf.where(powers[..., None] > SILENCE**2, embeddings, 0.0)
    return embeddings, tf.cast(starts, tf.int64)


def separator_graph(
    separator: Separator, builtin_operators: bool = False, samples: int | None = None
) -> Graph:
    """`serving_default` -> `sources` [batch, sources, samples].

    Args:
        separator: a built separator.
        builtin_operators: whether to do without operations that TF Lite has no operator for.
        samples: takes waveforms [1, samples] only; None for any batch and any length.
    """
    separator = _unrolled(separator, builtin_operators)
    spec = WAVEFORM if samples is None else tf.TensorSpec([1, samples], tf.float32, "waveform")

    def call(waveform, training):
        return separator(usable(waveform), training=training)

    signatures = {"serving_default": separator_signature(separator, spec)}
    return Graph(spec, call, signatures, (separator,))


def separator_signature(separator: Separator, spec: tf.TensorSpec = WAVEFORM) -> Callable:
    """`waveform` -> `sources` [batch, sources, samples]."""
    return _signature(
        lambda waveform: {"sources": separator(usable(waveform), training=False)}, spec
    )


def scene_graph(separator: Separator, encoder: Encoder) -> Graph:
    """A mixture and its channels as embeddings, by one graph.

    `scene`, which `serving_default` is as well -> `embedding` [batch, size] of the mixture,
    `channel_embeddings` [batch, sources, size], `channel_energies` [batch, sources]: sums of
    squares over the samples. `windows` -> `embeddings` [batch, windows, 1 + sources, size] of the
    mixture and its channels, `starts` as in `windows_signature`, `sources` [batch, sources,
    samples].

    Raises:
        InputError: if the two were made for different sample rates.
    """
    require_encoder(encoder)
    separator = _unrolled(separator)
    if separator.sample_rate != encoder.sample_rate:
        raise InputError(
            f"separator: is for {separator.sample_rate} Hz, the encoder for {encoder.sample_rate} "
            "Hz; expected the same sample rate of both"
        )

    sources, size = separator.num_sources, encoder.embedding_size
    separate = separator_signature(separator)
    patches = patches_signature(encoder)
    of_windows = _of_windows(encoder, patches)

    def separated(waveform, training):
        waveform = usable(waveform)
        # By the other functions but in training: the file holds the networks once.
        channels = separator(waveform, training=True) if training else separate(waveform)["sources"]
        # The mixture in front of its channels, so that batch norm sees all of them alike.
        sounds = tf.concat([waveform[:, None], channels], axis=1)
        return channels, tf.reshape(sounds, [-1, tf.shape(waveform)[1]])

    def call(waveform, training):
        channels, sounds = separated(waveform, training)
        if training:
            embeddings = encoder(sounds, training=True)
        else:
            embeddings = tf.reduce_mean(patches(sounds)["embedding"], axis=1)
        embeddings = tf.reshape(embeddings, [-1, 1 + sources, size])
        return {
            "embedding": embeddings[:, 0],
            "channel_embeddings": embeddings[:, 1:],
            "channel_energies": tf.reduce_sum(channels**2, axis=-1),
        }

    def windows(waveform):
        channels, sounds = separated(waveform, False)
        embeddings, starts = _windows(encoder, of_windows, sounds)
        count = tf.shape(embeddings)[1]
        embeddings = tf.reshape(embeddings, [-1, 1 + sources, count, size])
        embeddings = tf.transpose(embeddings, [0, 2, 1, 3])
        return {"embeddings": embeddings, "starts": starts, "sources": channels}

    scene = _signature(lambda waveform: call(waveform, False))
    signatures = {"serving_default": scene, "scene": scene, "windows": _signature(windows)}
    return Graph(WAVEFORM, call, signatures, (separator, encoder))


def patch_graph(encoder: Encoder) -> Graph:
    """`encoder_graph` of waveforms of exactly one patch, [1, patch_samples]; one signature."""
    spec = tf.TensorSpec([1, encoder.log_mel.patch_samples], tf.float32, name="waveform")

    def call(waveform, training):
        return encoder(usable(waveform), training=training)

    signature = _signature(lambda waveform: {"embedding": call(waveform, False)}, spec)
    return Graph(spec, call, {"serving_default": signature}, (encoder,))


def backbone_graph(encoder: Encoder, batch: int | None = 1) -> Graph:
    """The backbone alone: `log_mel` [batch, frames, bands] -> `embedding`, in one signature."""
    shape = [batch, encoder.log_mel.patch_frames, encoder.log_mel.bands]
    spec = tf.TensorSpec(shape, tf.float32, name="log_mel")

    def call(log_mel, training):
        return encoder.backbone(log_mel, training=training)

    signature = _signature(lambda log_mel: {"embedding": call(log_mel, False)}, spec)
    return Graph(spec, call, {"serving_default": signature}, (encoder.backbone,))


def usable(samples: tf.Tensor) -> tf.Tensor:
    """Zeros in place of what is no sample of sound."""
    # One comparison for all: it is False for NaN and for both infinities as well.
    return tf.where(tf.abs(samples) <= LARGEST_SAMPLE, samples, tf.zeros_like(samples))


def require_float32(graph: Graph, file_format: str) -> None:
    """Raises InputError if part of a graph computes in less than float32."""
    signature: Any = graph.signatures["serving_default"]
    definition = signature.get_concrete_function().graph.as_graph_def()
    nodes = [*definition.node]
    for function in definition.library.function:
        nodes += function.node_def
    for node in nodes:
        for kind, name in ((types_pb2.DT_HALF, "float16"), (types_pb2.DT_BFLOAT16, "bfloat16")):
            if any(attribute.type == kind for attribute in node.attr.values()):
                raise InputError(
                    f"model: its operation '{node.name}' computes in {name}, for which "
                    f"{file_format} has no operators; expected a model under the dtype policy "
                    "float32"
                )


def write_saved_model(graph: Graph, folder: str | os.PathLike) -> None:
    """Writes a graph as a SavedModel, unchecked.

    Args:
        graph: what to write.
        folder: an empty or new folder.

    Raises:
        OSError: if the folder cannot be written.
    """

    @tf.function(autograph=False)
    def call(x, training=False):
        return graph.call(x, training)

    variables = [v for model in graph.models for v in model.variables]
    trainable = [v for model in graph.models for v in model.trainable_variables]
    # A tf.train.Checkpoint is the one public class of plain trackable objects. A tf.Module would
    # hide the weights from hub.KerasLayer, a keras.Model cannot be called once loaded.
    root = tf.train.Checkpoint()
    root.__call__ = call
    root.variables = [v.value for v in variables]
    root.trainable_variables = [v.value for v in trainable]
    root.regularization_losses = [
        tf.function(_penalty(v), input_signature=[], autograph=False)
        for v in trainable
        if v.regularizer is not None
    ]
    for training in (False, True):
        call.get_concrete_function(graph.input, training=training)
    for function in (*graph.signatures.values(), *root.regularization_losses):
        function.get_concrete_function()
    try:
        tf.saved_model.save(root, os.fspath(folder), signatures=graph.signatures)
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, write_failure(error), os.fspath(folder)) from error


def require_encoder(encoder: object) -> None:
    """Raises InputError unless `encoder` is an `Encoder`; builds it if it is not built."""
    if not isinstance(encoder, Encoder):
        raise InputError(f"encoder: is {_kind(encoder)}; expected a sepssl Encoder")
    encoder.build()


def _kind(value) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"


def _signature(function: Callable, spec: tf.TensorSpec = WAVEFORM) -> Callable:
    return tf.function(function, input_signature=[spec], autograph=False)


class _RealSTFTBasis(STFTBasis):
    """The inverse transform by way of a forward one, which TF Lite has.

    The Hartley transform, real minus imaginary part of the Fourier transform, is its own inverse
    but for a factor: so that of the bins gives the frame (Bracewell, 1983).
    """

    def inverse(self, real, imag):
        hartley = self._hartley(real, imag)
        frame = tf.signal.rfft(hartley, [self.frame_length])
        return self._hartley(tf.math.real(frame), tf.math.imag(frame)) / self.frame_length

    def _hartley(self, real, imag):
        """Of the first half of conjugate-symmetric bins, [..., bins] -> [..., frame_length]."""
        rest = real + imag
        return tf.concat([real - imag, tf.reverse(rest[..., 1:-1], [-1])], axis=-1)


def _unrolled(separator: Separator, builtin_operators: bool = False) -> Separator:
    """The same separator without loops and without gradients of its own, which loaders lack."""
    if not isinstance(separator, Separator):
        raise InputError(f"separator: is {_kind(separator)}; expected a sepssl Separator")
    config = separator.get_config()
    if isinstance(separator.tdcn, TDCN):
        plain = {"unroll": True, "rematerialize": False}
        config["tdcn"] = TDCN.from_config(separator.tdcn.get_config() | plain)
    if isinstance(separator.basis, STFTBasis) and builtin_operators:
        config["basis"] = _RealSTFTBasis.from_config(separator.basis.get_config())
    copy = Separator.from_config(config)
    copy.build()
    separator.build()
    copy.set_weights(separator.get_weights())
    return copy


def _penalty(variable):
    return lambda: tf.convert_to_tensor(variable.regularizer(variable))
