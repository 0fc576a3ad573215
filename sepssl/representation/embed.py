"""Embeddings of recordings of any length, in bounded memory."""

from collections.abc import Callable, Iterator

import numpy as np

from sepssl.audio.log_mel import LogMel
from sepssl.data.clips import Clips, Skipped
from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.errors import InputError
from sepssl.progress import Progress, counted
from sepssl.representation.encoder import Encoder


def embed_recording(encoder: Encoder, waveform: np.ndarray, max_patches: int = 256) -> np.ndarray:
    """The encoder's embedding of a recording, computed in parts of at most `max_patches` patches.

    Equals `encoder(waveform)`, since the mean over patches does not depend on their grouping.

    Args:
        encoder: `Encoder`.
        waveform: [samples], at the encoder's sample rate.
        max_patches: patches computed at once; limits the memory.

    Returns:
        float32 [embedding_size].
    """
    total, patches = np.zeros(encoder.embedding_size, np.float64), 0
    for embeddings in embed_patches(encoder, waveform, max_patches):
        total += embeddings.sum(axis=0, dtype=np.float64)
        patches += len(embeddings)
    return (total / patches).astype(np.float32)


def embed_patches(
    encoder: Encoder, waveform: np.ndarray, max_patches: int = 256
) -> Iterator[np.ndarray]:
    """The embeddings of a recording's patches, at the encoder's hop, in the order of time.

    Where the encoder normalises levels, that of the whole recording is measured first.

    Args:
        encoder: `Encoder`.
        waveform: [samples], at the encoder's sample rate; finite, as `read_audio` gives it.
        max_patches: patches computed at once; limits the memory.

    Yields:
        float32 [patches, embedding_size], at most `max_patches` at a time.
    """
    log_mel, embed = encoder.log_mel, encoder.compiled_patch_embeddings
    stretches = list(_stretches(log_mel, waveform, max_patches))
    gain = np.float32(1.0)
    if log_mel.normalize_level == "waveform" and len(stretches) > 1:
        embed = encoder.compiled_at_given_level
        gain = np.min([encoder.compiled_gain(x[None]) for x in stretches])
    for stretch in stretches:
        yield np.asarray(embed(gain * stretch[None]))[0]


def _stretches(log_mel: LogMel, waveform: np.ndarray, max_patches: int) -> Iterator[np.ndarray]:
    """Parts of a recording that make up all its patches."""
    hop, patches = log_mel.patch_hop_samples, log_mel.num_patches(len(waveform))
    for first in range(0, patches, max_patches):
        count = min(max_patches, patches - first)
        # The last patch may begin less than a hop after the one before it.
        end = min((first + count - 1) * hop + log_mel.patch_samples, len(waveform))
        start = min(first * hop, max(end - log_mel.patch_samples, 0))
        yield waveform[start:end]


def embed_clips(
    embed: Callable[[np.ndarray], np.ndarray], clips: Clips, title: str, verbose: bool = True
) -> tuple[np.ndarray, list[int], list[Skipped]]:
    """Embeddings of all clips, with a progress bar.

    Args:
        embed: waveform [samples] -> embedding [dim], or [several, dim], as many for each clip.
        clips: what to embed.
        title: label of the progress bar.
        verbose: whether to show progress.

    Returns:
        float32 [clips, dim] or [clips, several, dim], the indices of the clips they belong
        to, and the clips that could not be read.

    Raises:
        InputError: if no clip can be read.
    """
    count = len(clips.names)
    start = f"{title}: {counted(count, 'clip')}"
    waveforms = read_ahead(value_or_error(clips.read), range(count), workers=1)
    embeddings, indices, skipped = [], [], []
    with Progress(title, count, "clip", start=start, verbose=verbose) as progress:
        for index, waveform in enumerate(waveforms):
            if isinstance(waveform, InputError):
                skipped.append(Skipped(clips.names[index], str(waveform)))
            else:
                embeddings.append(embed(waveform))
                indices.append(index)
            progress.update()
    if not embeddings:
        raise InputError(f"no clip could be read; the first: {skipped[0].reason}")
    return np.stack(embeddings), indices, skipped
