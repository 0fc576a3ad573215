"""Makes a separator of a checkpoint of Google's MixIT models, as a `.keras` file.

sepssl-import-google-checkpoint --checkpoint=PREFIX --output=FILE.keras [--sample_rate=22050]
"""

from absl import flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_string("checkpoint", None, "Path of PREFIX.index without that ending.", required=True)
flags.DEFINE_string("output", None, "File to write, ending in .keras.", required=True)
flags.DEFINE_integer(
    "sample_rate",
    16000,
    "In Hz: 16000 for the YFCC100M model, 22050 for the bird models.",
    lower_bound=1,
)
flags.DEFINE_integer("hop", None, "In samples; 1.25 ms by default.", lower_bound=1)
flags.DEFINE_integer(
    "dilations_per_repeat",
    None,
    "Blocks with dilations 1, 2, 4, ... before they start over; 8 by default.",
    lower_bound=1,
)


def main(argv):
    import pathlib

    from sepssl.errors import InputError
    from sepssl.separation.google_checkpoint import import_google_checkpoint
    from sepssl.serialization import save_model

    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".keras":
        raise InputError(f"{output}: expected a file name that ends in .keras")
    if output.exists():
        raise InputError(f"{output}: exists already; expected a new file")
    separator = import_google_checkpoint(
        FLAGS.checkpoint, FLAGS.sample_rate, FLAGS.hop, FLAGS.dilations_per_repeat
    )
    save_model(separator, output)
    basis, tdcn = separator.basis, separator.tdcn
    print(
        f"{output}: {separator.num_sources} sources at {separator.sample_rate} Hz, frames of "
        f"{basis.frame_length} samples every {basis.hop}, {tdcn.repeats} repeats of "
        f"{tdcn.dilations_per_repeat} blocks, {separator.count_params():,} parameters"
    )


def run():
    run_main(main)


if __name__ == "__main__":
    run()
