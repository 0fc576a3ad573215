"""When the channels of a recording are active."""

import dataclasses
from typing import NamedTuple

import numpy as np

FRAME_SECONDS = 0.1  # our choice, as are the other numbers


@dataclasses.dataclass(frozen=True)
class Activity:
    """What counts as activity of a channel.

    Attributes:
        active_db: a frame of 0.1 s is active if its power, in dB relative to the mean of the
            recording, is above this.
        min_gap_seconds: shorter gaps between intervals are closed.
        min_length_seconds: intervals that are shorter then are left out.
    """

    active_db: float = -20.0
    min_gap_seconds: float = 0.3
    min_length_seconds: float = 0.2


class Interval(NamedTuple):
    """A time in which a channel is active.

    Attributes:
        channel: from 1.
        start, end: in seconds from the beginning of the clip, whole frames of 0.1 s but at its end.
        level_db: of its mean power, relative to the recording's.
    """

    channel: int
    start: float
    end: float
    level_db: float


class ChannelLevels:
    """How loud the channels of a recording are, and when.

    Args:
        channels: how many.
        sample_rate: in Hz.
    """

    def __init__(self, channels: int, sample_rate: int):
        self.peak = 0.0
        self._rate = sample_rate
        self._frame = max(1, round(FRAME_SECONDS * sample_rate))
        self._rest = np.zeros((channels, 0), np.float32)
        self._powers: list[np.ndarray] = []  # [channels, frames]
        self._energy = np.zeros(channels)
        self._samples = 0

    def add(self, piece: np.ndarray) -> None:
        """Takes the next samples, [channels, samples]."""
        self.peak = max(self.peak, float(np.abs(piece).max(initial=0.0)))
        self._energy += np.sum(np.square(piece, dtype=np.float64), axis=1)
        self._samples += piece.shape[1]
        piece = np.concatenate([self._rest, piece], axis=1)
        whole = piece.shape[1] // self._frame * self._frame
        self._rest = piece[:, whole:]
        frames = piece[:, :whole].reshape(len(piece), -1, self._frame)
        self._powers.append(np.mean(np.square(frames), axis=-1))

    @property
    def mean_powers(self) -> np.ndarray:
        """Of the channels, [channels]."""
        return self._energy / self._samples

    def relative_to(
        self, power: float, activity: Activity
    ) -> tuple[np.ndarray, np.ndarray, list[Interval]]:
        """Levels and activity, with the last, shorter frame as one more.

        Args:
            power: mean power of the recording.
            activity: what counts as such.

        Returns:
            Levels in dB relative to the recording, -100 at the lowest, and the share of frames that
            are active, 0 to 1; [channels] each. The intervals, in the order of their starts.
        """
        powers = np.concatenate(self._powers, axis=1)
        if self._rest.shape[1]:
            last = np.mean(np.square(self._rest), axis=1, keepdims=True)
            powers = np.concatenate([powers, last], axis=1)
        levels = _decibels(self.mean_powers, power)
        active = powers > 10 ** (activity.active_db / 10) * power
        edges = np.minimum(np.arange(powers.shape[1] + 1) * self._frame, self._samples)
        energies = np.cumsum(powers * np.diff(edges), axis=1, dtype=np.float64)
        energies = np.concatenate([np.zeros((len(powers), 1)), energies], axis=1)
        found = []
        for channel, (frames, energy) in enumerate(zip(active, energies, strict=True), start=1):
            for first, last in self._joined(frames, edges, activity):
                start, end = int(edges[first]), int(edges[last])
                level = _decibels((energy[last] - energy[first]) / (end - start), power)
                seconds = [round(samples / self._rate, 6) for samples in (start, end)]
                found.append(Interval(channel, seconds[0], seconds[1], round(float(level), 2)))
        return (
            levels,
            np.mean(active, axis=1),
            sorted(found, key=lambda one: (one.start, one.channel)),
        )

    def _joined(self, active: np.ndarray, edges: np.ndarray, activity: Activity) -> np.ndarray:
        """First frame, and that after the last, of each interval, int64 [intervals, 2]."""
        padded = np.concatenate([[False], active, [False]])
        spans = np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)
        if not len(spans):
            return spans
        gaps = edges[spans[1:, 0]] - edges[spans[:-1, 1]]
        apart = gaps >= round(activity.min_gap_seconds * self._rate)
        first = spans[np.append(True, apart), 0]
        last = spans[np.append(apart, True), 1]
        long = edges[last] - edges[first] >= round(activity.min_length_seconds * self._rate)
        return np.stack([first[long], last[long]], axis=1)


def _decibels(power: np.ndarray, reference: float) -> np.ndarray:
    return 10 * np.log10(np.maximum(power / max(reference, 1e-20), 1e-10))
