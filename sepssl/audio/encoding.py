"""Waveforms as the bytes of sound files."""

import io

import numpy as np
import soundfile

_BITS = {"PCM_24": 24, "PCM_32": 24, "FLOAT": 24, "DOUBLE": 24}


def flac_has(sample_rate: int) -> bool:
    """Whether FLAC files can have a sample rate, in Hz."""
    return sample_rate <= 655350 and (sample_rate <= 65535 or sample_rate % 10 == 0)


def encoded(waveform: np.ndarray, sample_rate: int, subtype: str) -> bytes:
    """A waveform as the bytes of a mono sound file: FLAC of 16 or 24 bits, or else float WAV.

    Args:
        waveform: float `[samples]`.
        sample_rate: in Hz.
        subtype: how the samples were stored before, by libsndfile's name; 24 bits are for PCM_24,
            PCM_32, FLOAT and DOUBLE, and 16 for all others. WAV is for samples beyond full scale,
            and for rates that FLAC cannot have.
    """
    bits = _BITS.get(subtype, 16)
    file = io.BytesIO()
    if not flac_has(sample_rate) or np.max(np.abs(waveform)) > 1:
        soundfile.write(file, waveform, sample_rate, format="WAV", subtype="FLOAT")
        return file.getvalue()
    samples = quantized(np.asarray(waveform), bits)
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype=f"PCM_{bits}")
    return file.getvalue()


def quantized(block: np.ndarray, bits: int) -> np.ndarray:
    """Rounds to whole steps of `bits` bits, in the upper bits of int32.

    libsndfile itself scales by `2^(bits - 1) - 1` when it writes floats but by `2^(bits - 1)` when
    it reads.
    """
    steps = 2.0 ** (bits - 1)
    rounded = np.clip(np.round(block.astype(np.float64) * steps), -steps, steps - 1)
    return rounded.astype(np.int32) << (32 - bits)
