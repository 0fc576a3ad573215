"""Separates recordings into channels, ideally of one sound each: one wav file per channel.

sepssl-separate --input=CLIPS --output=DIR [--separator=PATH.keras]

CLIPS is a sound file, a folder of them, a manifest (.csv) of files or parts of files, a prepared
TFDS dataset (tfds:NAME), or built-in or mixed scenes ("scenes", mix:FOLDER).

Example:
  sepssl-separate --input=recordings --output=channels

Results: DIR/NAME_channel1.wav and so on; DIR/summary.csv with the level of each channel,
DIR/intervals.csv with the times at which it is active; for each recording also a selection table
(Raven) and a label track (Audacity). What was skipped is listed at the end.

Next:
  sepssl-embed --separator=small --input=recordings --output=index
"""

import sys

from absl import flags

from sepssl.cli.checks import require_folder_or_new
from sepssl.cli.main import run as run_command
from sepssl.cli.recordings import (
    check_chunk,
    check_speed,
    define_chunk_flag,
    define_recording_flags,
)
from sepssl.data.spec import require_clips
from sepssl.errors import InputError
from sepssl.weights import model_file


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "separator",
        "small",
        "Separator: a .keras file, the name of one that comes with the package, or "
        "hf://OWNER/REPOSITORY.",
        flag_values=values,
    )
    define_recording_flags(values, "separator")
    flags.DEFINE_string(
        "output",
        None,
        "Folder for the channels.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "rate",
        "separator",
        ["separator", "input"],
        "Sample rate of the channels: the separator's, or that of each input.",
        flag_values=values,
    )
    define_chunk_flag(values)
    flags.DEFINE_float(
        "active_db",
        -20.0,
        "A channel is active where its power in 0.1 s is above this, relative to the mean of the "
        "recording.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "min_gap_seconds",
        0.3,
        "Shorter gaps between intervals of activity are closed.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "min_length_seconds",
        0.2,
        "Intervals of activity that are shorter are left out.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "clips", False, "Also write the sound of every interval of activity.", flag_values=values
    )


def check(values: flags.FlagValues) -> None:
    check_speed(values)
    check_chunk(values)
    if not -200 <= values.active_db <= 200:
        raise InputError(f"--active_db={values.active_db}: expected -200 to 200 dB")
    for name in ("min_gap_seconds", "min_length_seconds"):
        value = getattr(values, name)
        if not 0 <= value < float("inf"):
            raise InputError(f"--{name}={value}: expected 0 or more")
    model_file(values.separator, "Separator")
    require_clips(values.input)
    require_folder_or_new(values.output, "to write channels to")


def main(values: flags.FlagValues) -> None:
    import sepssl
    from sepssl.data.clips import report_truncated
    from sepssl.pipelines.activity import Activity
    from sepssl.pipelines.separate import open_recordings, separate_recordings

    separator = sepssl.load_separator(values.separator)
    recordings = open_recordings(
        values.input,
        separator.sample_rate,
        values.output,
        values.data_dir or None,
        values.truncated == "keep",
        values.speed,
    )
    summary = separate_recordings(
        separator,
        recordings,
        values.output,
        keep_input_rate=values.rate == "input",
        chunk_seconds=values.chunk_seconds or None,
        activity=Activity(values.active_db, values.min_gap_seconds, values.min_length_seconds),
        clips=values.clips,
    )
    print(
        f"{values.output}: separated {summary.separated}, there already {summary.found}, "
        f"skipped {len(summary.skipped)}"
    )
    for line in summary.again + summary.skipped + summary.warnings:
        print(f"  {line}")
    report_truncated(summary.truncated)
    if summary.table:
        print(f"levels and activity of the channels: {summary.table}, {summary.intervals}")


def stopped(_: flags.FlagValues) -> str:
    return "channels of finished recordings are kept; repeat the command to continue"


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
