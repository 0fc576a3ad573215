"""The separator: mixture in, sources out."""

import functools
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from sepssl.audio.files import as_waveform, check_sample_rate
from sepssl.audio.framing import check_waveform_shape
from sepssl.separation import consistency
from sepssl.separation.basis import LearnedBasis
from sepssl.separation.long_audio import CHUNK_SECONDS, separate_stream
from sepssl.separation.tdcn import TDCN
from sepssl.serialization import load_model
from sepssl.typing import Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class Separator(keras.Model):
    """Masks on a basis, predicted by a TDCN++; the sources can be made to add up to the mixture.

    With its defaults, this is the network of Google's released MixIT model (9,067,009 parameters
    with 8 sources).

    Args:
        num_sources: output channels M.
        basis: `LearnedBasis` (the default) or `STFTBasis`.
        tdcn: the mask network, `TDCN()` by default.
        mixture_consistency: "predicted" (weights from the network's time average), "uniform",
            "power" or "none".
        normalize_input: whether each waveform is scaled to an RMS of 1 before the network and
            scaled back after it (our choice; the released model does not).
        sample_rate: in Hz, of the waveforms it is made for; saved with the model.
        dtype: policy of the default basis and mask network. Waveforms in and out are float32 under
            every policy.

    Shapes: [batch, samples] -> [batch, num_sources, samples], any number of samples from 1 up;
    ValueError for any other number of axes. `separate` takes a single recording.

    Example:
        >>> separator = Separator(num_sources=4)
        >>> separator(np.zeros([1, 16000])).shape
        (1, 4, 16000)

        A smaller one, trained by MixIT on a dataset of waveforms [batch, samples]:

        >>> recordings = dataset.map(lambda waveforms: {"recordings": waveforms})
        >>> separator = Separator(4, STFTBasis(), TDCN(16, 32, 2, 1), "uniform")
        >>> learner = SeparatorLearner(separator)
        >>> learner.compile(keras.optimizers.Adam(1e-3))
        >>> learner.fit(recordings, epochs=1)

    Reference: Wisdom et al., Unsupervised Sound Separation Using Mixture Invariant Training (2020).
    """

    def __init__(
        self,
        num_sources: int = 8,
        basis: keras.layers.Layer | None = None,
        tdcn: keras.layers.Layer | None = None,
        mixture_consistency: str = "predicted",
        normalize_input: bool = False,
        sample_rate: int = 16000,
        **kwargs,
    ):
        # Without autocast: estimates must add up to the mixture in float32, not in float16.
        super().__init__(autocast=False, **kwargs)
        self.jit_compile = False  # predict() would recompile for every length
        if mixture_consistency not in consistency.KINDS:
            raise ValueError(
                f"mixture_consistency={mixture_consistency!r}: expected one of {consistency.KINDS}"
            )
        if not sample_rate >= 1:
            raise ValueError(f"sample_rate={sample_rate}: expected 1 Hz or more")
        tdcn = TDCN(dtype=self.dtype_policy) if tdcn is None else tdcn
        _require_no_look_ahead(tdcn, mixture_consistency, normalize_input)
        self.num_sources = num_sources
        self.basis = LearnedBasis(dtype=self.dtype_policy) if basis is None else basis
        self.tdcn = tdcn
        self.mixture_consistency = mixture_consistency
        self.normalize_input = normalize_input
        self.sample_rate = sample_rate
        self.mask = keras.layers.Dense(
            num_sources * self.basis.num_coefficients,
            activation="sigmoid",
            use_bias=False,
            dtype=self.dtype_policy,
            name="mask",
        )
        if mixture_consistency == "predicted":
            self.consistency = keras.layers.Dense(
                num_sources, activation="softmax", use_bias=False, dtype="float32", name="weights"
            )

    def build(self, input_shape=None):
        core = (None, None, self.tdcn.bottleneck_channels)
        shapes = [
            (self.basis, (None, None)),
            (self.tdcn, (None, None, self.basis.num_coefficients)),
            (self.mask, core),
        ]
        if self.mixture_consistency == "predicted":
            shapes.append((self.consistency, (None, core[-1])))
        for layer, shape in shapes:
            # Loading a model brings `basis` and `tdcn` built.
            if not layer.built:
                layer.build(shape)
        self.built = True

    def call(self, waveform, training=None):
        check_waveform_shape(waveform.shape)
        waveform = ops.cast(waveform, "float32")
        if self.normalize_input:
            power = ops.mean(ops.square(waveform), axis=-1, keepdims=True)
            rms = ops.sqrt(power + 1e-10)
            sources = self._separate(waveform / rms, training)
            return sources * ops.expand_dims(rms, 1)
        return self._separate(waveform, training)

    def _separate(self, waveform, training):
        samples = ops.shape(waveform)[-1]
        features, coefficients = self.basis.analyze(waveform)
        core = self.tdcn(features, training=training)
        # [batch, frames, sources * coefficients] -> [batch, sources, frames, coefficients]
        masks = self.mask(core)
        masks = ops.reshape(
            masks, (-1, ops.shape(masks)[1], self.num_sources, self.basis.num_coefficients)
        )
        masks = ops.transpose(masks, (0, 2, 1, 3))
        sources = ops.cast(self.basis.synthesize(masks, coefficients, samples), "float32")
        if self.mixture_consistency == "none":
            return sources
        return consistency.apply_mixture_consistency(
            waveform, sources, self._weights(core, sources)
        )

    def _weights(self, core, sources):
        if self.mixture_consistency == "predicted":
            return self.consistency(ops.mean(ops.cast(core, "float32"), axis=1))
        if self.mixture_consistency == "power":
            return consistency.power_weights(sources)
        return consistency.uniform_weights(sources)

    @functools.cached_property
    def compiled_call(self) -> Callable[[Tensor], Tensor]:
        """The network compiled by XLA, once per length: faster for many inputs of one length."""
        return tf.function(self.call, jit_compile=True, autograph=False)

    def separate(
        self,
        waveform: np.ndarray,
        sample_rate: int,
        chunk_seconds: float | None = CHUNK_SECONDS,
    ) -> np.ndarray:
        """Separates one recording of any length, at its own sample rate.

        Args:
            waveform: [samples].
            sample_rate: of `waveform`, in Hz. If it is not the separator's, the recording is
                resampled, and its channels are resampled back.
            chunk_seconds: longer recordings are separated in chunks of this length, so that only
                the result grows with their length; None: whole.

        Returns:
            float32 [num_sources, samples], which add up to `waveform` to the extent that the
            separator's outputs do (exactly, unless mixture consistency is "none"), and always at
            another sample rate than the separator's.

        Raises:
            ValueError: if `waveform` is not of that shape, empty, or not of floats.
            InputError: if `sample_rate` is not a positive whole number, or samples are not finite.
        """
        check_sample_rate(sample_rate)
        sample_rate = int(sample_rate)
        waveform = as_waveform(waveform, np.inf)  # sums of recordings may be of any level
        channels = np.empty((self.num_sources, len(waveform)), np.float32)
        blocks = (waveform[i : i + sample_rate] for i in range(0, len(waveform), sample_rate))
        done = 0
        for piece in separate_stream(self, blocks, sample_rate, chunk_seconds):
            channels[:, done : done + piece.shape[1]] = piece
            done += piece.shape[1]
        return channels

    def compute_output_shape(self, input_shape):
        check_waveform_shape(input_shape)
        return (input_shape[0], self.num_sources, input_shape[1])

    def get_config(self):
        return super().get_config() | {
            "num_sources": self.num_sources,
            "basis": keras.saving.serialize_keras_object(self.basis),
            "tdcn": keras.saving.serialize_keras_object(self.tdcn),
            "mixture_consistency": self.mixture_consistency,
            "normalize_input": self.normalize_input,
            "sample_rate": self.sample_rate,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for key in ("basis", "tdcn"):
            if isinstance(config[key], dict):
                config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)


def _require_no_look_ahead(tdcn, mixture_consistency: str, normalize_input: bool) -> None:
    if not getattr(tdcn, "causal", False):
        return
    looks_ahead = []
    if normalize_input:
        looks_ahead.append("normalize_input=True (the level of the whole waveform)")
    if mixture_consistency in ("predicted", "power"):
        looks_ahead.append(f"mixture_consistency={mixture_consistency!r} (a mean over time)")
    if looks_ahead:
        raise ValueError(
            f"causal=True, but {' and '.join(looks_ahead)} looks ahead: expected "
            "normalize_input=False and mixture_consistency 'uniform' or 'none'"
        )


def load_separator(path: str | os.PathLike) -> Separator:
    """Loads a separator, in safe mode.

    Args:
        path: of a `.keras` file, or the name of a separator that comes with the package: "small"
            (4 outputs, the one to listen to), "small-8" (8, which separates more) or "small-mixit"
            (8, trained without any sources); see docs/models.md.

    Raises:
        InputError: if the file does not exist, or contains something other than a separator.

    Example:
        >>> load_separator("small").num_sources
        4
    """
    return load_model(path, Separator)
