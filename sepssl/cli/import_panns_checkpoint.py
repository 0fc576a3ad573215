"""Makes an encoder of a checkpoint of PANNs' CNN14, as a `.keras` file.

sepssl-import-panns-checkpoint --checkpoint=FILE.pth --output=FILE.keras

Example:
  sepssl-import-panns-checkpoint --checkpoint=Cnn14_16k_mAP=0.438.pth --output=cnn14.keras

Results: one .keras file, which every --encoder takes.

Next:
  sepssl-embed --encoder=cnn14.keras --input=recordings --output=index
"""

import pathlib
import sys

from absl import flags

from sepssl.cli.checks import require_new_file
from sepssl.cli.main import run as run_command
from sepssl.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "checkpoint", None, "PyTorch's file, as released.", required=True, flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "File to write, ending in .keras.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    require_new_file(values.output, (".keras",))
    if not pathlib.Path(values.checkpoint).is_file():
        raise InputError(
            f"{values.checkpoint}: no such file; expected a PyTorch checkpoint of PANNs' CNN14"
        )


def main(values: flags.FlagValues) -> None:
    from sepssl.representation.panns_checkpoint import import_panns
    from sepssl.serialization import save_model

    encoder = import_panns(values.checkpoint)
    save_model(encoder, values.output)
    print(
        f"{values.output}: embeddings of {encoder.embedding_size} at {encoder.sample_rate} Hz, "
        f"{encoder.log_mel.bands} mel bands, {encoder.count_params():,} parameters"
    )


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
