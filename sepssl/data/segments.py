"""Long recordings as several clips."""

import itertools
import pathlib

import numpy as np

from sepssl.audio.files import SILENCE
from sepssl.data.clips import Clips
from sepssl.errors import InputError


class Segments(Clips):
    """Recordings, cut into equal parts of about `seconds` each.

    An hour then counts as an hour, not as one clip, and no recording has to fit into memory.
    Recordings up to 1.5 times `seconds` long stay whole (our choice). A part inherits the labels,
    split and fold of its recording; its name is the recording's, followed by `#` and the start in
    seconds if the recording was cut.

    Args:
        clips: the recordings; their lengths must be known without reading them.
        seconds: length of a part.

    Attributes:
        wholes: of each part, the index of its recording in `clips`.
    """

    def __init__(self, clips: Clips, seconds: float):
        self.clips = clips
        self.seconds = seconds
        self.skipped = list(clips.skipped)
        self.sample_rate = clips.sample_rate
        self.allow_truncated = clips.allow_truncated
        self.speed = clips.speed
        self.names: list[str] = []
        self._parts: list[tuple[int, int, int]] = []  # recording, start, length
        for index, name in enumerate(clips.names):
            samples = clips.num_samples(index)
            count = max(1, round(samples / (seconds * clips.sample_rate)))
            edges = [samples * part // count for part in range(count + 1)]
            for start, end in itertools.pairwise(edges):
                at = f"#{start / clips.sample_rate:.2f}" if count > 1 else ""
                self.names.append(f"{name}{at}")
                self._parts.append((index, start, end - start))
        self.wholes = whole = [recording for recording, _, _ in self._parts]
        recordings = clips.names if clips.recordings is None else clips.recordings
        self.recordings = [recordings[i] for i in whole]
        self.class_names = clips.class_names
        if clips.labels is not None:
            self.labels = clips.labels[whole]
        if clips.splits is not None:
            self.splits = [clips.splits[i] for i in whole]
        if clips.folds is not None:
            self.folds = [clips.folds[i] for i in whole]

    @property
    def origin(self) -> str:
        return f"{self.clips.origin}, in parts of {self.seconds} s"

    def num_samples(self, index: int) -> int:
        return self._parts[index][2]

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """float32 [samples], without decoding the rest of the recording.

        Raises:
            InputError: as the recording's `read`; also if all of this part is silent.
        """
        recording, first, count = self._parts[index]
        if count == self.clips.num_samples(recording):
            return self.clips.read(recording, start, length)
        wanted = count - start if length is None else min(length, count - start)
        waveform = self.clips.read(recording, first + start, max(wanted, 0))
        if wanted == count and np.max(np.abs(waveform)) <= SILENCE:
            raise InputError(f"{self.names[index]}: is silent; expected sound above -120 dBFS")
        return waveform

    def path(self, index: int) -> pathlib.Path | None:
        return self.clips.path(self.wholes[index])

    def start_seconds(self, index: int) -> float:
        recording, first, _ = self._parts[index]
        before = first / self.clips.sample_rate * self.clips.speed
        return self.clips.start_seconds(recording) + before

    def stamp(self, index: int) -> str:
        return self._keyed(index, self.clips.stamp)

    def key(self, index: int) -> str:
        return self._keyed(index, self.clips.key)

    def _keyed(self, index: int, of_recording) -> str:
        recording, first, count = self._parts[index]
        return f"{first}+{count} {of_recording(recording)}"
