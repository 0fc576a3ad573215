"""Clips on disk as 16-bit arrays, read by the crop: decoded mixtures, separated channels."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from sepssl.errors import InputError
from sepssl.files import atomic_file, lock_folder
from sepssl.progress import Progress


class ClipStore:
    """A folder with one file of samples and one index, written once and read at random.

    A clip is an array [rows, samples]: one row for a mixture, one per channel for separated
    recordings. Samples are int16 with a scale of their own per clip, so that nothing clips and
    quiet clips keep their resolution. The index has a line for every clip dealt with, stored or
    skipped, which it gains after the samples are on disk; filling a store that was interrupted goes
    on behind the last of them. Processes that fill the same store do so one after the other.

    Args:
        folder: where it lies; made if it does not exist.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self._samples_path = self.folder / "samples.int16"
        self._index_path = self.folder / "index.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: could not be made: {error.strerror}") from error
        self._read_index()

    def _read_index(self) -> None:
        self._clips, self._skipped, self._index_bytes = [], [], 0
        self._map = None
        if self._index_path.exists():
            for line in self._index_path.read_bytes().splitlines(keepends=True):
                try:
                    self._note(json.loads(line))
                except json.JSONDecodeError:
                    break  # the line that an interruption cut
                self._index_bytes += len(line)

    def _note(self, entry: dict) -> None:
        (self._skipped if "skipped" in entry else self._clips).append(entry)

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def names(self) -> list[str]:
        return [entry["name"] for entry in self._clips]

    @property
    def origin(self) -> str:
        """What the clips depend on besides their names."""
        return json.loads((self.folder / "content.json").read_text())["origin"]

    def num_rows(self, index: int) -> int:
        return self._clips[index]["shape"][0]

    def num_samples(self, index: int) -> int:
        return self._clips[index]["shape"][1]

    def read(self, index: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """float32 [rows, num_samples] from sample `start`; a clip that ends before is repeated.

        Repeating rather than padding is our choice: zeros would be silence that no recording has.
        """
        if self._map is None:
            self._map = np.memmap(self._samples_path, np.int16, "r")
        entry = self._clips[index]
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
        verbose: bool = True,
    ) -> list[tuple[str, str]]:
        """Writes the clips that are not there yet, with a progress bar.

        Args:
            origin: what the clips depend on besides their names.
            names: of all clips, in order.
            clips: given how many of the names are dealt with, iterates over the clips of the
                others in order: arrays [rows, samples], or an error for a clip to be skipped.
            title: what the progress bar says.
            verbose: whether to show progress.

        Returns:
            (name, reason) of all clips skipped, also those of an interrupted filling.

        Raises:
            InputError: if the store belongs to other clips, no clip is usable, or it cannot be
                written.
        """
        try:
            with lock_folder(self.folder, wait=True):
                self._claim({"origin": origin, "names": names})
                self._read_index()  # another process may have gone on with it
                done = len(self._clips) + len(self._skipped)
                if done < len(names):
                    start = f"{title}: {len(names)} clips -> {self.folder}"
                    with Progress(
                        title, len(names), "clip", done, start=start, verbose=verbose
                    ) as progress:
                        self._append(names, done, clips(done), progress)
        except OSError as error:
            raise InputError(f"{self.folder}: could not be written: {error.strerror}") from error
        skipped = [(entry["name"], entry["skipped"]) for entry in self._skipped]
        if not self._clips:
            raise InputError(f"{self.folder}: no usable clip; the first: {skipped[0][1]}")
        return skipped

    def _claim(self, content: dict) -> None:
        path = self.folder / "content.json"
        if not path.exists():
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(content))
        elif json.loads(path.read_text()) != content:
            raise InputError(
                f"{self.folder}: holds other clips, or clips made otherwise or of files that have "
                "changed since; expected a new folder"
            )

    def _append(self, names: list[str], done: int, clips: Iterable, progress: Progress) -> None:
        offset = sum(int(np.prod(entry["shape"])) for entry in self._clips)
        with open(self._samples_path, "ab") as samples, open(self._index_path, "ab") as index:
            samples.truncate(2 * offset)
            index.truncate(self._index_bytes)
            for name, clip in zip(names[done:], clips, strict=True):
                if isinstance(clip, InputError):
                    entry = {"name": name, "skipped": str(clip)}
                else:
                    scale = max(float(np.max(np.abs(clip))), 1e-9) / 32767.0
                    samples.write(np.round(clip / scale).astype(np.int16).tobytes())
                    samples.flush()
                    entry = {
                        "name": name,
                        "shape": list(clip.shape),
                        "offset": offset,
                        "scale": scale,
                    }
                    offset += clip.size
                index.write(json.dumps(entry).encode() + b"\n")
                index.flush()
                self._note(entry)
                progress.update()
