"""Evaluates an encoder on labelled clips, or a separator on mixtures.

sepssl-evaluate --encoder=PATH.keras --dataset=scenes|DIR|tfds:NAME[/CONFIG] --output=FILE.json
sepssl-evaluate --separator=PATH.keras --dataset=scenes|DIR --output=FILE.json

An encoder is scored by query by example and shallow classifiers. A folder is labelled by its
`labels.csv` (`filename,labels`, labels separated by `;`), or by the names of its subfolders. Its
files are split 60/20/20 into training, validation and test clips by a hash of their names.

`tfds:NAME` is a TFDS dataset with sound and labels, one or several a clip, that was prepared before
(`tfds build NAME`): nothing is downloaded. Its own splits are used; those it lacks are taken out of
its training split, in the same proportions.

A separator is scored by SI-SNR and its improvement over the mixture (FUSS protocol), beside oracle
masks, on a folder laid out as FUSS is: mixtures NAME.wav, each beside a folder NAME_sources with a
file per source. Of any other folder, MoMi is told, which needs no sources.
"""

from absl import flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_string("encoder", None, "Encoder, a .keras file.")
flags.DEFINE_string("separator", None, "Separator, a .keras file.")
flags.mark_flags_as_mutual_exclusive(["encoder", "separator"], required=True)
flags.DEFINE_string(
    "dataset",
    None,
    '"scenes" (built in), a folder, or for an encoder "tfds:NAME[/CONFIG]".',
    required=True,
)
flags.DEFINE_string("data_dir", "", "Of TFDS datasets; TFDS's own default if empty.")
flags.DEFINE_string("output", None, "File to write, ending in .json.", required=True)
flags.DEFINE_integer(
    "num_clips",
    None,
    "Encoder: built-in scenes in all splits together, 1000 by default, at least 100; of other "
    "datasets, all clips are taken. Separator: clips at most, 500 scenes or all of a folder by "
    "default.",
    lower_bound=1,
)
flags.DEFINE_boolean(
    "baselines",
    False,
    "Encoder: also evaluates log-mel statistics and the same network with random weights.",
)
flags.DEFINE_integer("seed", 0, "Of scenes, queries, classifiers and pairs.", lower_bound=0)


def main(argv):
    import json
    import pathlib

    from sepssl.data.sources import report_skipped
    from sepssl.errors import InputError
    from sepssl.files import atomic_file

    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".json":
        raise InputError(f"{output}: expected a file name that ends in .json")
    if FLAGS.baselines and FLAGS.separator:
        raise InputError("--baselines: is for encoders; a separator's baselines are always told")
    if FLAGS.data_dir and not FLAGS.dataset.startswith("tfds:"):
        raise InputError(f"--data_dir: is for TFDS datasets; --dataset={FLAGS.dataset} is none")
    if FLAGS.num_clips and FLAGS.encoder and FLAGS.dataset != "scenes":
        raise InputError(
            f"--num_clips: is for scenes or separators; of --dataset={FLAGS.dataset} all clips are "
            "evaluated"
        )
    with atomic_file(output) as temporary:
        kind = "encoder" if FLAGS.encoder else "separator"
        evaluate = _evaluate_encoder if FLAGS.encoder else _evaluate_separator
        results, skipped, shown = evaluate()
        record = {kind: FLAGS[kind].value, "dataset": FLAGS.dataset, "seed": FLAGS.seed} | results
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    report_skipped(skipped)
    print(shown)
    print(f"{output}: written")


def _evaluate_encoder():
    import functools
    import json

    import keras

    import sepssl
    from sepssl.evaluation.baselines import log_mel_statistics
    from sepssl.evaluation.protocol import evaluate_on
    from sepssl.representation import Encoder
    from sepssl.representation.embed import embed_recording

    encoder = sepssl.load_encoder(FLAGS.encoder)

    def evaluate(embed):
        return evaluate_on(
            FLAGS.dataset,
            embed,
            encoder.sample_rate,
            FLAGS.num_clips or 1000,
            FLAGS.seed,
            FLAGS.data_dir or None,
        )

    results, skipped = evaluate(functools.partial(embed_recording, encoder))
    if FLAGS.baselines:
        keras.utils.set_random_seed(FLAGS.seed)
        untrained = Encoder.from_config(encoder.get_config())
        baselines = {
            "log_mel_statistics": functools.partial(log_mel_statistics, encoder.log_mel),
            "untrained_encoder": functools.partial(embed_recording, untrained),
        }
        results["baselines"] = {name: evaluate(embed)[0] for name, embed in baselines.items()}
    return results, skipped, json.dumps(results, indent=2)


def _evaluate_separator():
    import sepssl
    from sepssl.evaluation.separation import evaluate_separator, format_scores

    separator = sepssl.load_separator(FLAGS.separator)
    results, skipped = evaluate_separator(
        separator, FLAGS.dataset, FLAGS.num_clips or 0, FLAGS.seed
    )
    lines = [format_scores(results["scores"])] if "scores" in results else []
    if "MoMi" in results:
        lines.append(f"MoMi: {results['MoMi']:.1f} dB")
    return results, skipped, "\n".join(lines)


def run():
    run_main(main)


if __name__ == "__main__":
    run()
