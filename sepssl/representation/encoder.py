"""The encoder: waveform in, embedding out."""

import functools
import os
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from sepssl.audio.framing import check_waveform_shape
from sepssl.audio.log_mel import LogMel
from sepssl.representation.backbones.small import SmallBackbone
from sepssl.serialization import load_model
from sepssl.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class Encoder(keras.Model):
    """Log-mel patches, a backbone on each, and the mean over patches.

    Args:
        backbone: layer or model, functional ones included, that maps log-mel patches [batch,
            frames, bands] to [batch, embedding_size]; `SmallBackbone()` by default.
        log_mel: `LogMel()` by default; determines the sample rate, the hop between patches, and
            that the last of them ends with the waveform.
        dtype: policy of the default backbone. Log-mel patches, the mean over them and embeddings
            are float32 under every policy.

    Where the front end normalises levels, how loud a waveform is makes no difference; a waveform is
    brought to one level as a whole, so that its parts on their own have other embeddings.

    Shapes: waveform [batch, samples] in [-1, 1] -> [batch, embedding_size], any number of samples
    from 1 up (if shorter than a patch, padded with zeros to its length). ValueError for any other
    number of axes. `patch_embeddings` gives the embeddings before the mean.

    Raises:
        ValueError: when `embedding_size` is read or the encoder is built, if the backbone's output
            is not [batch, embedding_size].

    Example:
        >>> Encoder()(np.zeros([1, 16000])).shape
        (1, 256)

        With a network from `keras.applications`, which needs a channel axis:

        >>> patches = keras.Input((96, 64))
        >>> network = keras.applications.MobileNetV2(
        ...     (96, 64, 1), alpha=0.35, include_top=False, weights=None, pooling="avg"
        ... )
        >>> backbone = keras.Model(patches, network(keras.layers.Reshape((96, 64, 1))(patches)))
        >>> Encoder(backbone).embedding_size
        1280
    """

    def __init__(
        self,
        backbone: keras.layers.Layer | None = None,
        log_mel: LogMel | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.jit_compile = False  # XLA makes convolutions much slower on CPUs
        self.backbone = SmallBackbone(dtype=self.dtype_policy) if backbone is None else backbone
        self.log_mel = LogMel() if log_mel is None else log_mel

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.log_mel.sample_rate

    def with_patches(self, **settings) -> "Encoder":
        """An encoder of the same network on other patches; this one if they are the same.

        Args:
            settings: arguments of the front end to replace.
        """
        config = self.log_mel.get_config()
        if config | settings == config:
            return self
        return Encoder(self.backbone, type(self.log_mel).from_config(config | settings))

    def of_windows(self, **settings) -> "Encoder":
        """As `with_patches`; where waveforms are brought to one level, each patch is for itself."""
        level = self.log_mel.normalize_level
        return self.with_patches(
            normalize_level="patch" if level == "waveform" else level, **settings
        )

    @functools.cached_property
    def embedding_size(self) -> int:
        """Dimension of an embedding, that of the backbone's output."""
        if hasattr(self.backbone, "embedding_size"):
            return self.backbone.embedding_size
        # Called on a symbol, any layer builds itself and tells the shape of its output.
        shape = self.backbone(keras.KerasTensor(self._patch_shape)).shape
        if len(shape) != 2 or shape[1] is None:
            raise ValueError(
                f"the backbone {self.backbone.name!r} maps patches {self._patch_shape} to "
                f"{tuple(shape)}: expected [batch, embedding_size]"
            )
        return shape[1]

    @property
    def _patch_shape(self) -> tuple[int | None, int, int]:
        return (None, self.log_mel.patch_frames, self.log_mel.bands)

    def build(self, input_shape: Shape | None = None) -> None:
        if not self.backbone.built and type(self.backbone).build is not keras.layers.Layer.build:
            self.backbone.build(self._patch_shape)
        if not self.embedding_size >= 1:
            raise ValueError(f"embedding_size={self.embedding_size}: expected 1 or more")
        self.built = True

    def call(self, waveform: Tensor, training: bool = False) -> Tensor:
        return ops.mean(self.patch_embeddings(waveform, training), axis=1)

    def patch_embeddings(self, waveform: Tensor, training: bool = False) -> Tensor:
        """[batch, samples] -> [batch, patches, embedding_size], float32."""
        patches = self.log_mel(waveform)
        frames, bands = self.log_mel.patch_frames, self.log_mel.bands
        embeddings = self.backbone(ops.reshape(patches, (-1, frames, bands)), training=training)
        embeddings = ops.cast(embeddings, "float32")
        return ops.reshape(embeddings, (-1, ops.shape(patches)[1], self.embedding_size))

    @functools.cached_property
    def compiled_patch_embeddings(self) -> Callable[[Tensor], Tensor]:
        """`patch_embeddings` as one graph, for waveforms of any number and length."""
        return _compiled(self.patch_embeddings)

    @functools.cached_property
    def compiled_at_given_level(self) -> Callable[[Tensor], Tensor]:
        """`compiled_patch_embeddings` without a change of level."""
        return self.with_patches(normalize_level="none").compiled_patch_embeddings

    @functools.cached_property
    def compiled_gain(self) -> Callable[[Tensor], Tensor]:
        """What brings waveforms [batch, samples] to one level, see `LogMel.gain`, as one graph."""
        return _compiled(lambda x: self.log_mel.gain(self.log_mel.patch_magnitude(x)))

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        check_waveform_shape(input_shape)
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        backbone = keras.saving.serialize_keras_object(self.backbone)
        backbone.pop("compile_config", None)  # of a model that was trained earlier
        return super().get_config() | {
            "backbone": backbone,
            "log_mel": keras.saving.serialize_keras_object(self.log_mel),
        }

    @classmethod
    def from_config(cls, config: dict) -> "Encoder":
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("backbone", "log_mel")
        }
        return cls(**(config | parts))


def _compiled(function: Callable) -> Callable:
    """A function of waveforms of any number and length as one graph."""
    waveform = tf.TensorSpec([None, None], tf.float32)
    # TensorFlow counts traces by the code of a function, which other encoders share, and would
    # warn of the fifth; of a partial function, it counts those of the object.
    return tf.function(functools.partial(function), input_signature=[waveform])


def load_encoder(path: str | os.PathLike) -> Encoder:
    """Loads an encoder saved as `.keras`, in safe mode.

    Raises:
        InputError: if the file does not exist, or contains something other than an encoder.
    """
    return load_model(path, Encoder)
