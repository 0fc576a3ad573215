"""Clips on disk as 16-bit arrays, read by the crop: decoded mixtures, separated channels."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable

import keras
import numpy as np

from sepssl.atomic import atomic_file
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
        self._complete_path = self.folder / "complete.json"
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
    def origin(self) -> str:
        """What the clips depend on besides their names."""
        return json.loads((self.folder / "content.json").read_text())["origin"]

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
        self,
        origin: str,
        names: list[str],
        clips: Callable[[int], Iterable[np.ndarray | InputError]],
        title: str,
    ) -> list[tuple[str, str]]:
        """Writes the clips that are not there yet, with a progress bar.

        Args:
            origin: what the clips depend on besides their names.
            names: of all clips, in order.
            clips: given how many of the names are dealt with, iterates over the clips of the
                others in order: arrays [rows, samples], or an error for a clip to be skipped.
            title: what the progress bar says.

        Returns:
            (name, reason) of the clips skipped.

        Raises:
            InputError: if the store belongs to other clips, no clip is usable, or the disk is full.
        """
        try:
            self._claim({"origin": origin, "names": names})
            if self._complete_path.exists():
                return json.loads(self._complete_path.read_text())
            return self._fill(names, clips, title)
        except OSError as error:
            raise InputError(f"{self.folder}: could not be written: {error.strerror}") from error

    def _claim(self, content: dict) -> None:
        path = self.folder / "content.json"
        if not path.exists():
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(content))
        elif json.loads(path.read_text()) != content:
            raise InputError(
                f"{self.folder}: holds other clips, or clips made otherwise; expected a new folder"
            )

    def _fill(self, names, clips, title) -> list[tuple[str, str]]:
        position = {name: i for i, name in enumerate(names)}
        first = position[self._entries[-1]["name"]] + 1 if self._entries else 0
        print(f"{title}: {len(names)} clips -> {self.folder}", flush=True)
        progress = keras.utils.Progbar(len(names), unit_name="clip")
        skipped = []
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
        with atomic_file(self._complete_path) as temporary:
            temporary.write_text(json.dumps(skipped))
        return skipped

    def _append(self, samples, index, name: str, clip: np.ndarray, offset: int) -> None:
        scale = max(float(np.max(np.abs(clip))), 1e-9) / 32767.0
        samples.write(np.round(clip / scale).astype(np.int16).tobytes())
        samples.flush()
        entry = {"name": name, "shape": list(clip.shape), "offset": offset, "scale": scale}
        index.write(json.dumps(entry) + "\n")
        index.flush()
        self._entries.append(entry)
