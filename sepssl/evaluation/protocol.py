"""The whole evaluation of a frozen representation on labelled clips."""

import math
from collections.abc import Callable

import keras
import numpy as np

from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.errors import InputError
from sepssl.evaluation.retrieval import query_by_example
from sepssl.evaluation.scores import bootstrap_intervals
from sepssl.evaluation.shallow import Split, evaluate_shallow


def embed_clips(
    embed: Callable[[np.ndarray], np.ndarray], clips, title: str
) -> tuple[np.ndarray, list[int], list[tuple[str, str]]]:
    """Embeddings of all clips, with a progress bar.

    Args:
        embed: waveform [samples] -> embedding [dim].
        clips: a source of clips: `read(index)`, `names`.
        title: what the progress bar says.

    Returns:
        float32 [clips, dim], the indices of the clips they belong to, and (name, reason) of the
        clips that could not be read.

    Raises:
        InputError: if no clip can be read.
    """

    print(f"{title}: {len(clips.names)} clips", flush=True)
    progress = keras.utils.Progbar(len(clips.names), unit_name="clip")
    waveforms = read_ahead(value_or_error(clips.read), range(len(clips.names)), workers=1)
    embeddings, indices, skipped = [], [], []
    for index, waveform in enumerate(waveforms):
        if isinstance(waveform, InputError):
            skipped.append((clips.names[index], str(waveform)))
        else:
            embeddings.append(embed(waveform))
            indices.append(index)
        progress.update(index + 1)
    if not embeddings:
        raise InputError(f"no clip could be read; the first: {skipped[0][1]}")
    return np.stack(embeddings), indices, skipped


def evaluate_representation(
    train: Split, validation: Split, test: Split, seed: int = 0
) -> dict[str, float | None]:
    """Query by example and shallow classifiers on frozen embeddings.

    Args:
        train, validation, test: embeddings with labels; the test split is read once, by
            hyperparameters chosen on the validation split.
        seed: of queries, classifiers and bootstrap.

    Returns:
        "qbe_map" (query by example on the test split) and "qbe_chance"; for "linear" and "mlp"
        "<kind>_map"; of all three "..._low" and "..._high" (95 % bootstrap interval over test
        clips); "<kind>_auc", "<kind>_d_prime" (None if infinite); and the hyperparameters chosen,
        as "linear_C".
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
    # d' of a perfect ranking is infinite, which JSON cannot say.
    return {key: float(v) if math.isfinite(v) else None for key, v in results.items()}
