"""Mixes scenes with known sources from a folder of isolated sounds, laid out as FUSS is.

sepssl-mix --input=FOLDER --output=DIR [--num_scenes=1000] [--folds=1,2,3]

FOLDER is a folder, or a manifest (.csv), of recordings with one sound each, labelled by its
`labels.csv`, by the names of its subfolders, or not at all. The sources of a scene have different
labels; unlabelled ones are different recordings. Writes NAME.wav, NAME_sources with a file per
source, NAME.json, which says what it was made of, and `labels.csv`. Scenes are a function of the
seed; repeated, the command continues where it was stopped, and more scenes can be added.

No recording is in two splits: a column `split` or `fold` is followed (of folds, the last is for
testing and the one before it for validation), otherwise recordings are split 60/20/20 by a hash of
their names.

Example:
  sepssl-mix --input=sounds --num_scenes=1000 --output=scenes

Results: scenes with their sources in DIR. What was skipped is listed at the end.

Next:
  sepssl-evaluate --separator=small --dataset=scenes --output=scores.json
  sepssl-train --config=separator_small --workdir=separator --config.data.directory=scenes
"""

import pathlib
import sys
from typing import Any

from absl import flags

from sepssl.cli.checks import require_folder_or_new
from sepssl.cli.main import run as run_command
from sepssl.data.spec import MIX_PREFIX, comma_separated, require_clips
from sepssl.errors import InputError

TENSORFLOW = False


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "input",
        None,
        "A folder of isolated sounds, or a manifest (.csv).",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "Folder for the scenes.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_integer("num_scenes", 1000, "Scenes.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the scenes.", lower_bound=0, flag_values=values)
    flags.DEFINE_enum(
        "split",
        "train",
        ["train", "validation", "test"],
        "Whose recordings are mixed.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "folds",
        "",
        "Folds whose recordings are mixed, with commas; in place of those of the split.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "sample_rate", 16000, "Of the scenes, in Hz.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float("seconds", 4.0, "Length of a scene.", flag_values=values)
    flags.DEFINE_list(
        "source_count_probabilities",
        ["0.2", "0.3", "0.3", "0.2"],
        "Probabilities of 1, 2, ... sources in a scene.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "part_seconds",
        ["1", "4"],
        "Shortest and longest part of a sound that is heard, in seconds.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "level_range_db",
        ["-12", "6"],
        "Lowest and highest level of a sound, in dB.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "speed_range",
        ["1", "1"],
        "Lowest and highest speed at which a sound is played, which changes its pitch.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "groups",
        0,
        "Groups of classes to draw; the classes of a scene are of one group. 0: any classes.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer("group_size", 8, "Classes in a group.", lower_bound=1, flag_values=values)
    flags.DEFINE_list(
        "backgrounds",
        [],
        "Labels of sounds that are heard throughout; each scene has one of them.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "background_range_db",
        ["-12", "0"],
        "Lowest and highest level of such a sound, in dB.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "rooms",
        "",
        "Folder of room responses; each scene is heard in one of them.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "microphone",
        False,
        "Gives each scene a random smooth frequency response.",
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    require_clips(MIX_PREFIX + values.input)
    if values.rooms:
        require_clips(values.rooms)
    _config(values)
    require_folder_or_new(values.output, "to write scenes to")
    if pathlib.Path(values.output).resolve().is_relative_to(pathlib.Path(values.input).resolve()):
        raise InputError(
            f"--output={values.output}: lies in --input={values.input}, where scenes would be "
            "taken for isolated sounds; expected a folder elsewhere"
        )


def main(values: flags.FlagValues) -> None:
    from sepssl.data.clips import report_skipped
    from sepssl.data.croissant import licences_of
    from sepssl.data.mixtures import MixtureClips, Mixtures
    from sepssl.data.sources import open_clips
    from sepssl.pipelines.mix import write_mixtures

    folds = comma_separated(values.folds)
    mixtures = Mixtures(
        {values.split: values.num_scenes},
        values.seed,
        _config(values),
        folds={values.split: folds} if folds else {},
    )
    clips = open_clips(
        MIX_PREFIX + values.input, values.sample_rate, min_seconds=0.1, mixtures=mixtures
    )
    assert isinstance(clips, MixtureClips)  # a single split
    done = write_mixtures(clips, values.output, licences=licences_of(values.input))
    report_skipped([*clips.skipped, *done.skipped])
    print(f"{values.output}: mixed {done.written}, there already {done.found}")


def _config(values: flags.FlagValues):
    from sepssl.data.mixtures import MixtureConfig

    return MixtureConfig(
        sample_rate=values.sample_rate,
        duration=values.seconds,
        source_count_probabilities=_numbers(values, "source_count_probabilities"),
        part_seconds=_numbers(values, "part_seconds"),
        level_range_db=_numbers(values, "level_range_db"),
        speed_range=_numbers(values, "speed_range"),
        groups=values.groups,
        group_size=values.group_size,
        backgrounds=tuple(values.backgrounds),
        background_range_db=_numbers(values, "background_range_db"),
        rooms=values.rooms,
        microphone=values.microphone,
    )


def _numbers(values: flags.FlagValues, flag: str) -> tuple[Any, ...]:
    texts = list(values[flag].value or ())
    try:
        return tuple(map(float, texts))
    except ValueError as error:
        raise InputError(
            f"--{flag}={','.join(texts)}: expected numbers, with commas between them"
        ) from error


def stopped(_: flags.FlagValues) -> str:
    return "finished scenes are kept; repeat the command to continue"


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
