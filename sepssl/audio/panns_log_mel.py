"""Log-mel spectrogram patches as the PANNs networks see them."""

import keras
import numpy as np
from keras import ops

from sepssl.audio.log_mel import LogMel
from sepssl.typing import Tensor

FLOOR = 1e-10  # of the mel power


def slaney_mel_matrix(
    num_bands: int, num_bins: int, sample_rate: float, low_hz: float, high_hz: float
) -> np.ndarray:
    """Triangular mel filters on Slaney's scale, each of area 1 over frequency in Hz.

    The scale is linear up to 1 kHz, at 200/3 Hz a mel, and logarithmic above, at 27 mel for a
    factor of 6.4. The triangles are straight in Hz, not in mel as those of `mel_matrix`.

    Args:
        num_bands: number of filters.
        num_bins: bins of the power spectrum, 0 Hz to `sample_rate / 2`.
        sample_rate: in Hz.
        low_hz, high_hz: lower edge of the first and upper edge of the last filter, in Hz.

    Returns:
        float32 [num_bins, num_bands].

    Reference: Slaney, Auditory Toolbox (1998), as `librosa.filters.mel` has it by default.
    """
    knee_hz, hz_per_mel, log_step = 1000.0, 200.0 / 3.0, np.log(6.4) / 27.0
    knee = knee_hz / hz_per_mel

    def mel(hz: float) -> float:
        return hz / hz_per_mel if hz < knee_hz else knee + np.log(hz / knee_hz) / log_step

    mels = np.linspace(mel(low_hz), mel(high_hz), num_bands + 2)
    above_knee = knee_hz * np.exp(log_step * np.maximum(mels - knee, 0.0))
    edges = np.where(mels < knee, hz_per_mel * mels, above_knee)
    bins = np.linspace(0.0, sample_rate / 2, num_bins)[:, None]
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    height = 2.0 / (upper - lower)
    return (height * np.maximum(0.0, np.minimum(rising, falling))).astype(np.float32)


@keras.saving.register_keras_serializable(package="sepssl")
class PannsLogMel(LogMel):
    """Waveform to patches of log-mel spectrogram in dB, as PANNs compute them.

    Frames of 32 ms every 10 ms, periodic Hann window, power spectrum, 64 mel bands on Slaney's
    scale, `10 log10(mel power)` from -100 dB up. A patch is 96 frames (0.982 s). Computed in
    float32 under every dtype policy.

    PANNs centre frame `n` on sample `n * frame_hop` and reflect the waveform at both ends. Here
    all frames lie within the waveform, as in `LogMel`: frame `n` of the waveform from sample
    `2 * frame_hop - frame_length // 2` on equals PANNs' frame `n + 2`, and PANNs' first two and
    last two frames have no equal.

    Shapes: as `LogMel`.

    Args:
        sample_rate: in Hz; 32000 or 16000 in the released models.
        window_seconds, hop_seconds: frame length and hop.
        bands: number of mel bands.
        low_hz, high_hz: range of the mel bands; `high_hz` None: 14 kHz, or half the sample rate
            where that is less.
        patch_frames: frames in a patch.
        patch_hop_frames: frames from one patch to the next.
        cover_end: as of `LogMel`.
        normalize_level: as of `LogMel`, by the roots of mel powers; "none" for PANNs' own networks,
            which know how loud sounds are.

    Example:
        >>> PannsLogMel()(np.zeros([1, 32000])).shape
        (1, 2, 96, 64)

    Reference: Kong et al., PANNs (2020), section III; the patches are our choice.
    """

    def __init__(
        self,
        sample_rate: int = 32000,
        window_seconds: float = 0.032,
        hop_seconds: float = 0.010,
        bands: int = 64,
        low_hz: float = 50.0,
        high_hz: float | None = None,
        patch_frames: int = 96,
        patch_hop_frames: int = 48,
        cover_end: bool = True,
        normalize_level: str = "none",
        **kwargs,
    ):
        super().__init__(
            sample_rate=sample_rate,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            bands=bands,
            low_hz=low_hz,
            high_hz=min(14000.0, sample_rate / 2) if high_hz is None else high_hz,
            offset=0.0,  # there is a floor instead
            patch_frames=patch_frames,
            patch_hop_frames=patch_hop_frames,
            cover_end=cover_end,
            normalize_level=normalize_level,
            **kwargs,
        )
        self._mel = slaney_mel_matrix(
            bands, self.fft_length // 2 + 1, sample_rate, self.low_hz, self.high_hz
        )

    def magnitude(self, waveform: Tensor) -> Tensor:
        """Roots of the mel powers: [..., samples] -> [..., frames, bands].

        Frames as `LogMel.magnitude`.
        """
        # Not `matmul`: see `LearnedBasis.synthesize`.
        power = ops.tensordot(self._power(waveform), self._mel, 1)
        # The root of 0 has no gradient.
        return ops.sqrt(ops.maximum(power, 1e-20))

    def from_magnitude(self, magnitude: Tensor) -> Tensor:
        """Root of the mel power, at least 0 -> spectrogram in dB, of any one shape."""
        return 10.0 * ops.log10(ops.maximum(magnitude * magnitude, FLOOR))

    def get_config(self) -> dict:
        config = super().get_config()
        del config["offset"]
        return config
