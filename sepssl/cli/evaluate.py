"""Evaluates an encoder on labelled clips, or a separator on mixtures.

sepssl-evaluate --encoder=PATH.keras --dataset=CLIPS --output=FILE.json
sepssl-evaluate --encoder=PATH.keras --dataset=FOLDER --protocol=folds --output=FILE.json
sepssl-evaluate --saved_model=FOLDER --dataset=FOLDER --protocol=folds --output=FILE.json
sepssl-evaluate --embeddings=PATH.npz --dataset=FOLDER --protocol=folds --output=FILE.json
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
are chosen by cross-validation without the fold that tests. --log_mel puts the statistics of the
clip's log-mel frames beside those of its embeddings. With {fold} in --encoder, each fold is tested
with the encoder of its name, as in --encoder='/tmp/fold-{fold}/final.keras': one that has been
trained without its sounds.

A separator is scored by SI-SNR and its improvement over the mixture (FUSS protocol), beside oracle
masks, on a folder laid out as FUSS is: mixtures NAME.wav, each beside a folder NAME_sources with a
file per source, or on mixed scenes. For any other data, only MoMi is reported, which needs no
sources.

Example:
  sepssl-evaluate --encoder=small --dataset=labelled --baselines --output=scores.json

Results: a table on the terminal, and FILE.json with all numbers and what they were made from.

Next:
  sepssl-export --encoder=small --output=saved_model
"""

import os
import sys
from collections.abc import Callable

from absl import flags

from sepssl.cli.checks import require_exists, require_new_file
from sepssl.cli.main import run as run_command
from sepssl.data.spec import is_path, mixed_sounds, require_clips
from sepssl.errors import InputError
from sepssl.weights import model_file

_MODELS = ("encoder", "separator", "saved_model", "embeddings")
_OF_SAVED_MODEL = ("sample_rate", "signature", "model_output")


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "encoder",
        None,
        "Encoder: a .keras file, a name (small) or hf://OWNER/REPOSITORY. Protocol folds: with "
        "{fold} in it, an encoder for each fold tested on.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "separator",
        None,
        "Separator: a .keras file, a name (small) or hf://OWNER/REPOSITORY.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "dataset",
        None,
        '"scenes" (built in), a folder, a manifest (.csv), "tfds:NAME[/CONFIG]", or "mix:FOLDER".',
        required=True,
        allow_overwrite=False,
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
        "output",
        None,
        "File to write, ending in .json.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
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
    flags.DEFINE_boolean(
        "log_mel",
        False,
        "Protocol folds, encoder: a clip's vector also has the statistics of its log-mel frames, "
        "those that --pooling takes of the windows.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "saved_model",
        None,
        "Protocol folds, instead of an encoder: the folder of a SavedModel of any origin, waveform "
        "in, embeddings out.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "sample_rate",
        None,
        "SavedModel: the rate that it takes, in Hz; exports of this package say it themselves.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "signature",
        "",
        "SavedModel: the signature to call; by default the object itself, or serving_default.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "model_output",
        "",
        "SavedModel: of several outputs, the name or, from 0, the place of the embeddings.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "embeddings",
        None,
        "Protocol folds, instead of an encoder: what sepssl-embed has written, or a .npz file with "
        "filenames and embeddings, a row for each clip or for each of its windows.",
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
    kind = _model(values)
    require_new_file(values.output, (".json",))
    if values.baselines and values.separator:
        raise InputError(
            "--baselines: applies to encoders only; a separator's baselines are always reported"
        )
    mixed = mixed_sounds(values.dataset)
    if values.test_fold and not mixed and (values.separator or not is_path(values.dataset)):
        raise InputError(
            "--test_fold: applies to encoders on folders and manifests, and to mixed scenes "
            f"(mix:FOLDER), not to --dataset={values.dataset}"
        )
    if values.data_dir and not values.dataset.startswith("tfds:"):
        raise InputError(
            f"--data_dir: applies to TFDS datasets only, not to --dataset={values.dataset}"
        )
    if values.num_clips and not values.separator and values.dataset != "scenes" and not mixed:
        raise InputError(
            "--num_clips: applies to scenes and separators only; all clips of "
            f"--dataset={values.dataset} are evaluated"
        )
    if values.protocol == "folds":
        _check_folds(values)
    else:
        for name in ("embeddings", "saved_model", *_OF_SAVED_MODEL, "pooling", "log_mel", "subset"):
            if values[name].present:
                raise InputError(f"--{name}: applies to --protocol=folds only")
        if "{fold}" in (values.encoder or ""):
            raise InputError(f"--encoder={values.encoder}: {{fold}} needs --protocol=folds")
    if kind in ("encoder", "separator") and not _of_each_fold(values):
        model_file(getattr(values, kind), kind.capitalize())
    require_clips(values.dataset)


def _model(values: flags.FlagValues) -> str:
    """Which flag names what is evaluated."""
    given = [name for name in _MODELS if values[name].value]
    if len(given) != 1:
        raise InputError(
            "expected either --encoder or --separator; for --protocol=folds, one of --encoder, "
            "--saved_model, --embeddings"
        )
    return given[0]


def _of_each_fold(values: flags.FlagValues) -> bool:
    return values.protocol == "folds" and "{fold}" in (values.encoder or "")


def _check_folds(values: flags.FlagValues) -> None:
    from sepssl.evaluation.folds import POOLINGS

    if values.separator:
        raise InputError("--protocol=folds: applies to encoders only, not to separators")
    if not is_path(values.dataset):
        raise InputError(
            f"--dataset={values.dataset}: expected a folder or a manifest with folds for "
            "--protocol=folds"
        )
    if values.baselines and not values.encoder:
        raise InputError("--baselines: applies to --encoder only, whose front end they share")
    if values.log_mel and not values.encoder:
        raise InputError("--log_mel: applies to --encoder only, whose front end makes the frames")
    for name in _OF_SAVED_MODEL:
        if values[name].present and not values.saved_model:
            raise InputError(f"--{name}: applies to --saved_model only")
    if values.saved_model:
        require_exists(os.path.join(values.saved_model, "saved_model.pb"), "a SavedModel's folder")
    if values.embeddings:
        require_exists(values.embeddings, "embeddings in a .npz file, or of sepssl-embed")
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

    kind = _model(values)
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
    from sepssl.data.clips import Skipped
    from sepssl.data.folds import open_fold_clips
    from sepssl.evaluation.protocol import evaluate_on_folds
    from sepssl.reports.tables import folds_table

    kind = _model(values)
    embedders = {
        "encoder": _encoder_statistics,
        "saved_model": _saved_model_statistics,
        "embeddings": _stored_statistics,
    }
    sample_rate, about, statistics = embedders[kind](values)
    found = open_fold_clips(values.dataset, sample_rate, values.subset)
    rows: dict[str, dict] = {}
    unread: list[Skipped] = []
    for name, of_clips in statistics.items():
        title = name.replace("_", " ")
        vectors, indices, skipped = of_clips(found.clips, f"{values.dataset}, {title}")
        # Log-mel statistics are one vector for a clip, which leaves nothing to pool.
        poolings = ["mean"] if name == "log_mel_statistics" else values.pooling
        rows[title] = evaluate_on_folds(found, vectors, indices, poolings)
        unread = unread or skipped
    results, *others = rows.values()
    if others:
        results = results | {"baselines": dict(zip(list(statistics)[1:], others, strict=True))}
    about = about | {
        "protocol": "folds",
        "subset": values.subset or None,
        "poolings": values.pooling,
        "versions": {
            "sepssl": sepssl.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    title = f"{values.dataset}, {values.subset}" if values.subset else values.dataset
    return about | results, [*found.clips.skipped, *unread], folds_table(rows, title)


def _encoder_statistics(values):
    """Sample rate, what the results say of the model, and by name what embeds clips."""
    import functools

    import numpy as np

    from sepssl.evaluation.baselines import log_mel_frames, log_mel_statistics, untrained_like
    from sepssl.evaluation.folds import window_statistics
    from sepssl.representation.embed import embed_clips, embed_patches

    names, encoders, about = _encoders(values)
    encoder = encoders[0]

    def statistics_of(encoder):
        def statistics(waveform):
            parts = [window_statistics(embed_patches(encoder, waveform))]
            if values.log_mel:
                parts.append(window_statistics(log_mel_frames(encoder.log_mel, waveform)))
            return np.concatenate(parts, axis=1)

        return statistics

    embeds = {"encoder": statistics_of(encoder)}
    if values.baselines:
        embeds["log_mel_statistics"] = lambda waveform: log_mel_statistics(
            encoder.log_mel, waveform
        )[None]
        embeds["untrained_encoder"] = statistics_of(untrained_like(encoder, values.seed))
    about["log_mel"] = values.log_mel
    statistics: dict[str, Callable] = {
        name: functools.partial(embed_clips, embed) for name, embed in embeds.items()
    }

    def of_each_fold(clips, title):
        vectors, indices, skipped = embed_clips(
            lambda waveform: np.stack([statistics_of(own)(waveform) for own in encoders]),
            clips,
            title,
        )
        return dict(zip(names, np.moveaxis(vectors, 1, 0), strict=True)), indices, skipped

    if _of_each_fold(values):
        statistics["encoder"] = of_each_fold
    return encoder.sample_rate, about, statistics


def _encoders(values):
    """Folds tested on, the encoder of each (or one of all), and what the results say of them."""
    import sepssl
    from sepssl.data.folds import open_fold_clips
    from sepssl.data.splits import fold_names
    from sepssl.files import sha256_of

    if not _of_each_fold(values):
        digest = sha256_of(model_file(values.encoder, "Encoder"))
        return [], [sepssl.load_encoder(values.encoder)], {"sha256": digest}
    # No clip is read, so that the rate does not matter.
    names = fold_names(open_fold_clips(values.dataset, 16000, values.subset).clips.folds or ())
    files = {name: values.encoder.replace("{fold}", name) for name in names}
    try:
        digests = {name: sha256_of(model_file(file, "Encoder")) for name, file in files.items()}
    except InputError as error:
        raise InputError(
            f"{error}; --encoder={values.encoder}, folds {', '.join(names)}"
        ) from error
    encoders = [sepssl.load_encoder(file) for file in files.values()]
    first = encoders[0]
    expected = first.log_mel.get_config() | {"name": None}
    for file, encoder in zip(files.values(), encoders, strict=True):
        if encoder.embedding_size != first.embedding_size:
            raise InputError(
                f"{file}: has embeddings of {encoder.embedding_size} values; expected "
                f"{first.embedding_size}, as {files[names[0]]} has"
            )
        own = encoder.log_mel.get_config() | {"name": None}
        for key, value in expected.items():
            if own[key] != value:
                raise InputError(
                    f"{file}: {key} of its front end is {own[key]}; expected {value}, as "
                    f"{files[names[0]]} has"
                )
    return names, encoders, {"sha256": digests}


def _saved_model_statistics(values):
    import functools

    from sepssl.evaluation.folds import window_statistics
    from sepssl.representation.embed import embed_clips
    from sepssl.representation.saved_model import (
        SavedModelEmbedder,
        sample_rate_of,
        saved_model_digest,
    )

    rate = values.sample_rate or sample_rate_of(values.saved_model)
    if not rate:
        raise InputError(
            f"{values.saved_model}: holds no card.json with a sample rate; expected --sample_rate"
        )
    embed = SavedModelEmbedder(values.saved_model, values.signature, values.model_output)
    about = {
        "sample_rate": rate,
        "signature": values.signature or None,
        "model_output": values.model_output or None,
        "sha256": saved_model_digest(values.saved_model),
    }
    statistics = functools.partial(embed_clips, lambda wave: window_statistics([embed(wave)]))
    return rate, about, {"SavedModel": statistics}


def _stored_statistics(values):
    from sepssl.evaluation.stored_embeddings import stored_statistics
    from sepssl.files import sha256_of

    path = values.embeddings
    about = {} if os.path.isdir(path) else {"sha256": sha256_of(path)}
    # Nothing is read at this rate.
    return 16000, about, {"embeddings": lambda clips, _: stored_statistics(path, clips)}


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
