"""Mixed scenes as files: a folder of mixtures with their sources, laid out as FUSS is."""

import csv
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sepssl.audio.files import write_audio
from sepssl.data.clips import Skipped
from sepssl.data.croissant import FLOAT, TEXT, Column, Files, Table, write_croissant
from sepssl.data.folder import sources_folder
from sepssl.data.labels import LABELS_FILE
from sepssl.data.mixtures import MixedScene, MixtureClips
from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.errors import InputError
from sepssl.files import atomic_file, atomic_folder, in_utf8, lock_folder, writing_to
from sepssl.progress import Progress

SETTINGS_FILE = "mix.json"
_DESCRIPTION = "Sound scenes with their true sources, mixed from recordings of isolated sounds."
_LABELS = Table(
    LABELS_FILE,
    "The labels of each scene.",
    [
        Column("filename", "The mixture."),
        Column("labels", "Of the sources.", separator=";"),
    ],
)
_RECIPE = [
    Column("file", "The source, in NAME_sources.", TEXT, "", "$.sources[*].file"),
    Column("recording", "Where it is from.", TEXT, "", "$.sources[*].recording"),
    Column(
        "start_seconds",
        "Where the part heard begins in it.",
        FLOAT,
        "",
        "$.sources[*].start_seconds",
    ),
    Column(
        "onset_seconds",
        "Where that begins in the scene.",
        FLOAT,
        "",
        "$.sources[*].onset_seconds",
    ),
    Column(
        "level_db",
        "Its level, relative to that of the scene's other sources.",
        FLOAT,
        "",
        "$.sources[*].level_db",
    ),
]
_SPEED = Column("speed", "How fast it was played.", FLOAT, "", "$.sources[*].speed")


class Written(NamedTuple):
    """What a run has done.

    Attributes:
        written, found: scenes that it wrote, and that were there.
        skipped: those that could not be made.
    """

    written: int
    found: int
    skipped: list[Skipped]


def write_mixtures(
    clips: MixtureClips,
    output: str | os.PathLike,
    verbose: bool = True,
    licences: Sequence[str] = (),
) -> Written:
    """Writes scenes and their sources as 16-bit files; repeated, it continues.

    Of a scene, there are `NAME.wav`, `NAME_sources/background0_sound.wav` and
    `NAME_sources/foreground0_sound.wav` and so on, and `NAME.json` with what it was made of. A
    scene is complete when its mixture is there, which comes last. Labels, if there are any, are in
    `labels.csv`, written at the end; `mix.json` has the settings, `croissant.json` describes all.

    Args:
        clips: the scenes.
        output: the folder, new or of an earlier run with the same settings.
        verbose: whether to show progress.
        licences: of the sounds, for `croissant.json`.

    Raises:
        InputError: if the folder holds something else or more scenes, another process is writing
            to it, or no scene can be made.
        OutputError: if it cannot be written.
    """
    output = pathlib.Path(output)
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output, wait=False):
        _require_same_settings(clips, output)
        paths = [output / f"{name.rpartition('/')[2]}.wav" for name in clips.names]
        numbers = [int(path.stem) for path in output.glob("*.wav") if path.stem.isdecimal()]
        if max(numbers, default=0) >= len(paths):
            raise InputError(
                f"{output}: holds scene {max(numbers)}; expected num_scenes={max(numbers) + 1} or "
                "more, or another folder"
            )
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        skipped = []
        start = f"mixing {len(paths)} scenes -> {output}"
        there = len(paths) - len(missing)
        scenes = read_ahead(value_or_error(clips.scene), missing, os.cpu_count() or 1)
        with Progress("mixing", len(paths), "scene", there, start, verbose) as progress:
            for index, scene in zip(missing, scenes, strict=True):
                if isinstance(scene, InputError):
                    skipped.append(Skipped(clips.names[index], str(scene)))
                else:
                    _write_scene(scene, paths[index], clips)
                progress.update()
        if len(skipped) == len(paths):
            raise InputError(f"{output}: no scene could be made; the first: {skipped[0].reason}")
        _write_labels(clips, output, paths)
        write_croissant(output, _DESCRIPTION, [_LABELS], _files(clips), licences)
    return Written(len(missing) - len(skipped), there, skipped)


def _files(clips: MixtureClips) -> list[Files]:
    # Recipes of scenes as recorded have no speeds, and older folders none at all.
    recipe = _RECIPE if clips.config.as_recorded else [*_RECIPE, _SPEED]
    return [
        Files("mixtures", "The sound of each scene.", "[0-9]*[0-9].wav", "audio/wav"),
        Files("sources", "Their true sources, which add up.", "*_sources/*.wav", "audio/wav"),
        Files(
            "recipes",
            "What each source of each scene was made of.",
            "[0-9]*[0-9].json",
            "application/json",
            recipe,
        ),
    ]


def _require_same_settings(clips: MixtureClips, output: pathlib.Path) -> None:
    """Raises InputError if the folder holds anything but scenes of the same settings."""
    keys = [clips.sounds.key(i) for i in range(len(clips.sounds))]
    settings = {
        "origin": clips.origin,
        "sounds": hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16],
        "split": clips.split,
        "seed": clips.seed,
    }
    file = output / SETTINGS_FILE
    if file.exists():
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{file}: cannot be read ({error}); expected settings") from error
        if there != settings:
            raise InputError(
                f"{output}: holds scenes of other settings or sounds; expected the same to "
                "continue, or another folder"
            )
    elif [path for path in output.iterdir() if path.name != ".lock"]:
        raise InputError(
            f"{output}: is not empty, but holds no {SETTINGS_FILE}; expected a new folder, or one "
            "to continue"
        )
    else:
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")


def _write_scene(scene: MixedScene, path: pathlib.Path, clips: MixtureClips) -> None:
    count = len(scene.sources) - scene.background
    names = ["background0_sound.wav"] * scene.background
    names += [f"foreground{number}_sound.wav" for number in range(count)]
    folder = sources_folder(path)
    if not folder.exists():  # it is complete if it is there
        with atomic_folder(folder) as temporary:
            for name, source in zip(names, scene.sources, strict=True):
                write_audio(temporary / name, source, clips.sample_rate)
    made_of: dict[str, Any] = {
        "sources": [
            {
                "file": name,
                "recording": in_utf8(recording),
                "start_seconds": round(start, 6),
                "onset_seconds": round(onset, 6),
                "level_db": round(level, 3),
            }
            for name, recording, start, onset, level in zip(
                names, scene.names, scene.starts, scene.onsets, scene.levels_db, strict=True
            )
        ],
        "room": scene.room and in_utf8(scene.room),
    }
    if not clips.config.as_recorded:
        for source, speed in zip(made_of["sources"], scene.speeds, strict=True):
            source["speed"] = round(speed, 6)
    with atomic_file(path.with_suffix(".json"), overwrite=True) as temporary:
        temporary.write_text(json.dumps(made_of, indent=2) + "\n")
    write_audio(path, scene.mixture, clips.sample_rate)


def _write_labels(clips: MixtureClips, output: pathlib.Path, paths: list[pathlib.Path]) -> None:
    """Writes the labels of those scenes that are there."""
    labels = clips.labels
    if labels is None or clips.class_names is None:
        return
    classes = np.array(clips.class_names, dtype=object)
    with (
        atomic_file(output / LABELS_FILE, overwrite=True) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(["filename", "labels"])
        for path, row in zip(paths, labels, strict=True):
            if path.exists():
                table.writerow([path.name, in_utf8(";".join(classes[np.flatnonzero(row)]))])
