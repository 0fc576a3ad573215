"""The whole evaluation of a frozen representation on labelled clips."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sepssl.data.clips import Clips, Skipped
from sepssl.data.folds import FoldClips
from sepssl.data.mixtures import Mixtures
from sepssl.data.sources import Scenes, open_clips
from sepssl.data.spec import SCENES, mixed_sounds
from sepssl.data.splits import SHARES, SPLITS, fold_for_testing, make_splits
from sepssl.errors import InputError
from sepssl.evaluation.folds import evaluate_folds
from sepssl.evaluation.retrieval import query_by_example, queryable_classes
from sepssl.evaluation.scores import bootstrap_intervals, scorable_classes
from sepssl.evaluation.shallow import Split, evaluate_shallow
from sepssl.representation.embed import embed_clips


def evaluate_representation(
    train: Split, validation: Split, test: Split, seed: int = 0
) -> dict[str, float | None]:
    """Query by example and shallow classifiers on frozen embeddings.

    Args:
        train, validation, test: embeddings with labels; the test split is used once, with
            hyperparameters chosen on the validation split.
        seed: of queries, classifiers and bootstrap.

    Returns:
        "qbe_map" (query by example on the test split) and "qbe_chance"; for "linear" and "mlp"
        "<kind>_map"; for all three "..._low" and "..._high" (95 % bootstrap interval over test
        clips); "<kind>_auc", "<kind>_d_prime" (None if infinite); and the hyperparameters chosen,
        such as "linear_C".
    """
    retrieval = query_by_example(test.embeddings, test.labels, seed=seed)
    results = {
        "qbe_map": retrieval.map,
        "qbe_map_low": retrieval.low,
        "qbe_map_high": retrieval.high,
        "qbe_chance": retrieval.chance,
    }
    for kind in ("linear", "mlp"):
        result = evaluate_shallow(train, validation, test, kind, seed)
        low, high = bootstrap_intervals(test.labels, result.test_predictions, seed=seed)["map"]
        results |= {
            f"{kind}_map": result.scores.map,
            f"{kind}_map_low": low,
            f"{kind}_map_high": high,
            f"{kind}_auc": result.scores.auc,
            f"{kind}_d_prime": result.scores.d_prime,
        } | {f"{kind}_{name}": value for name, value in result.hyperparameters.items()}
    # d' of a perfect ranking is infinite, which JSON cannot represent.
    return {key: float(v) if math.isfinite(v) else None for key, v in results.items()}


def evaluate_on_splits(
    embed: Callable[[np.ndarray], np.ndarray],
    splits: Collection[Clips],
    seed: int,
    title: str,
    verbose: bool = True,
) -> tuple[dict[str, float | None], list[Skipped]]:
    """Embeds the clips of three splits and evaluates them; see `evaluate_representation`.

    Args:
        embed: waveform [samples] -> embedding [dim].
        splits: labelled clips for training, validation and testing.
        seed: of queries and classifiers.
        title: of the clips, for progress and errors.
        verbose: whether to show progress.

    Returns:
        The results, with the numbers of clips and classes, and the clips that could not be read.
    """
    labels = []
    for name, clips in zip(SPLITS, splits, strict=True):
        part = f"{title}, {name} split"
        if clips.labels is None:
            raise InputError(f"{part}: the clips have no labels; expected labelled ones")
        labels.append(clips.labels)
        try:
            scorable_classes(clips.labels)
            if name == "test":
                queryable_classes(clips.labels)
        except InputError as error:
            raise InputError(
                f"{part}: {error}; more clips, a column split beside the labels, or "
                "--protocol=folds with a column fold would do"
            ) from error
    embedded, skipped = [], []
    for name, clips, known in zip(SPLITS, splits, labels, strict=True):
        embeddings, indices, unread = embed_clips(embed, clips, f"{title}, {name}", verbose)
        embedded.append(Split(embeddings, known[indices]))
        skipped += unread
    counts = {f"{name}_clips": len(e.labels) for name, e in zip(SPLITS, embedded, strict=True)}
    train, validation, test = embedded
    results = evaluate_representation(train, validation, test, seed)
    return {**counts, "classes": test.labels.shape[1], **results}, skipped


def evaluate_on(
    dataset: str,
    embed: Callable[[np.ndarray], np.ndarray],
    sample_rate: int,
    num_clips: int,
    seed: int,
    data_dir: str | None = None,
    test_fold: str = "",
    verbose: bool = True,
) -> tuple[dict[str, Any], list[Skipped]]:
    """Evaluates on labelled clips; see `open_clips` for what can be named.

    Args:
        dataset: the clips, see `open_clips`. Their own splits or folds are used; missing splits are
            taken out of the training clips, see `assigned_splits`.
        embed: waveform [samples] -> embedding [dim].
        sample_rate: in Hz.
        num_clips: scenes to make, built-in or mixed, over all splits.
        seed: of scenes, queries and classifiers.
        data_dir: the folder of TFDS datasets; None means TFDS's default.
        test_fold: the fold to test on, if the dataset has folds; "" for the last.
        verbose: whether to show progress.

    Returns:
        The results, with "test_fold", the fold that was tested on, if the dataset goes by folds;
        and the clips that were skipped.
    """
    if (dataset == SCENES or mixed_sounds(dataset)) and num_clips < 100:
        raise InputError(f"num_clips={num_clips}: expected at least 100 scenes")
    counts = {name: round(share * num_clips) for name, share in zip(SPLITS, SHARES, strict=True)}
    clips = open_clips(
        dataset,
        sample_rate,
        labels=True,
        scenes=Scenes(counts, seed),
        mixtures=Mixtures(counts, seed, test_fold=test_fold),
        data_dir=data_dir,
    )
    splits = make_splits(clips, dataset, "" if mixed_sounds(dataset) else test_fold).values()
    results, unread = evaluate_on_splits(embed, splits, seed, dataset, verbose)
    fold = test_fold or fold_for_testing(clips)
    return {**({"test_fold": fold} if fold else {}), **results}, [*clips.skipped, *unread]


def evaluate_on_folds(
    found: FoldClips,
    statistics: np.ndarray | Mapping[str, np.ndarray],
    indices: Sequence[int],
    poolings: Sequence[str] = ("mean",),
    verbose: bool = True,
) -> dict[str, Any]:
    """Accuracy over folds, see `evaluate_folds`, as values that JSON knows.

    Args:
        found: the clips.
        statistics: float [embedded clips, statistics, dim], see `window_statistics`; or such by the
            name of the fold tested on.
        indices: which clips these are.
        poolings: to choose from.
        verbose: whether to show progress.

    Returns:
        "accuracy" (mean over folds) and "deviation" (standard deviation over folds), in [0, 1];
        "clips", "classes"; "folds": of each fold by its name, its "clips", "accuracy", the chosen
        "pooling" and "C", and "inner_accuracy", by which they were chosen; "confusion": of each
        class by its name, how many of its clips were taken for which class.
    """
    targets = found.targets[list(indices)]
    folds = found.clips.folds or ()
    scores = evaluate_folds(statistics, targets, [folds[i] for i in indices], poolings, verbose)
    confusion: dict[str, dict[str, int]] = {}
    for target, prediction in zip(targets.tolist(), scores.predictions.tolist(), strict=True):
        row = confusion.setdefault(found.classes[target], {})
        row[found.classes[prediction]] = row.get(found.classes[prediction], 0) + 1
    return {
        "accuracy": scores.accuracy,
        "deviation": scores.deviation,
        "clips": len(targets),
        "classes": len(found.classes),
        "folds": {
            fold.name: {
                "clips": fold.clips,
                "accuracy": fold.accuracy,
                "pooling": fold.pooling,
                "C": fold.inverse_penalty,
                "inner_accuracy": fold.inner_accuracy,
            }
            for fold in scores.folds
        },
        "confusion": {name: dict(sorted(row.items())) for name, row in sorted(confusion.items())},
    }
