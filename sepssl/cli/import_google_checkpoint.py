"""Makes a separator of a checkpoint of Google's MixIT models, as a `.keras` file.

sepssl-import-google-checkpoint --checkpoint=PREFIX --output=FILE.keras [--sample_rate=22050]

Example:
  sepssl-import-google-checkpoint --checkpoint=model.ckpt-3223090 --output=google.keras

Results: one .keras file, which every --separator takes.

Next:
  sepssl-separate --separator=google.keras --input=recordings --output=channels
"""

import pathlib
import sys

from absl import flags

from sepssl.cli.checks import require_new_file
from sepssl.cli.main import run as run_command
from sepssl.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Path of PREFIX.index without that ending.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "File to write, ending in .keras.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "sample_rate",
        16000,
        "In Hz: 16000 for the YFCC100M model, 22050 for the bird models.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "hop", None, "In samples; 1.25 ms by default.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "dilations_per_repeat",
        None,
        "Blocks with dilations 1, 2, 4, ... before they start over; 8 by default.",
        lower_bound=1,
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    require_new_file(values.output, (".keras",))
    prefix = values.checkpoint
    for suffix in (".index", ".meta", ".data-00000-of-00001"):
        prefix = prefix.removesuffix(suffix)
    if not pathlib.Path(f"{prefix}.index").is_file():
        raise InputError(
            f"{prefix}: not a TensorFlow checkpoint; expected the path of PREFIX.index and "
            "PREFIX.data-... without these endings"
        )


def main(values: flags.FlagValues) -> None:
    from sepssl.separation.google_checkpoint import import_google_checkpoint
    from sepssl.serialization import save_model

    separator = import_google_checkpoint(
        values.checkpoint, values.sample_rate, values.hop, values.dilations_per_repeat
    )
    save_model(separator, values.output)
    basis, tdcn = separator.basis, separator.tdcn
    print(
        f"{values.output}: {separator.num_sources} sources at {separator.sample_rate} Hz, frames "
        f"of {basis.frame_length} samples every {basis.hop}, {tdcn.repeats} repeats of "
        f"{tdcn.dilations_per_repeat} blocks, {separator.count_params():,} parameters"
    )


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
