"""Runs the whole pipeline on the built-in scenes and writes a report.

sepssl-quickstart --workdir=DIR [--preset=default|smoke]
"""

import sys

from absl import flags

from sepssl.cli.checks import require_folder_or_new
from sepssl.cli.main import run as run_command


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run, new or to be continued.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "preset",
        "default",
        ["default", "smoke"],
        "default: at most 10 minutes on 2 cores; smoke: under 3, and its numbers mean nothing.",
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    require_folder_or_new(values.workdir, "for the run")


def main(values: flags.FlagValues) -> None:
    import json

    from sepssl.configs.quickstart import get_config
    from sepssl.pipelines.quickstart import quickstart

    paths = quickstart(get_config(values.preset), values.workdir)
    record = json.loads(paths.metrics.read_text())
    print(f"\n{'':<20} {'QbE mAP':>8} {'linear':>8} {'mlp':>8}   (a demonstration, one seed)")
    for name, row in record["results"].items():
        print(f"{name:<20} {row['qbe_map']:8.3f} {row['linear_map']:8.3f} {row['mlp_map']:8.3f}")
    print(f"\n{sum(record['seconds'].values()):.0f} seconds. Results:")
    print(f"  report       {paths.report / 'index.html'}")
    print(f"  metrics      {paths.metrics}")
    print(f"  SavedModel   {paths.saved_model}")
    print(f"  TF Lite      {paths.tflite / 'encoder.tflite'}")
    print(f"  separator    {paths.separator / 'final.keras'}")
    print(f"  encoders     {paths.root / 'encoders'}/*/final.keras")


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
