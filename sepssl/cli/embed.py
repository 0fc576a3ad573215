"""Computes the embeddings of the windows of recordings.

sepssl-embed [--encoder=PATH.keras] --input=CLIPS --output=FILE.npz|.csv|.parquet|INDEX_DIR

CLIPS is a sound file, a folder of them, a manifest (.csv), a prepared TFDS dataset (tfds:NAME), or
built-in or mixed scenes ("scenes", mix:FOLDER).
The output has a row for every window: the recording's name, start and end in seconds, embedding.
With --separator, every audible channel of a window has a row of its own. A folder is an index that
sepssl-search searches and perch-hoplite opens.

A run that was stopped goes on when it is repeated; later, it adds what is new or has changed. For a
file, FILE.journal/ holds all rows for that; it may be removed when the file is complete.

Example:
  sepssl-embed --separator=small --input=recordings --output=index

Results: the file or the index. Recordings that were skipped are listed at the end.

Next:
  sepssl-search --index=index --query=sound.wav --output=found.html
  sepssl-map --index=index --output=map.html
  sepssl-classify suggest --index=index --output=label.html
"""

import sys

from absl import flags

from sepssl.cli.main import run as run_command
from sepssl.cli.recordings import (
    check_speed,
    check_windows,
    define_recording_flags,
    define_window_flags,
)
from sepssl.data.spec import require_clips
from sepssl.weights import model_file, references


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "encoder",
        "small",
        "Encoder: a .keras file, a name (small) or hf://OWNER/REPOSITORY.",
        flag_values=values,
    )
    define_recording_flags(values, "encoder")
    flags.DEFINE_string(
        "output",
        None,
        "File to write, ending in .npz, .csv or .parquet, or folder of an index.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_string(
        "separator",
        "",
        "Separator (a .keras file, a name or hf://OWNER/REPOSITORY), for rows of channels beside "
        "those of recordings.",
        flag_values=values,
    )
    define_window_flags(values)


def check(values: flags.FlagValues) -> None:
    from sepssl.index.output import require_output

    check_speed(values)
    check_windows(values)
    require_output(values.output)
    model_file(values.encoder, "Encoder")
    if values.separator:
        model_file(values.separator, "Separator")
    require_clips(values.input)


def main(values: flags.FlagValues) -> None:
    import sepssl
    from sepssl.data.clips import report_skipped, report_truncated
    from sepssl.data.sources import open_clips
    from sepssl.files import printable
    from sepssl.pipelines.embed import embed_recordings
    from sepssl.progress import counted

    encoder = sepssl.load_encoder(values.encoder)
    separator = sepssl.load_separator(values.separator) if values.separator else None
    clips = open_clips(
        values.input,
        encoder.sample_rate,
        data_dir=values.data_dir or None,
        allow_truncated=values.truncated == "keep",
        speed=values.speed,
    )
    summary = embed_recordings(
        encoder,
        clips,
        values.output,
        separator,
        values.window_seconds,
        values.hop_seconds,
        values.pool,
        values.audible_db,
        references(values.encoder, values.separator),
    )
    report_skipped(summary.skipped)
    report_truncated(summary.truncated)
    for line in summary.warnings:
        print(f"warning: {printable(line)}")
    print(
        f"{values.output}: {counted(summary.rows, 'row')}; embedded "
        f"{counted(summary.embedded, 'recording')}, there already {summary.found}, skipped "
        f"{len(summary.skipped)}"
    )
    if summary.silent:
        print(f"{summary.silent} rows are of windows without sound; their vectors are 0")
    if summary.audio_seconds >= 1:
        rate = summary.audio_seconds / 60 / max(summary.seconds, 1e-3)
        print(f"{summary.audio_seconds / 3600:.2f} hours of sound, {rate:.2f} hours a minute")


def stopped(_: flags.FlagValues) -> str:
    return "what is done is kept; repeat the command to continue"


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
