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
    # Rounded here: libsndfile would scale by 32767 and read back by 32768.
    scale = 2.0 ** (bits - 1)
    samples = np.clip(np.round(np.asarray(waveform, np.float64) * scale), -scale, scale - 1)
    integers = samples.astype(np.int16) if bits == 16 else samples.astype(np.int32) << 8
    soundfile.write(file, integers, sample_rate, format="FLAC", subtype=f"PCM_{bits}")
    return file.getvalue()
