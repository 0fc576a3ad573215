"""Long recordings as several clips."""

import itertools

import numpy as np

from sepssl.audio.files import SILENCE
from sepssl.data.folder import Folder
from sepssl.errors import InputError


class Segments:
    """A folder's recordings, cut into equal parts of about `seconds` each.

    So that an hour counts as an hour and not as one clip, and no recording has to fit into memory.
    Recordings up to 1.5 times `seconds` long stay whole (our choice). The interface is that of
    `Folder`; a clip's name is the recording's, and `#` and the start in seconds where it was cut.

    Args:
        folder: the recordings.
        seconds: length of a part.
    """

    def __init__(self, folder: Folder, seconds: float):
        self.folder = folder
        self.seconds = seconds
        self.skipped = folder.skipped
        self.names: list[str] = []
        self._parts: list[tuple[int, int, int]] = []  # recording, start, length
        for index, name in enumerate(folder.names):
            samples = folder.num_samples(index)
            count = max(1, round(samples / (seconds * folder.sample_rate)))
            edges = [samples * part // count for part in range(count + 1)]
            for start, end in itertools.pairwise(edges):
                at = f"#{start / folder.sample_rate:.2f}" if count > 1 else ""
                self.names.append(f"{name}{at}")
                self._parts.append((index, start, end - start))

    @property
    def origin(self) -> str:
        """What the clips depend on besides their names."""
        return f"{self.folder.origin}, in parts of {self.seconds} s"

    def __len__(self) -> int:
        return len(self.names)

    def num_samples(self, index: int) -> int:
        return self._parts[index][2]

    def read(self, index: int) -> np.ndarray:
        """float32 [samples], without decoding the rest of the recording.

        Raises:
            InputError: as `Folder.read`; also if this part is silent.
        """
        recording, start, length = self._parts[index]
        if length == self.folder.num_samples(recording):
            return self.folder.read(recording)
        waveform = self.folder.read(recording, start, length)
        if np.max(np.abs(waveform)) <= SILENCE:
            raise InputError(f"{self.names[index]}: is silent; expected sound above -120 dBFS")
        return waveform


def recording_name(clip_name: str) -> str:
    """The name of the recording that a clip was cut out of."""
    return clip_name.rsplit("#", 1)[0]
