"""The built-in scenes as files: recordings to try things on, with what is heard when."""

import json
import os
import pathlib

import numpy as np

from sepssl.audio.files import write_audio
from sepssl.data.scenes import SceneConfig, generate
from sepssl.errors import InputError
from sepssl.files import atomic_folder, write_csv
from sepssl.pipelines.activity import Activity, ChannelLevels

SETTINGS_FILE = "scenes.json"
ANNOTATIONS_FILE = "annotations.csv"
SPLIT = "files"  # other scenes than those that training and evaluation make


def write_scenes(
    folder: str | os.PathLike, count: int, config: SceneConfig | None = None, seed: int = 0
) -> pathlib.Path:
    """Writes scenes as 16-bit wav files, one folder for each kind of scene.

    A file is named after its number and the sounds in it, as `street/07-siren-dog_bark.wav`.
    `annotations.csv` has a row for each time in which a sound is heard (`Activity`, of the true
    sources), with the columns `file`, `start`, `end` and `label`; `read_annotations` reads it.
    `scenes.json` has the settings. A folder that holds the same scenes already is left as it is.

    Args:
        folder: new, empty, or of an earlier call; it appears whole.
        count: how many scenes, at least 1.
        config: what they are like; None for the defaults, 5 s at 16 kHz.
        seed: integer >= 0.

    Returns:
        The folder.

    Raises:
        InputError: if `count` or `seed` is out of range, or the folder holds anything else.
        OutputError: if it cannot be written.
    """
    if count < 1:
        raise InputError(f"count={count}: expected 1 or more")
    folder = pathlib.Path(folder)
    config = config or SceneConfig()
    settings = json.dumps({"scenes": repr(config), "seed": seed, "count": count}, indent=2) + "\n"
    file = folder / SETTINGS_FILE
    if file.is_file() and file.read_bytes() == settings.encode():
        return folder
    digits = len(str(count - 1))
    rows = []
    with atomic_folder(folder) as temporary:
        for number, scene in enumerate(generate(config, seed, SPLIT, range(count))):
            stem = "-".join([f"{number:0{digits}}", *scene.class_names])
            name = f"{scene.scene_type}/{stem}.wav"
            write_audio(temporary / name, scene.mixture, scene.sample_rate)
            levels = ChannelLevels(scene.num_sources, scene.sample_rate)
            levels.add(scene.sources[: scene.num_sources])
            power = float(np.mean(np.square(scene.mixture, dtype=np.float64)))
            for heard in levels.relative_to(power, Activity())[2]:
                rows.append([name, heard.start, heard.end, scene.class_names[heard.channel - 1]])
        write_csv(temporary / ANNOTATIONS_FILE, ["file", "start", "end", "label"], rows)
        (temporary / SETTINGS_FILE).write_text(settings)
    return folder
