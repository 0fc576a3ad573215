"""A folder of mixtures with their true sources, laid out like the FUSS dataset."""

import functools
import os
import pathlib

import numpy as np

from sepssl.audio.files import audio_info, read_audio
from sepssl.data.clips import Skipped
from sepssl.data.folder import (
    Folder,
    file_digest,
    file_stamp,
    list_audio,
    sources_folder,
    without_sources,
)
from sepssl.errors import InputError

TOLERANCE_SECONDS = 0.1  # our choice: lossy formats pad


class FussFolder(Folder):
    """Mixtures `NAME.wav`, each beside a folder `NAME_sources` with a file per source.

    Any format and sample rate is read; a source must be as long as its mixture, to within 0.1 s.
    A mixture is left out if it, or one of its sources, is unusable.

    Args:
        directory: the folder; mixtures may lie in subfolders of it.
        sample_rate: in Hz, of the clips read.
        min_duration: shortest mixture taken, in seconds.
        decoder: name of the decoder, see `read_audio`.

    Attributes:
        names: paths of the usable mixtures relative to the folder, sorted.

    Raises:
        InputError: if no mixture has a folder of sources, or none is usable.

    Reference: Wisdom et al., What's All the FUSS About Free Universal Sound Separation Data?
    (2021).
    """

    has_sources = True

    def __init__(
        self,
        directory: str | os.PathLike,
        sample_rate: int,
        min_duration: float = 0.1,
        decoder: str = "soundfile",
    ):
        mixtures = _mixtures(directory)
        if not mixtures:
            raise InputError(
                f"{directory}: holds no mixture with sources; expected files NAME.wav, each beside "
                "a folder NAME_sources with its sources"
            )
        super().__init__(directory, sample_rate, min_duration, mixtures, decoder)
        self._sources: list[list[pathlib.Path]] = []
        usable = []
        for index, name in enumerate(self.names):
            seconds = self.num_samples(index) / self.sample_rate
            try:
                self._sources.append(_checked_sources(self.path(index), seconds))
            except InputError as error:
                self.skipped.append(Skipped(name, str(error)))
            else:
                usable.append(index)
        self._keep(usable)
        if not self.names:
            raise InputError(
                f"{directory}: holds no usable mixture; {len(self.skipped)} skipped, the first: "
                f"{self.skipped[0].reason}"
            )

    @functools.cached_property
    def origin(self) -> str:
        return f"{self.directory.resolve()} with sources {self._how}"

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The mixture, float32 [samples], and its true sources, float32 [count, samples].

        Raises:
            InputError: as `read_audio`; a source may be silent.
        """
        files = self._sources[index]
        sources = np.zeros((len(files), self.num_samples(index)), np.float32)
        for row, file in zip(sources, files, strict=True):
            source = read_audio(file, self.sample_rate, allow_silence=True, decoder=self.decoder)[
                : len(row)
            ]
            row[: len(source)] = source
        return self.read(index), sources

    def files(self, index: int) -> list[pathlib.Path]:
        return [self.path(index), *self._sources[index]]

    def stamp(self, index: int) -> str:
        return " ".join([super().stamp(index), *map(file_stamp, self._sources[index])])

    def key(self, index: int) -> str:
        digests = [file_digest(file, file_stamp(file)) for file in self._sources[index]]
        return " ".join([super().key(index), *digests])


def has_sources(directory: str | os.PathLike) -> bool:
    """Whether a folder of sound files contains a mixture with sources.

    Raises:
        InputError: as `list_audio`.
    """
    return bool(_mixtures(directory))


def _mixtures(directory: str | os.PathLike) -> list[pathlib.Path]:
    return [
        path for path in without_sources(list_audio(directory)) if sources_folder(path).is_dir()
    ]


def _checked_sources(mixture: pathlib.Path, seconds: float) -> list[pathlib.Path]:
    try:
        sources = list_audio(sources_folder(mixture))
    except InputError as error:
        raise InputError(
            f"{sources_folder(mixture)}: holds no sound file; expected sources"
        ) from error
    for source in sources:
        found = audio_info(source).duration
        if abs(found - seconds) > TOLERANCE_SECONDS:
            raise InputError(
                f"{source}: is {found:.3f} s long; expected the {seconds:.3f} s of its mixture"
            )
    return sources
