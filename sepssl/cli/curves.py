"""Draws how metrics went over the steps of runs.

sepssl-curves --runs=DIR[,DIR...] --metrics=validation/SI-SNRi_2,validation/MoMi --output=FILE.png
"""

from absl import flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_list("runs", None, "Folders of runs.", required=True)
flags.DEFINE_list("metrics", None, "Names in their metrics.jsonl.", required=True)
flags.DEFINE_string("output", None, "Picture to write: .png, .svg or .pdf.", required=True)


def main(argv):
    from sepssl.errors import InputError
    from sepssl.reports.curves import draw_curves

    if not FLAGS.output.endswith((".png", ".svg", ".pdf")):
        raise InputError(f"{FLAGS.output}: expected a file name that ends in .png, .svg or .pdf")
    draw_curves(FLAGS.runs, FLAGS.metrics, FLAGS.output)
    print(f"{FLAGS.output}: written")


def run():
    run_main(main)


if __name__ == "__main__":
    run()
