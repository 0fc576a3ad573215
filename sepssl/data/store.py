"""Clips on disk as 16-bit arrays that are read by the crop: decoded mixtures, separated channels."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable

import keras
import numpy as np

from sepssl.errors import InputError


class ClipStore:
    """A folder with one file of samples and one index, written once and read at random.

    A clip is an array [rows, samples]: one row for a mixture, one per channel for separated
    recordings. Samples are int16 with a scale of their own per clip, so that nothing clips and
    quiet clips keep their resolution. The index gains its line after the samples are on disk;
    filling a store that was interrupted goes on behind the last complete clip.

    Args:
        folder: where it lies; made if it does not exist.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self._samples_path = self.folder / "samples.int16"
        self._index_path = self.folder / "index.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._entries = []
        if self._index_path.exists():
            for line in self._index_path.read_text().splitlines():
                try:
                    self._entries.append(json.loads(line))
                except json.JSONDecodeError:
                    break  # the line that an interruption cut
        self._map = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> list[str]:
        return [entry["name"] for entry in self._entries]

    @property
    def rows(self) -> int:
        """Rows of every clip."""
        return self._entries[0]["shape"][0]

    def num_samples(self, index: int) -> int:
        return self._entries[index]["shape"][1]

    def read(self, index: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """float32 [rows, num_samples] from sample `start`; a clip that ends before is repeated.

        Repeating rather than padding is our choice: zeros would be silence that no recording has.
        """
        if self._map is None:
            self._map = np.memmap(self._samples_path, np.int16, "r")
        entry = self._entries[index]
        rows, length = entry["shape"]
        offset = entry["offset"]
        clip = self._map[offset : offset + rows * length].reshape(rows, length)
        end = length if num_samples is None else start + num_samples
        if end <= length:
            crop = clip[:, start:end]
        else:
            crop = np.take(clip, np.arange(start, end), axis=1, mode="wrap")
        return crop * np.float32(entry["scale"])

    def fill(
        self, names: list[str], clips: Callable[[int], Iterable[np.ndarray]], title: str
    ) -> list[tuple[str, str]]:
        """Writes the clips that are not there yet, with a progress bar.

        Args:
            names: of all clips, in order; those already stored must be their beginning.
            clips: given the number of names already done, iterates over the arrays
                [rows, samples] of the others, in order. An `InputError` as an item skips that clip.
            title: what the progress bar says.

        Returns:
            (name, reason) of the clips skipped.

        Raises:
            InputError: if the store was filled from other clips, or cannot be written.
        """
        done_path = self.folder / "complete.json"
        if done_path.exists():
            record = json.loads(done_path.read_text())
            if record["names"] != names:
                raise InputError(f"{self.folder}: was filled from other clips; expected a new folder")
            return [tuple(pair) for pair in record["skipped"]]
        position = {name: i for i, name in enumerate(names)}
        kept = [name for name in self.names if name in position]
        if kept != self.names or sorted(kept, key=position.get) != kept:
            raise InputError(f"{self.folder}: was filled from other clips; expected a new folder")
        first = position[kept[-1]] + 1 if kept else 0
        print(f"{title}: {len(names)} clips -> {self.folder}", flush=True)
        progress = keras.utils.Progbar(len(names), unit_name="clip")
        skipped = []
        try:
            with open(self._samples_path, "ab") as samples, open(self._index_path, "w") as index:
                index.writelines(json.dumps(entry) + "\n" for entry in self._entries)
                offset = sum(int(np.prod(entry["shape"])) for entry in self._entries)
                samples.truncate(2 * offset)
                for name, clip in zip(names[first:], clips(first), strict=True):
                    if isinstance(clip, InputError):
                        skipped.append((name, str(clip)))
                    else:
                        self._append(samples, index, name, clip, offset)
                        offset += clip.size
                    progress.update(position[name] + 1)
            if not self._entries:
                raise InputError(f"{self.folder}: no usable clip; the first: {skipped[0][1]}")
            done_path.write_text(json.dumps({"names": names, "skipped": skipped}))
        except OSError as error:
            raise InputError(f"{self.folder}: could not be written: {error.strerror}") from error
        return skipped

    def _append(self, samples, index, name: str, clip: np.ndarray, offset: int) -> None:
        scale = max(float(np.max(np.abs(clip))), 1e-9) / 32767.0
        samples.write(np.round(clip / scale).astype(np.int16).tobytes())
        samples.flush()
        entry = {"name": name, "shape": list(clip.shape), "offset": offset, "scale": scale}
        index.write(json.dumps(entry) + "\n")
        index.flush()
        self._entries.append(entry)
