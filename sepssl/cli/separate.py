"""Separates recordings into channels that add up to them: one wav file per channel.

sepssl-separate --separator=PATH.keras --input=FILE_OR_DIR --output=DIR
"""

from absl import flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_string("separator", None, "Separator, a .keras file.", required=True)
flags.DEFINE_string("input", None, "A sound file, or a folder of them.", required=True)
flags.DEFINE_string("output", None, "Folder for the channels.", required=True)
flags.DEFINE_enum(
    "rate",
    "separator",
    ["separator", "input"],
    "Sample rate of the channels: the separator's, or that of each input.",
)
flags.DEFINE_float(
    "chunk_seconds",
    30.0,
    "Longer recordings are separated in chunks of this length; 0: every one whole, in memory that "
    "grows with it.",
    lower_bound=0.0,
)


def main(argv):
    import sepssl
    from sepssl.errors import InputError
    from sepssl.pipelines.separate import list_recordings, separate_recordings

    if not (FLAGS.chunk_seconds == 0 or 1 <= FLAGS.chunk_seconds < float("inf")):
        raise InputError(f"--chunk_seconds={FLAGS.chunk_seconds}: expected 1 or more, or 0")
    recordings = list_recordings(FLAGS.input, exclude=FLAGS.output)
    separator = sepssl.load_separator(FLAGS.separator)
    summary = separate_recordings(
        separator,
        recordings,
        FLAGS.output,
        keep_input_rate=FLAGS.rate == "input",
        chunk_seconds=FLAGS.chunk_seconds or None,
    )
    print(
        f"{FLAGS.output}: separated {summary.separated}, there already {summary.found}, "
        f"skipped {len(summary.skipped)}"
    )
    for line in summary.again + summary.skipped:
        print(f"  {line}")
    if summary.table:
        print(f"levels and activity of the channels: {summary.table}")


def run():
    run_main(main)


if __name__ == "__main__":
    run()
