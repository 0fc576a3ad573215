"""Log-mel spectrogram patches: what the encoders see."""

import keras
import numpy as np
from keras import ops

from sepssl.audio.framing import at_least, check_framing, check_waveform_shape
from sepssl.typing import Shape, Tensor

MAX_BANDS = 4096
# Root mean square of a patch's mel magnitudes to which levels are brought (half of ESC-50's clips
# have 3 or more in their loudest patch), and the largest gain: silence stays silent. Our choice.
NORMAL_RMS = 2.0
MAX_GAIN = 1000.0
LEVELS = ("none", "waveform", "patch")


def mel_matrix(
    num_bands: int, num_bins: int, sample_rate: float, low_hz: float, high_hz: float
) -> np.ndarray:
    """Triangular mel filters on the HTK scale, peaks of 1, no area normalisation.

    Args:
        num_bands: number of filters.
        num_bins: bins of the magnitude spectrum, 0 Hz to `sample_rate / 2`.
        sample_rate: in Hz.
        low_hz, high_hz: lower edge of the first and upper edge of the last filter, in Hz.

    Returns:
        float32 [num_bins, num_bands]; bin 0 (DC) is in no filter.

    Reference: the triangles of TensorFlow's `linear_to_mel_weight_matrix`, which YAMNet uses.
    """

    def mel(hz):
        return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)

    bins = mel(np.linspace(0.0, sample_rate / 2, num_bins))[:, None]
    edges = np.linspace(mel(low_hz), mel(high_hz), num_bands + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights.astype(np.float32)


@keras.saving.register_keras_serializable(package="sepssl")
class LogMel(keras.layers.Layer):
    """Waveform to patches of log-mel spectrogram, by default as YAMNet computes them.

    Frames of 25 ms every 10 ms, periodic Hann window, magnitude of the next larger power-of-two
    FFT, 64 mel bands from 125 to 7500 Hz, `log(mel + 0.001)`. A patch is 96 frames (0.96 s).
    Computed in float32 under every dtype policy.

    Shapes: `call` maps [batch, samples] to [batch, patches, patch_frames, bands]. A waveform
    shorter than one patch is padded with zeros to one.

    Patches begin every `patch_hop_frames` frames. Where none of them ends with the waveform, one
    more does, to the sample: its frames are `frame_hop` apart, counted from the end. So every
    sample lies in a frame (our choice: a patch filled up with zeros would pull a clip's mean
    embedding). What the window weighs by less than a tenth is the first and the last 10 % of the
    outermost frames, 2.5 ms.

    Args:
        sample_rate: in Hz.
        window_seconds, hop_seconds: frame length and hop.
        bands: number of mel bands.
        low_hz, high_hz: range of the mel bands.
        offset: added before the logarithm, more than 0 for silence to be finite.
        patch_frames: frames in a patch.
        patch_hop_frames: frames from one patch to the next.
        cover_end: False to leave out samples after the last whole patch, as files do that were
            saved before there was this argument: up to `patch_hop_samples - 1` of them, 0.48 s.
        normalize_level: what is brought to one level, so that how loud a recording is makes no
            difference (our choice): "waveform" scales each waveform so that the mel magnitudes of
            its loudest patch have the root mean square `NORMAL_RMS`, "patch" each patch for
            itself, by 60 dB at most; "none" leaves levels as they are. `spectrogram`, which knows
            no patches, always does.

    Raises:
        ValueError: if an argument is out of its range, or frequencies do not fit the sample rate.

    Example:
        >>> LogMel()(np.zeros([1, 16000])).shape
        (1, 2, 96, 64)

    Reference: Plakal & Ellis, YAMNet (front end); patch hop of 48 frames likewise.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        bands: int = 64,
        low_hz: float = 125.0,
        high_hz: float = 7500.0,
        offset: float = 0.001,
        patch_frames: int = 96,
        patch_hop_frames: int = 48,
        cover_end: bool = True,
        normalize_level: str = "none",
        **kwargs,
    ):
        # Without autocast: a policy of half precision would round the waveform.
        super().__init__(**{"dtype": "float32", "trainable": False, "autocast": False, **kwargs})
        if not 0 <= low_hz < high_hz <= sample_rate / 2:
            raise ValueError(
                f"sample_rate={sample_rate}, low_hz={low_hz}, high_hz={high_hz}: expected low_hz "
                "of 0 or more, below high_hz, and a sample rate of at least twice high_hz"
            )
        if not offset >= 0:
            raise ValueError(f"offset={offset}: expected 0 or more")
        check_framing(round(window_seconds * sample_rate), round(hop_seconds * sample_rate))
        if not (1 <= bands <= MAX_BANDS and patch_frames >= 1 and patch_hop_frames >= 1):
            raise ValueError(
                f"bands={bands}, patch_frames={patch_frames}, patch_hop_frames={patch_hop_frames}: "
                f"expected 1 or more of each, and at most {MAX_BANDS} bands"
            )
        if normalize_level not in LEVELS:
            raise ValueError(f"normalize_level={normalize_level!r}: expected one of {LEVELS}")
        self.sample_rate = sample_rate
        self.window_seconds = window_seconds
        self.hop_seconds = hop_seconds
        self.bands = bands
        self.low_hz = low_hz
        self.high_hz = high_hz
        self.offset = offset
        self.patch_frames = patch_frames
        self.patch_hop_frames = patch_hop_frames
        self.cover_end = cover_end
        self.normalize_level = normalize_level
        self.frame_length = round(window_seconds * sample_rate)
        self.frame_hop = round(hop_seconds * sample_rate)
        self.fft_length = 2 ** int(np.ceil(np.log2(self.frame_length)))
        n = np.arange(self.frame_length)
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * n / self.frame_length)).astype(np.float32)
        self._mel = mel_matrix(bands, self.fft_length // 2 + 1, sample_rate, low_hz, high_hz)

    @property
    def patch_samples(self) -> int:
        """Samples that one patch needs: 15,600 at 16 kHz."""
        return (self.patch_frames - 1) * self.frame_hop + self.frame_length

    @property
    def patch_hop_samples(self) -> int:
        """Samples from one patch to the next: 7,680 at 16 kHz."""
        return self.patch_hop_frames * self.frame_hop

    def num_patches(self, samples: int) -> int:
        """Patches of a waveform of that many samples."""
        rest = max(samples - self.patch_samples, 0)
        return 1 + rest // self.patch_hop_samples + (self._uncovered(rest) if self.cover_end else 0)

    def _uncovered(self, rest):
        """1 if no patch ends `rest` samples after the first one's end, else 0."""
        return -(-rest // self.patch_hop_samples) - rest // self.patch_hop_samples

    def magnitude(self, waveform: Tensor) -> Tensor:
        """Mel magnitudes: [..., samples] -> [..., frames, bands].

        `1 + (samples - frame_length) // hop` frames.
        """
        # The floor keeps the gradient finite on silence and is far below float32's resolution
        # of anything that the offset lets through.
        power = ops.maximum(self._power(waveform), 1e-20)
        # Not `matmul`: see `LearnedBasis.synthesize`.
        return ops.tensordot(ops.sqrt(power), self._mel, 1)

    def from_magnitude(self, magnitude: Tensor) -> Tensor:
        """Mel magnitudes, at least 0 -> log-mel spectrogram, of any one shape."""
        return ops.log(magnitude + self.offset)

    def gain(self, magnitude: Tensor) -> Tensor:
        """What brings waveforms, or each of their patches, to one level.

        Args:
            magnitude: mel magnitudes of all patches, [batch, patches, patch_frames, bands].

        Returns:
            Factors of the magnitudes, [batch, 1, 1, 1] if `normalize_level` is "waveform", else
            [batch, patches, 1, 1].
        """
        power = ops.mean(ops.square(magnitude), axis=(2, 3), keepdims=True)
        if self.normalize_level == "waveform":
            power = ops.max(power, axis=1, keepdims=True)
        return NORMAL_RMS / ops.sqrt(ops.maximum(power, (NORMAL_RMS / MAX_GAIN) ** 2))

    def patch_magnitude(self, waveform: Tensor) -> Tensor:
        """Mel magnitudes of patches, before levels are normalised: shapes as `call`."""
        check_waveform_shape(waveform.shape)
        missing = at_least(self.patch_samples - ops.shape(waveform)[1], 0)
        waveform = ops.pad(waveform, [[0, 0], [0, missing]])
        patches = self._patches(waveform)
        if not self.cover_end:
            return patches
        count = self._uncovered(ops.shape(waveform)[1] - self.patch_samples)
        if isinstance(count, int) and count == 0:
            return patches
        # Whether a patch is missing may be known only at run time: then all waveforms are taken or
        # none, and an empty batch costs nothing.
        batch = ops.shape(waveform)[0]
        last = self._patches(waveform[: batch * count, -self.patch_samples :])
        last = ops.reshape(last, (batch, count, self.patch_frames, self.bands))
        return ops.concatenate([patches, last], axis=1)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Log-mel spectrogram: [..., samples] -> [..., frames, bands], frames of `magnitude`."""
        return self.from_magnitude(self.magnitude(waveform))

    def _power(self, waveform):
        """[..., samples] -> power spectrum [..., frames, fft_length // 2 + 1]."""
        waveform = ops.cast(waveform, "float32")
        frames = ops.extract_sequences(waveform, self.frame_length, self.frame_hop)
        real, imag = ops.rfft(frames * self._window, fft_length=self.fft_length)
        return real * real + imag * imag

    def call(self, waveform: Tensor) -> Tensor:
        magnitude = self.patch_magnitude(waveform)
        if self.normalize_level != "none":
            magnitude = magnitude * self.gain(magnitude)
        return self.from_magnitude(magnitude)

    def _patches(self, waveform):
        """[batch, samples], a patch or more -> magnitudes of patches from the beginning on."""
        mel = self.magnitude(waveform)
        # [batch, frames, bands] -> [batch, bands, patches, patch_frames] -> patches in front
        patches = ops.extract_sequences(
            ops.transpose(mel, (0, 2, 1)), self.patch_frames, self.patch_hop_frames
        )
        return ops.transpose(patches, (0, 2, 3, 1))

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        check_waveform_shape(input_shape)
        batch, samples = input_shape
        patches = None if samples is None else self.num_patches(samples)
        return (batch, patches, self.patch_frames, self.bands)

    def get_config(self) -> dict:
        return super().get_config() | {
            "sample_rate": self.sample_rate,
            "window_seconds": self.window_seconds,
            "hop_seconds": self.hop_seconds,
            "bands": self.bands,
            "low_hz": self.low_hz,
            "high_hz": self.high_hz,
            "offset": self.offset,
            "patch_frames": self.patch_frames,
            "patch_hop_frames": self.patch_hop_frames,
            "cover_end": self.cover_end,
            "normalize_level": self.normalize_level,
        }

    @classmethod
    def from_config(cls, config: dict) -> "LogMel":
        return super().from_config({"cover_end": False} | config)
