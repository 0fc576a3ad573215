"""Evaluates an encoder on labelled clips: query by example and shallow classifiers.

sepssl-evaluate --encoder=PATH.keras --dataset=scenes|DIR --output=FILE.json

A folder is labelled by its `labels.csv` (`filename,labels`, labels separated by `;`), or by the
names of its subfolders. Its files are split 60/20/20 into training, validation and test clips by
a hash of their names.
"""

from absl import flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_string("encoder", None, "Encoder, a .keras file.", required=True)
flags.DEFINE_string("dataset", None, '"scenes" (built in) or a labelled folder.', required=True)
flags.DEFINE_string("output", None, "File to write, ending in .json.", required=True)
flags.DEFINE_integer(
    "num_clips", 1000, "Clips of the built-in scenes, all splits together.", lower_bound=100
)
flags.DEFINE_integer("seed", 0, "Of scenes, queries and classifiers.", lower_bound=0)


def main(argv):
    import functools
    import json
    import pathlib

    import sepssl
    from sepssl.atomic import atomic_file
    from sepssl.errors import InputError
    from sepssl.evaluation.datasets import evaluate_on
    from sepssl.representation.embed import embed_recording
    from sepssl.training.clips import report_skipped

    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".json":
        raise InputError(f"{output}: expected a file name that ends in .json")
    with atomic_file(output) as temporary:
        encoder = sepssl.load_encoder(FLAGS.encoder)
        results, skipped = evaluate_on(
            FLAGS.dataset,
            functools.partial(embed_recording, encoder),
            encoder.sample_rate,
            FLAGS.num_clips,
            FLAGS.seed,
        )
        record = {"encoder": FLAGS.encoder, "dataset": FLAGS.dataset, "seed": FLAGS.seed} | results
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    report_skipped(skipped)
    print(json.dumps(results, indent=2))
    print(f"{output}: written")


def run():
    run_main(main)


if __name__ == "__main__":
    run()
