"""From waveform to coefficients that a mask can act on, and back."""

import keras
import numpy as np
from keras import ops

from sepssl.audio.framing import check_framing, frame, overlap_add
from sepssl.typing import Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class LearnedBasis(keras.layers.Layer):
    """A learned linear basis with ReLU coefficients, and a learned linear decoder.

    Args:
        num_coefficients: coefficients per frame.
        frame_length: samples in a frame.
        hop: samples from one frame to the next, at most `frame_length`.
        dtype: policy of both layers; weights are float32 under the mixed ones.

    Example:
        >>> features, _ = LearnedBasis(8, 40, 20).analyze(np.zeros([1, 100], np.float32))
        >>> features.shape
        (1, 4, 8)

    Reference: Luo & Mesgarani, Conv-TasNet (2019); sizes of Google's released MixIT model.
    """

    def __init__(
        self, num_coefficients: int = 256, frame_length: int = 40, hop: int = 20, **kwargs
    ):
        super().__init__(**kwargs)
        check_framing(frame_length, hop)
        self.num_coefficients = num_coefficients
        self.frame_length = frame_length
        self.hop = hop
        policy = self.dtype_policy
        self.encoder = keras.layers.Dense(
            num_coefficients, activation="relu", use_bias=False, dtype=policy, name="encoder"
        )
        self.decoder = keras.layers.Dense(
            frame_length, use_bias=False, dtype=policy, name="decoder"
        )

    def build(self, input_shape=None):
        self.encoder.build((None, None, self.frame_length))
        self.decoder.build((None, None, None, self.num_coefficients))
        self.built = True

    def analyze(self, waveform: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[batch, samples] -> features [batch, frames, num_coefficients], coefficients (same,)."""
        coefficients = self.encoder(frame(waveform, self.frame_length, self.hop))
        return coefficients, (coefficients,)

    def synthesize(
        self, masks: Tensor, coefficients: tuple[Tensor, ...], num_samples: int | Tensor
    ) -> Tensor:
        """Masks [batch, sources, frames, num_coefficients] -> [batch, sources, num_samples]."""
        (coefficients,) = coefficients
        masked = masks * ops.expand_dims(coefficients, 1)
        batch, sources, frames, _ = ops.shape(masked)
        # One batch axis: Keras before 3.15 leaves two of them to TensorFlow's product, which writes
        # beyond its memory where there is one source (tensorflow/tensorflow#117700).
        masked = ops.reshape(masked, (-1, frames, self.num_coefficients))
        waveforms = overlap_add(self.decoder(masked), self.hop, num_samples)
        return ops.reshape(waveforms, (batch, sources, ops.shape(waveforms)[-1]))

    def call(self, waveform):
        """Analysis and synthesis under a mask of ones: [batch, samples] -> [batch, samples]."""
        return _through(self, waveform)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return super().get_config() | {
            "num_coefficients": self.num_coefficients,
            "frame_length": self.frame_length,
            "hop": self.hop,
        }


@keras.saving.register_keras_serializable(package="sepssl")
class STFTBasis(keras.layers.Layer):
    """Short-time Fourier transform: magnitudes are the features, the mask acts on the complex bins.

    Square-root Hann windows on both sides, so that a mask of ones gives the waveform back exactly;
    scaled so that the bins of white noise have the waveform's RMS (our choice). Computed in float32
    under every dtype policy.

    Args:
        frame_length: samples in a frame, a multiple of `2 * hop`.
        hop: samples from one frame to the next.
        dtype: float32, whatever the global policy.

    Example:
        >>> waveform = np.random.default_rng(0).normal(size=(1, 1000)).astype(np.float32)
        >>> bool(np.allclose(STFTBasis()(waveform), waveform, atol=1e-5))
        True

    Reference: the STFT variant of Wisdom et al., FUSS baseline (2021).
    """

    def __init__(self, frame_length: int = 512, hop: int = 256, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        check_framing(frame_length, hop)
        if frame_length % (2 * hop):
            raise ValueError(
                f"frame_length={frame_length}, hop={hop}: expected a multiple of twice the hop, so "
                "that the windows add up to one"
            )
        self.frame_length = frame_length
        self.hop = hop
        self.num_coefficients = frame_length // 2 + 1
        n = np.arange(frame_length)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / frame_length)
        # Unscaled, bins would be frame_length ** 0.5 times as large, swamp the mask network's
        # blocks and saturate its sigmoids from the start.
        scale = np.sqrt(np.sum(hann))
        self._window = (np.sqrt(hann) / scale).astype(np.float32)
        # Hann windows `hop` apart add up to frame_length / (2 hop).
        self._synthesis_window = (np.sqrt(hann) * scale * 2 * hop / frame_length).astype(np.float32)

    def analyze(self, waveform: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[batch, samples] -> magnitudes [batch, frames, bins], (real, imaginary part) likewise."""
        # For every sample to be in frame_length / hop frames, frames must start before the first
        # sample and end after the last.
        edge = self.frame_length - self.hop
        waveform = ops.pad(ops.cast(waveform, "float32"), [[0, 0], [edge, edge]])
        frames = frame(waveform, self.frame_length, self.hop) * self._window
        real, imag = ops.rfft(frames, fft_length=self.frame_length)
        return ops.sqrt(ops.maximum(real * real + imag * imag, 1e-20)), (real, imag)

    def synthesize(
        self, masks: Tensor, coefficients: tuple[Tensor, ...], num_samples: int | Tensor
    ) -> Tensor:
        """Masks [batch, sources, frames, bins] -> [batch, sources, num_samples]."""
        masks = ops.cast(masks, "float32")
        real, imag = (masks * ops.expand_dims(part, 1) for part in coefficients)
        frames = self.inverse(real, imag) * self._synthesis_window
        edge = self.frame_length - self.hop
        return overlap_add(frames, self.hop, edge + num_samples)[..., edge:]

    def inverse(self, real: Tensor, imag: Tensor) -> Tensor:
        """Bins [..., bins] -> frames [..., frame_length], without a window."""
        return ops.irfft((real, imag), fft_length=self.frame_length)

    def call(self, waveform):
        """Analysis and synthesis under a mask of ones: [batch, samples] -> [batch, samples]."""
        return _through(self, waveform)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return super().get_config() | {"frame_length": self.frame_length, "hop": self.hop}


def _through(basis, waveform):
    features, coefficients = basis.analyze(waveform)
    masks = ops.expand_dims(ops.ones_like(features), 1)
    return basis.synthesize(masks, coefficients, ops.shape(waveform)[-1])[:, 0]
