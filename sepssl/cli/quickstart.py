"""A first look at recordings: separated, embedded, searched, mapped, trained on; one page shows it.

sepssl-quickstart --workdir=DIR [--input=CLIPS]
sepssl-quickstart --workdir=DIR --from_scratch [--preset=default|smoke]

CLIPS is a folder, a sound file, a manifest (.csv) or tfds:NAME; without it, built-in scenes. Up to
60 excerpts of 5 s are used, with the models that come with the package. About 2 minutes on 2 cores.
A run that was stopped goes on when it is repeated.

--from_scratch runs the whole method on the built-in scenes instead: it trains a separator and two
encoders, compares them with baselines, exports one of them, and writes a report.

Example:
  sepssl-quickstart --workdir=first-look --input=recordings

Results: DIR/index.html, to open in a browser, and beside it the excerpts, their channels, the
index, the map and both trained models.

Next, on all of the recordings (the page has these commands too):
  sepssl-separate --input=recordings --output=channels
  sepssl-embed --separator=small --input=recordings --output=index
"""

import sys

from absl import flags

from sepssl.cli.checks import require_folder_or_new
from sepssl.cli.main import prefer_onednn
from sepssl.cli.main import run as run_command
from sepssl.data.spec import FORMS, require_clips
from sepssl.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run, new or to be continued.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_string(
        "input",
        "scenes",
        f"The recordings: {FORMS}.",
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", "", "Folder of TFDS datasets; TFDS's default if empty.", flag_values=values
    )
    flags.DEFINE_boolean(
        "from_scratch",
        False,
        "Train everything from nothing on the built-in scenes.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "preset",
        "default",
        ["default", "smoke"],
        "Of --from_scratch. default: 3 to 7 minutes on 2 cores; smoke: under 3, and its "
        "numbers mean nothing.",
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    if values.from_scratch and values.input != "scenes":
        raise InputError("--from_scratch: applies to the built-in scenes only, not to --input")
    if values.preset != "default" and not values.from_scratch:
        raise InputError(f"--preset={values.preset}: applies to --from_scratch only")
    if values.input != "scenes":
        require_clips(values.input)
    require_folder_or_new(values.workdir, "for the run")
    if values.from_scratch:
        prefer_onednn()  # before TensorFlow is imported


def main(values: flags.FlagValues) -> None:
    if values.from_scratch:
        _from_scratch(values)
        return
    from sepssl.configs.quickstart import get_config
    from sepssl.pipelines.quickstart import quickstart

    config = get_config()
    config.update(input=values.input, data_dir=values.data_dir)
    paths = quickstart(config, values.workdir)
    print("\nOpen in a browser:")
    print(f"  {paths.page}")
    print("What it shows:")
    print(f"  excerpts     {paths.recordings}")
    print(f"  channels     {paths.separated}")
    print(f"  index        {paths.index}")
    print(f"  map          {paths.map}")
    for name, folder in (("separator", paths.separator), ("encoder", paths.encoder)):
        if (folder / "final.keras").exists():
            print(f"  {name:<12} {folder / 'final.keras'}")


def _from_scratch(values: flags.FlagValues) -> None:
    import json

    from sepssl.configs.from_scratch import get_config
    from sepssl.pipelines.from_scratch import train_from_scratch

    paths = train_from_scratch(get_config(values.preset), values.workdir)
    record = json.loads(paths.metrics.read_text())
    print(f"\n{'':<20} {'QbE mAP':>8} {'linear':>8} {'mlp':>8}   (a demonstration, one seed)")
    for name, row in record["results"].items():
        print(f"{name:<20} {row['qbe_map']:8.3f} {row['linear_map']:8.3f} {row['mlp_map']:8.3f}")
    print(f"\n{sum(record['seconds'].values()):.0f} seconds. Results:")
    print(f"  page         {paths.page}")
    print(f"  metrics      {paths.metrics}")
    print(f"  SavedModel   {paths.saved_model}")
    print(f"  TF Lite      {paths.tflite / 'encoder.tflite'}")
    print(f"  separator    {paths.separator / 'final.keras'}")
    print(f"  encoders     {paths.encoder}/*/final.keras")


def stopped(_: flags.FlagValues) -> str:
    return "finished parts are kept; repeat the command to continue"


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
