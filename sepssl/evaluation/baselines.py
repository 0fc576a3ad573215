"""Baselines that an embedding has to beat."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np

from sepssl.audio.log_mel import LogMel
from sepssl.representation.embed import embed_recording
from sepssl.representation.encoder import Encoder

_STRETCH_FRAMES = 6000  # computed at once: one minute

Embed = Callable[[np.ndarray], np.ndarray]  # waveform [samples] -> [dim]


class Baselines(NamedTuple):
    """Baselines of an encoder, each a function waveform [samples] -> [dim].

    Attributes:
        log_mel_statistics: with the encoder's front end.
        untrained_encoder: the same network with random weights.
    """

    log_mel_statistics: Embed
    untrained_encoder: Embed


def baselines(untrained: Encoder) -> Baselines:
    """The baselines, from an encoder that has random weights."""
    return Baselines(
        log_mel_statistics=functools.partial(log_mel_statistics, untrained.log_mel),
        untrained_encoder=functools.partial(embed_recording, untrained),
    )


def untrained_like(encoder: Encoder, seed: int) -> Encoder:
    """The same network with random weights.

    Args:
        encoder: the encoder; not changed.
        seed: of the weights; set as Keras's global seed.
    """
    keras.utils.set_random_seed(seed)
    untrained = Encoder.from_config(encoder.get_config())
    untrained.build()  # under this seed, since building draws the weights
    return untrained


def log_mel_statistics(log_mel: LogMel, waveform: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and maximum over time of every mel band.

    Args:
        log_mel: `LogMel`.
        waveform: [samples], at least one frame long; shorter ones are padded with zeros.

    Returns:
        float32 [3 * bands].
    """
    mel = np.concatenate(list(log_mel_frames(log_mel, waveform)))
    return np.concatenate([mel.mean(axis=0), mel.std(axis=0), mel.max(axis=0)])


def log_mel_frames(log_mel: LogMel, waveform: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of a clip, in the order of time.

    Args:
        log_mel: `LogMel`.
        waveform: [samples]; shorter than a frame, it is padded with zeros.

    Yields:
        float32 [frames, bands], of a minute at most.
    """
    waveform = np.pad(waveform, (0, max(log_mel.frame_length - len(waveform), 0)))
    frames = 1 + (len(waveform) - log_mel.frame_length) // log_mel.frame_hop
    for first in range(0, frames, _STRETCH_FRAMES):
        count = min(_STRETCH_FRAMES, frames - first)
        start = first * log_mel.frame_hop
        end = start + (count - 1) * log_mel.frame_hop + log_mel.frame_length
        yield np.asarray(log_mel.spectrogram(waveform[None, start:end]))[0]
