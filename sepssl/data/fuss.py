"""A folder of mixtures with their true sources, laid out as the FUSS dataset is."""

import functools
import os
import pathlib

import numpy as np

from sepssl.audio.files import audio_info, read_audio
from sepssl.data.folder import Folder, fingerprint, list_audio
from sepssl.errors import InputError

SOURCES_SUFFIX = "_sources"
TOLERANCE_SECONDS = 0.1  # our choice: lossy formats pad


class FussFolder:
    """Mixtures `NAME.wav`, each beside a folder `NAME_sources` with a file per source.

    Any format and sample rate is read; sources are as long as their mixture, but for 0.1 s.
    Mixtures that cannot be used, or whose sources cannot, are left out.

    Args:
        directory: the folder; mixtures may lie in subfolders of it.
        sample_rate: in Hz, of the clips read.

    Attributes:
        names: paths of the usable mixtures relative to the folder, sorted.
        skipped: `(path, reason)` of each mixture left out.

    Raises:
        InputError: if no mixture has a folder of sources, or none is usable.

    Reference: Wisdom et al., What's All the FUSS About Free Universal Sound Separation Data?
    (2021).
    """

    def __init__(self, directory: str | os.PathLike, sample_rate: int):
        mixtures = [path for path in list_audio(directory) if _sources_folder(path).is_dir()]
        if not mixtures:
            raise InputError(
                f"{directory}: holds no mixture with sources; expected files NAME.wav, each beside "
                f"a folder NAME{SOURCES_SUFFIX} of its sources"
            )
        folder = Folder(directory, sample_rate, min_duration=0.1, labels=None, files=mixtures)
        self.directory = folder.directory
        self.sample_rate = sample_rate
        self.skipped = folder.skipped
        self.names: list[str] = []
        self._num_samples: list[int] = []
        for index, name in enumerate(folder.names):
            try:
                self._check_sources(self.directory / name)
            except InputError as error:
                self.skipped.append((self.directory / name, str(error)))
            else:
                self.names.append(name)
                self._num_samples.append(folder.num_samples(index))
        if not self.names:
            raise InputError(
                f"{directory}: holds no usable mixture; {len(self.skipped)} skipped, the first: "
                f"{self.skipped[0][1]}"
            )

    def _check_sources(self, mixture: pathlib.Path) -> None:
        duration = audio_info(mixture).duration
        sources = _source_files(mixture)
        if not sources:
            raise InputError(f"{_sources_folder(mixture)}: holds no sound file; expected sources")
        for source in sources:
            found = audio_info(source).duration
            if abs(found - duration) > TOLERANCE_SECONDS:
                raise InputError(
                    f"{source}: is {found:.3f} s long; expected the {duration:.3f} s of its mixture"
                )

    @functools.cached_property
    def origin(self) -> str:
        """What the clips depend on besides their names."""
        mixtures = [self.directory / name for name in self.names]
        files = fingerprint([file for path in mixtures for file in (path, *_source_files(path))])
        directory = self.directory.resolve()
        return f"{directory} with sources at {self.sample_rate} Hz, files {files}"

    def __len__(self) -> int:
        return len(self.names)

    def num_samples(self, index: int) -> int:
        return self._num_samples[index]

    def read(self, index: int) -> np.ndarray:
        """The mixture, float32 [samples]."""
        return read_audio(self.directory / self.names[index], self.sample_rate)

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The mixture, float32 [samples], and its true sources, float32 [count, samples].

        Raises:
            InputError: as `read_audio`; silent sources are none that are broken.
        """
        files = _source_files(self.directory / self.names[index])
        sources = np.zeros((len(files), self._num_samples[index]), np.float32)
        for row, file in zip(sources, files, strict=True):
            source = read_audio(file, self.sample_rate, allow_silence=True)[: len(row)]
            row[: len(source)] = source
        return self.read(index), sources


def without_sources(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Those of some sound files that are not the sources of another one."""
    folders = {_sources_folder(path) for path in paths}
    return [path for path in paths if path.parent not in folders]


def _sources_folder(mixture: pathlib.Path) -> pathlib.Path:
    return mixture.with_name(mixture.stem + SOURCES_SUFFIX)


def _source_files(mixture: pathlib.Path) -> list[pathlib.Path]:
    try:
        return list_audio(_sources_folder(mixture))
    except InputError:
        return []
