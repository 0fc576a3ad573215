"""Evaluates an encoder on labelled clips, or a separator on mixtures.

sepssl-evaluate --encoder=PATH.keras --dataset=CLIPS --output=FILE.json
sepssl-evaluate --encoder=PATH.keras --dataset=FOLDER --protocol=folds --output=FILE.json
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

--protocol=folds is that of ESC-50, for folders and manifests of one class per clip with a column
`fold`: each fold tests a logistic regression that was trained on all others; the accuracy is the
mean over folds. Its regularization and, of several in --pooling, the pooling of a clip's windows
are chosen by cross-validation without the fold that tests.

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
    flags.DEFINE_enum(
        "protocol",
        "splits",
        ["splits", "folds"],
        "Encoder: query by example and shallow classifiers on one split, or the accuracy over all "
        "folds in turn.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "pooling",
        ["mean"],
        "Protocol folds: what a clip's vector is of those of its windows; of several, the best on "
        "the folds trained on: mean, mean_max (both, one after the other), mean_max_std.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "subset",
        "",
        "Protocol folds: only clips that have the value true in this column of the labels, such as "
        "esc10.",
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
    if values.protocol == "folds":
        _check_folds(values)
    else:
        for name in ("pooling", "subset"):
            if values[name].present:
                raise InputError(f"--{name}: applies to --protocol=folds only")
    kind = "encoder" if values.encoder else "separator"
    model_file(getattr(values, kind), kind.capitalize())
    require_clips(values.dataset)


def _check_folds(values: flags.FlagValues) -> None:
    from sepssl.evaluation.folds import POOLINGS

    if values.separator:
        raise InputError("--protocol=folds: applies to encoders only, not to separators")
    if not is_path(values.dataset):
        raise InputError(
            f"--dataset={values.dataset}: expected a folder or a manifest with folds for "
            "--protocol=folds"
        )
    if values.test_fold:
        raise InputError("--test_fold: does not apply to --protocol=folds, which tests on each")
    for name in values.pooling:
        if name not in POOLINGS:
            raise InputError(f"--pooling: {name!r}: expected some of {', '.join(POOLINGS)}")
    if not values.pooling:
        raise InputError(f"--pooling: expected some of {', '.join(POOLINGS)}")


def main(values: flags.FlagValues) -> None:
    import json

    from sepssl.data.clips import report_skipped
    from sepssl.files import atomic_file

    kind = "encoder" if values.encoder else "separator"
    with atomic_file(values.output) as temporary:
        if values.separator:
            evaluate = _evaluate_separator
        else:
            evaluate = _evaluate_folds if values.protocol == "folds" else _evaluate_encoder
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


def _evaluate_folds(values):
    import keras
    import sklearn
    import tensorflow as tf

    import sepssl
    from sepssl.data.folds import open_fold_clips
    from sepssl.evaluation.baselines import log_mel_statistics, untrained_like
    from sepssl.evaluation.folds import window_statistics
    from sepssl.evaluation.protocol import evaluate_on_folds
    from sepssl.reports.tables import folds_table
    from sepssl.representation.embed import embed_clips, embed_patches
    from sepssl.training.start import file_digest

    encoder = sepssl.load_encoder(values.encoder)
    found = open_fold_clips(values.dataset, encoder.sample_rate, values.subset)

    def evaluate(name, embed, poolings):
        statistics, indices, unread = embed_clips(embed, found.clips, f"{values.dataset}, {name}")
        return evaluate_on_folds(found, statistics, indices, poolings), unread

    def patches_of(encoder):
        return lambda waveform: window_statistics(embed_patches(encoder, waveform))

    results, unread = evaluate("encoder", patches_of(encoder), values.pooling)
    rows = {"encoder": results}
    if values.baselines:
        untrained = untrained_like(encoder, values.seed)
        scores = {
            # One vector for a clip: there is nothing to pool.
            "log_mel_statistics": evaluate(
                "log-mel statistics",
                lambda waveform: log_mel_statistics(untrained.log_mel, waveform)[None],
                ["mean"],
            )[0],
            "untrained_encoder": evaluate(
                "untrained encoder", patches_of(untrained), values.pooling
            )[0],
        }
        rows |= {name.replace("_", " "): row for name, row in scores.items()}
        results = results | {"baselines": scores}
    about = {
        "protocol": "folds",
        "subset": values.subset or None,
        "poolings": values.pooling,
        "sha256": file_digest(model_file(values.encoder, "Encoder")),
        "versions": {
            "sepssl": sepssl.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    title = f"{values.dataset}, {values.subset}" if values.subset else values.dataset
    return about | results, [*found.clips.skipped, *unread], folds_table(rows, title)


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
