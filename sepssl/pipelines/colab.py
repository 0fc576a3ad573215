"""The recordings that somebody has chosen in the form of a notebook."""

import os
import pathlib

from sepssl.data.scenes import SceneConfig
from sepssl.errors import InputError
from sepssl.pipelines.scenes import write_scenes

DRIVE = "/content/drive"
UPLOAD = "upload"


def chosen_recordings(
    chosen: str, output: str | os.PathLike, scenes: int, config: SceneConfig | None = None
) -> pathlib.Path:
    """Where the recordings lie that a notebook works on.

    In Colab, Drive is mounted if a path lies there.

    Args:
        chosen: a folder or a sound file; "upload" for a dialogue of Colab's to choose files, which
            go to `output/uploaded`, beside those of earlier calls; "" for built-in scenes.
        output: where the notebook's results go, which may be on Drive.
        scenes: how many scenes to write, to `output/scenes`.
        config: of the scenes; None for the defaults.

    Raises:
        InputError, OutputError: as `write_scenes`; InputError also if an upload is asked for
            elsewhere than in Colab.
        ImportError: if Drive is.
    """
    output = pathlib.Path(output)
    if any(pathlib.PurePath(path).is_relative_to(DRIVE) for path in (chosen, output)):
        from google.colab import drive

        drive.mount(DRIVE)
    if chosen == UPLOAD:
        try:
            from google.colab import files
        except ImportError as error:
            raise InputError(
                f"{UPLOAD}: is for Colab; expected a folder or a sound file"
            ) from error
        uploaded = output / "uploaded"
        uploaded.mkdir(parents=True, exist_ok=True)
        files.upload(target_dir=str(uploaded))
        return uploaded
    return pathlib.Path(chosen) if chosen else write_scenes(output / "scenes", scenes, config)
