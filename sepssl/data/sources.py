"""Which clips a string refers to. This is the only place that decides it."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from sepssl.audio.files import check_sample_rate, check_speed
from sepssl.data.clips import Clips, Joined
from sepssl.data.folder import Folder, Select
from sepssl.data.fuss import FussFolder, has_sources
from sepssl.data.labels import with_labels
from sepssl.data.manifest import Manifest
from sepssl.data.mixtures import Mixtures
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.segments import Segments
from sepssl.data.spec import SCENES, TFDS_PREFIX, is_path, mixed_sounds, require_clips
from sepssl.errors import InputError

PART_SECONDS = 10.0  # about: longer isolated sounds are cut before they are mixed; our choice


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Which built-in scenes the string "scenes" refers to.

    Attributes:
        counts: number of scenes by the name of their split.
        seed: of the scenes, 0 or more.
        config: what they are like, except that its sample rate is ignored; None for the default.
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"test": 100})
    seed: int = 0
    config: SceneConfig | None = None

    def open(self, sample_rate: int) -> SceneClips | Joined:
        """The scenes at a sample rate in Hz."""
        config = dataclasses.replace(self.config or SceneConfig(), sample_rate=sample_rate)
        parts = {
            split: SceneClips(config, self.seed, split, count)
            for split, count in self.counts.items()
        }
        return next(iter(parts.values())) if len(parts) == 1 else Joined(parts)


def open_clips(
    spec: str | os.PathLike,
    sample_rate: int,
    *,
    labels: bool = False,
    sources: bool = False,
    min_seconds: float = 0.0,
    scenes: Scenes | None = None,
    mixtures: Mixtures | None = None,
    data_dir: str | os.PathLike | None = None,
    decoder: str = "soundfile",
    select: Select | None = None,
    allow_truncated: bool = False,
    speed: float = 1.0,
) -> Clips:
    """Opens the clips that a string names.

    Args:
        spec: one of

            - "scenes": the built-in scenes (a folder of that name is "./scenes");
            - a sound file;
            - a folder: all sound files in it and its subfolders. Labels come from its `labels.csv`
              (columns `filename` and `labels`, several separated by `;`, and optionally `split` and
              `fold`), else from `meta/esc50.csv` (ESC-50 as it is published), else from the first
              subfolder of each file;
            - a folder laid out like FUSS: mixtures `NAME.wav`, each beside a folder `NAME_sources`
              with a file per source. The mixtures are the clips;
            - a manifest ending in `.csv`, see `Manifest`;
            - "tfds:NAME[/CONFIG][:VERSION]": all splits of a prepared TFDS dataset, see
              `TfdsClips`;
            - "mix:FOLDER": scenes mixed from the isolated sounds of a folder or manifest.
        sample_rate: in Hz, of the clips read.
        labels: whether labels are needed; clips without a row in the labels are then skipped.
        sources: whether to open only the mixtures with true sources, if there are any, for
            `read_with_sources`; `has_sources` of the clips shows whether there are.
        min_seconds: shorter recordings in files are skipped.
        scenes: what "scenes" refers to; None for 100 scenes of the test split.
        mixtures: what "mix:" refers to; None for 100 scenes of the sounds in the test split.
        data_dir: the folder of TFDS datasets; None means TFDS's default.
        decoder: of sound files: "soundfile", "tfio" or "tensorflow", see `read_audio`.
        select: chooses among the recordings of a folder, before any is opened.
        allow_truncated: whether sound files that end early are used as far as they can be decoded,
            see `Clips.truncated`, and not skipped; of a file, a folder or a manifest, not with
            `sources` of a folder laid out like FUSS.
        speed: at which sound files are played, as 0.1 for bats; likewise.

    Returns:
        The clips; `splits` is set if the dataset has splits of its own.

    Raises:
        InputError: if nothing of that name exists or nothing in it is usable, if labels are needed
            and missing, or options do not fit together.

    Example:

        clips = open_clips("recordings", sample_rate=16000)
        waveform = clips.read(0)
    """
    check_sample_rate(sample_rate)
    text = os.fspath(spec)
    require_clips(text)
    check_speed(speed)
    if speed != 1 and not is_path(text):
        raise InputError(f"{text}: is not read from sound files; expected these for a speed")
    if text == SCENES:
        return (scenes or Scenes()).open(sample_rate)
    if text.startswith(TFDS_PREFIX):
        from sepssl.data.tfds_clips import open_tfds  # imports TensorFlow

        dataset = text.removeprefix(TFDS_PREFIX)
        return open_tfds(dataset, sample_rate, data_dir, labels, decoder, sources)
    clips: Clips
    if folder := mixed_sounds(text):
        clips = _open_mixtures(mixtures or Mixtures(), folder, sample_rate, min_seconds, decoder)
        return clips.labelled() if labels else clips
    path = pathlib.Path(text)
    if path.is_dir() and sources and has_sources(path):
        if select or allow_truncated or speed != 1:
            raise InputError(
                f"{text}: is laid out like FUSS, with sources; expected neither a selection nor "
                "truncated files nor a speed"
            )
        clips = FussFolder(path, sample_rate, min_seconds, decoder)
    elif path.is_dir():
        clips = Folder(
            path, sample_rate, min_seconds, None, decoder, select, allow_truncated, speed
        )
    elif path.suffix.lower() == ".csv":
        clips = Manifest(path, sample_rate, min_seconds, decoder, allow_truncated, speed)
    else:
        clips = Folder(
            path.parent, sample_rate, min_seconds, [path], decoder, None, allow_truncated, speed
        )
    return clips.labelled() if labels else clips


def _open_mixtures(
    mixtures: Mixtures, folder: str, sample_rate: int, min_seconds: float, decoder: str
) -> Clips:
    def opened(spec: str) -> Clips:
        return open_clips(spec, sample_rate, min_seconds=min_seconds, decoder=decoder)

    sounds = opened(folder)
    # So that an hour counts as an hour, and no scene has to decode one.
    parts = Segments(with_labels(sounds) or sounds, max(PART_SECONDS, 2 * mixtures.config.duration))
    rooms = mixtures.config.rooms
    return mixtures.open(parts, folder, opened(rooms) if rooms else None)
