"""One recording in, its channels or its embeddings out: arrays or files, of any length and rate."""

import os

import numpy as np
import soxr

from sepssl.audio.files import as_waveform, audio_info, check_sample_rate, read_audio
from sepssl.audio.streaming import stream_audio
from sepssl.representation.embed import embed_recording
from sepssl.representation.encoder import Encoder, load_encoder
from sepssl.representation.windows import WindowEmbedder
from sepssl.separation.separator import Separator, load_separator


def separate(
    separator: Separator | str | os.PathLike,
    recording: np.ndarray | str | os.PathLike,
    sample_rate: int | None = None,
) -> np.ndarray:
    """Separates a recording into channels.

    Args:
        separator: a `Separator`, or its `.keras` file.
        recording: waveform [samples], or a sound file.
        sample_rate: of the waveform, in Hz; by default the separator's. A file's is its own.

    Returns:
        float32 [num_sources, samples], at the recording's sample rate.

    Raises:
        InputError: if a file cannot be read, samples are not finite or far beyond full scale (more
            than 1000), or `sample_rate` is not a positive whole number.
        ValueError: if the waveform is empty, is not [samples], or is not of floats.

    Example:
        >>> separator = Separator(num_sources=2, tdcn=TDCN(8, 16, 2, 1))
        >>> separate(separator, np.zeros(8000, np.float32)).shape
        (2, 8000)
    """
    if not isinstance(separator, Separator):
        separator = load_separator(separator)
    if isinstance(recording, (str, os.PathLike)):
        sample_rate = audio_info(recording).sample_rate
        recording = read_audio(recording, None)
    else:
        recording = as_waveform(recording)
    rate = separator.sample_rate if sample_rate is None else sample_rate
    return separator.separate(recording, rate)


def embed(
    encoder: Encoder | str | os.PathLike,
    recording: np.ndarray | str | os.PathLike,
    sample_rate: int | None = None,
) -> np.ndarray:
    """Embeds a recording: the mean of the embeddings of its patches.

    Args:
        encoder: an `Encoder`, or its `.keras` file.
        recording: waveform [samples] in [-1, 1], or a sound file.
        sample_rate: of the waveform, in Hz; by default the encoder's. Recordings of another rate,
            files too, are resampled to the encoder's.

    Returns:
        float32 [embedding_size].

    Raises:
        InputError: if a file cannot be read, samples are not finite or far beyond full scale (more
            than 1000), or `sample_rate` is not a positive whole number.
        ValueError: if the waveform is empty, is not [samples], or is not of floats.

    Example:
        >>> embed(Encoder(SmallBackbone(8, width=2)), np.zeros(16000, np.float32)).shape
        (8,)
    """
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder)
    if isinstance(recording, (str, os.PathLike)):
        return embed_recording(encoder, read_audio(recording, encoder.sample_rate))
    return embed_recording(encoder, _at_rate(recording, sample_rate, encoder.sample_rate))


def embed_windows(
    encoder: Encoder | str | os.PathLike,
    recording: np.ndarray | str | os.PathLike,
    sample_rate: int | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeds the windows of a recording, the last of which reaches its end.

    Args:
        encoder, recording, sample_rate: as `embed` has them; a file may be of any length.
        window_seconds, hop_seconds: see `WindowEmbedder`; by default the encoder's patch and the
            hop between patches.

    Returns:
        Starts and ends, float64 [windows], in seconds, and embeddings, float32 [windows,
        embedding_size].

    Raises:
        InputError, ValueError: as `embed`; InputError also if a number of seconds is out of range.

    Example:
        >>> encoder = Encoder(SmallBackbone(8, width=2))
        >>> starts, ends, embeddings = embed_windows(encoder, np.zeros(16000, np.float32))
        >>> ends.tolist()
        [0.975, 1.0]
    """
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder)
    rate = encoder.sample_rate
    if isinstance(recording, (str, os.PathLike)):
        blocks = stream_audio(recording, rate)
    else:
        blocks = iter([_at_rate(recording, sample_rate, rate)])
    embedder = WindowEmbedder(encoder, window_seconds, hop_seconds)
    batches = list(embedder(block[None] for block in blocks))
    starts, ends, embeddings, _ = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return starts / rate, ends / rate, embeddings[:, 0]


def _at_rate(recording: np.ndarray, sample_rate: int | None, rate: int) -> np.ndarray:
    waveform = as_waveform(recording)
    if sample_rate is not None and sample_rate != rate:
        check_sample_rate(sample_rate)
        waveform = soxr.resample(waveform, sample_rate, rate, quality="HQ")
    return waveform
