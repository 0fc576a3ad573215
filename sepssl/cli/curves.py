"""Draws how metrics went over the steps of runs.

sepssl-curves --runs=DIR[,DIR...] --metrics=validation/SI-SNRi_2,validation/MoMi --output=FILE.png

Example:
  sepssl-curves --runs=separator --metrics=loss,validation/MoMi --output=curves.png

Results: one picture, with a panel for each metric. DIR/report.html of a finished run has the usual
ones.

Next:
  sepssl-train --config=separator_small --workdir=another
"""

import pathlib
import sys

from absl import flags

from sepssl.cli.checks import require_new_file
from sepssl.cli.main import run as run_command
from sepssl.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list("runs", None, "Folders of runs.", required=True, flag_values=values)
    flags.DEFINE_list(
        "metrics", None, "Names in their metrics.jsonl.", required=True, flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "Picture to write, ending in .png, .svg or .pdf.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    require_new_file(values.output, (".png", ".svg", ".pdf"))
    for folder in values.runs:
        if not pathlib.Path(folder, "metrics.jsonl").is_file():
            raise InputError(f"{folder}: has no metrics.jsonl; expected the folder of a run")


def main(values: flags.FlagValues) -> None:
    from sepssl.reports.curves import draw_curves

    draw_curves(values.runs, values.metrics, values.output)
    print(f"{values.output}: written")


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
