"""Evaluates an encoder on labelled clips, or a separator on mixtures.

sepssl-evaluate --encoder=PATH.keras --dataset=CLIPS --output=FILE.json
sepssl-evaluate --separator=PATH.keras --dataset=CLIPS --output=FILE.json

CLIPS is "scenes" (built in), a folder, a manifest (.csv), tfds:NAME[/CONFIG], or mix:FOLDER: scenes
mixed from a folder or manifest of isolated sounds, those of the split or fold to test on.

An encoder is scored by query by example and shallow classifiers. A folder is labelled by its
`labels.csv` (`filename,labels`, labels separated by `;`), by ESC-50's `meta/esc50.csv`, or by the
names of its subfolders; a manifest by its column `labels`. A column `split` (train, validation,
test) or `fold` is followed: of a fold column, the last fold is tested on and the one before it
validates. Without such a column, recordings are split 60/20/20 by a hash of their names.

`tfds:NAME` is a TFDS dataset with sound and labels, one or several per clip, that has been prepared
before: nothing is downloaded. Its own splits are used; those it lacks are taken from its training
split, in the same proportions.

A separator is scored by SI-SNR and its improvement over the mixture (FUSS protocol), beside oracle
masks, on a folder laid out as FUSS is: mixtures NAME.wav, each beside a folder NAME_sources with a
file per source, or on mixed scenes. For any other data, only MoMi is reported, which needs no
sources.
"""

import sys

from absl import flags

from sepssl.cli.checks import require_new_file
from sepssl.cli.main import run as run_command
from sepssl.data.spec import is_path, mixed_sounds, require_clips
from sepssl.errors import InputError
from sepssl.weights import model_file


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("encoder", None, "Encoder, a .keras file.", flag_values=values)
    flags.DEFINE_string(
        "separator", None, "Separator, a .keras file or a name (small).", flag_values=values
    )
    flags.DEFINE_string(
        "dataset",
        None,
        '"scenes" (built in), a folder, a manifest (.csv), "tfds:NAME[/CONFIG]", or "mix:FOLDER".',
        required=True,
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", "", "Folder of TFDS datasets; TFDS's default if empty.", flag_values=values
    )
    flags.DEFINE_string(
        "test_fold",
        "",
        "Encoder or mixed scenes, data with folds: the fold to test on; the last one if empty.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "File to write, ending in .json.", required=True, flag_values=values
    )
    flags.DEFINE_integer(
        "num_clips",
        None,
        "Encoder: number of built-in or mixed scenes in all splits together, 1000 by default, at "
        "least 100; all clips of other datasets are used. Separator: maximum number of clips, by "
        "default 500 scenes or all clips of a folder.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "baselines",
        False,
        "Encoder: also evaluates log-mel statistics and the same network with random weights.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of scenes, queries, classifiers and pairs.",
        lower_bound=0,
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    if bool(values.encoder) == bool(values.separator):
        raise InputError("expected either --encoder or --separator")
    require_new_file(values.output, (".json",))
    if values.baselines and values.separator:
        raise InputError(
            "--baselines: applies to encoders only; a separator's baselines are always reported"
        )
    mixed = mixed_sounds(values.dataset)
    if values.test_fold and not mixed and (values.separator or not is_path(values.dataset)):
        raise InputError("--test_fold: applies to encoders, and to folders and manifests, only")
    if values.data_dir and not values.dataset.startswith("tfds:"):
        raise InputError(
            f"--data_dir: applies to TFDS datasets only, not to --dataset={values.dataset}"
        )
    if values.num_clips and values.encoder and values.dataset != "scenes" and not mixed:
        raise InputError(
            "--num_clips: applies to scenes and separators only; all clips of "
            f"--dataset={values.dataset} are evaluated"
        )
    kind = "encoder" if values.encoder else "separator"
    model_file(getattr(values, kind), kind.capitalize())
    require_clips(values.dataset)


def main(values: flags.FlagValues) -> None:
    import json

    from sepssl.data.clips import report_skipped
    from sepssl.files import atomic_file

    kind = "encoder" if values.encoder else "separator"
    with atomic_file(values.output) as temporary:
        evaluate = _evaluate_encoder if values.encoder else _evaluate_separator
        results, skipped, table = evaluate(values)
        record = {kind: values[kind].value, "dataset": values.dataset, "seed": values.seed}
        temporary.write_text(json.dumps(record | results, indent=2) + "\n")
    report_skipped(skipped)
    print(table)
    print(f"{values.output}: written")


def _evaluate_encoder(values):
    import functools

    import sepssl
    from sepssl.evaluation.baselines import baselines, untrained_like
    from sepssl.evaluation.protocol import evaluate_on
    from sepssl.reports.tables import encoder_table
    from sepssl.representation.embed import embed_recording

    encoder = sepssl.load_encoder(values.encoder)

    def evaluate(embed):
        return evaluate_on(
            values.dataset,
            embed,
            encoder.sample_rate,
            values.num_clips or 1000,
            values.seed,
            values.data_dir or None,
            values.test_fold,
        )

    results, skipped = evaluate(functools.partial(embed_recording, encoder))
    rows = {"encoder": results}
    if values.baselines:
        embeds = baselines(untrained_like(encoder, values.seed))._asdict()
        scores = {name: evaluate(embed)[0] for name, embed in embeds.items()}
        rows |= {name.replace("_", " "): row for name, row in scores.items()}
        results = results | {"baselines": scores}
    return results, skipped, encoder_table(rows)


def _evaluate_separator(values):
    import sepssl
    from sepssl.evaluation.separation import evaluate_separator, format_scores
    from sepssl.reports.tables import few_clips

    separator = sepssl.load_separator(values.separator)
    results, skipped = evaluate_separator(
        separator,
        values.dataset,
        values.num_clips or 0,
        values.seed,
        data_dir=values.data_dir or None,
        test_fold=values.test_fold,
    )
    lines = [f"clips: {results['clips']}"]
    if "scores" in results:
        lines.append(format_scores(results["scores"]))
    if "MoMi" in results:
        lines.append(f"MoMi: {results['MoMi']:.1f} dB")
    return results, skipped, "\n".join([*lines, *few_clips(results["clips"], "clip")])


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
