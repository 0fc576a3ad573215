"""Query by example: are the embeddings of a class closer to each other than to the rest?"""

import dataclasses
import warnings

import numpy as np

from sepssl.errors import InputError
from sepssl.evaluation.scores import (
    average_precision,
    centred_interval,
    check_multi_hot,
    resampled_scores,
)
from sepssl.progress import counted

NUM_BOOTSTRAP = 200


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Mean average precision of query by example.

    Attributes:
        map: mean over the classes of `per_class`, in [0, 1].
        chance: expected `map` if every pool were ranked at random.
        per_class: float64 `[classes]`, mean average precision of the queries of a class; NaN for a
            class left out.
        num_queries: int `[classes]`, number of queries per class.
        left_out: indices of the classes that fewer than two clips, or all clips, have.
        low, high: 95 % bootstrap interval of `map` over clips.
    """

    map: float
    chance: float
    per_class: np.ndarray
    num_queries: np.ndarray
    left_out: tuple[int, ...]
    low: float
    high: float


def query_by_example(
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_same: int = 50,
    num_other: int = 50,
    num_queries: int | None = 100,
    seed: int = 0,
) -> RetrievalResult:
    """Ranks a pool of clips by their cosine similarity to a query clip, class by class.

    For each class, clips of the class are queries. The pool of a query is `num_same` other clips
    that have the class and `num_other` clips that do not, drawn at random for each query (all of
    them if there are not that many). The ranking's average precision is averaged over the
    queries of the class, then over the classes. The counts are our choice.

    Chance is not the share of the class in the pool but a little above it: a random order of `n`
    clips with `m` of the class has the expected average precision `q + (1 - q) H(n) / n`, with
    `q = (m - 1) / (n - 1)` and the harmonic number `H(n) = 1 + 1/2 + ... + 1/n`: 0.521 for the
    default 50 and 50. It is higher if there are fewer clips without the class, lower if there are
    fewer with it; `chance` in the result is the mean over the classes that were scored.

    Clips of equal similarity (to 1e-9) count as one step of the ranking, so embeddings collapsed to
    one point score `m / n`, not more. An embedding of zeros has similarity 0 to all others.

    The interval is a bootstrap over clips, both as queries and in the pools: a clip drawn twice
    counts twice in both. It is centred on `map`, as in `bootstrap_intervals`.

    Args:
        embeddings: float `[clips, dim]`.
        labels: multi-hot `[clips, classes]`.
        num_same: largest number of clips with the class in a pool.
        num_other: largest number of clips without the class in a pool.
        num_queries: largest number of queries per class, drawn at random; None uses every clip.
        seed: of the draws.

    Raises:
        InputError: if an array has the wrong shape, embeddings are not finite, labels are not 0 or
            1, a count is below 1, or no class can be scored.
    """
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or embeddings.size == 0:
        raise InputError(
            f"embeddings have the shape {list(embeddings.shape)}; expected [clips, dim]"
        )
    if not np.isfinite(embeddings).all():
        raise InputError("embeddings hold NaN or infinity; expected finite numbers")
    labels = check_multi_hot(labels, len(embeddings))
    queried = queryable_classes(labels)
    if min(num_same, num_other, 1 if num_queries is None else num_queries) < 1:
        raise InputError(
            f"num_same, num_other, num_queries are {num_same}, {num_other}, {num_queries}; "
            "expected 1 or more"
        )
    embeddings = directions(embeddings)

    rng = np.random.default_rng(seed)
    classes = labels.shape[1]
    per_class = np.full(classes, np.nan)
    made = np.zeros(classes, int)
    chance, replicates = [], []
    counts = np.random.default_rng(seed).multinomial(
        len(embeddings), np.full(len(embeddings), 1 / len(embeddings)), NUM_BOOTSTRAP
    )
    counts = counts.astype(np.float64)
    for c in queried:
        with_class = np.flatnonzero(labels[:, c])
        without = np.flatnonzero(labels[:, c] == 0)
        queries = _draw(rng, with_class, num_queries or len(with_class))
        precisions, resampled = [], []
        for query in queries:
            same = _draw(rng, with_class[with_class != query], num_same)
            other = _draw(rng, without, num_other)
            pool = np.concatenate([same, other])
            similarity = np.round(embeddings[pool] @ embeddings[query], 9)
            relevant = np.repeat([1, 0], [len(same), len(other)])
            precisions.append(average_precision(relevant, similarity))
            resampled.append(resampled_scores(relevant, similarity, counts[:, pool])[:, 0])
        per_class[c] = np.mean(precisions)
        replicates.append(_mean_of_queries(np.array(resampled), counts[:, queries].T))
        made[c] = len(queries)
        chance.append(expected_random_ap(len(same), len(same) + len(other)))
    mean = float(np.nanmean(per_class))
    low, high = _interval(np.array(replicates), mean)
    return RetrievalResult(
        map=mean,
        chance=float(np.mean(chance)),
        per_class=per_class,
        num_queries=made,
        left_out=tuple(np.flatnonzero(made == 0).tolist()),
        low=low,
        high=high,
    )


def queryable_classes(labels: np.ndarray) -> np.ndarray:
    """Indices of the classes that two or more clips have and one or more have not.

    Raises:
        InputError: if there are no such classes.
    """
    positives = labels.sum(axis=0)
    queryable = np.flatnonzero((positives > 1) & (positives < len(labels)))
    if not len(queryable):
        raise InputError(
            f"none of {labels.shape[1]} classes can be queried in {counted(len(labels), 'clip')}; "
            "expected one that at least two clips have and at least one does not: more clips, or a "
            "column 'split' or 'fold'"
        )
    return queryable


def directions(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, over the last axis; of zeros and of NaN, zeros.

    Args:
        vectors: float64 `[..., dim]`.
    """
    # Scaled by the largest value first: squares of tiny or huge values under- or overflow.
    vectors = _divided(vectors, np.abs(vectors).max(axis=-1, keepdims=True))
    return _divided(vectors, np.linalg.norm(vectors, axis=-1, keepdims=True))


def expected_random_ap(relevant: int, total: int) -> float:
    """Expected average precision of a random order of `total` clips, `relevant` of them relevant.

    The clip at rank k is relevant with probability m/n; given that, so is an expected fraction
    (m - 1)/(n - 1) of the k - 1 clips above it.
    """
    if total == 1:
        return 1.0
    q = (relevant - 1) / (total - 1)
    return float(q + (1 - q) * np.mean(1 / np.arange(1, total + 1)))


def _mean_of_queries(precisions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Both `[queries, replicates]` -> `[replicates]`; NaN precisions do not count."""
    counts = np.where(np.isnan(precisions), 0.0, counts)
    with np.errstate(invalid="ignore"):  # a replicate may have no query of the class
        return np.sum(counts * np.nan_to_num(precisions), axis=0) / counts.sum(axis=0)


def _interval(replicates: np.ndarray, mean: float) -> tuple[float, float]:
    """2.5 and 97.5 % quantiles of the mean over classes of `[classes, replicates]`."""
    with warnings.catch_warnings():  # a replicate without a class to score gives NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.nanmean(replicates, axis=0)
    low, high = centred_interval(means, mean, 0.95)
    return float(low), float(high)


def _draw(rng: np.random.Generator, clips: np.ndarray, count: int) -> np.ndarray:
    return clips if len(clips) <= count else rng.choice(clips, count, replace=False)


def _divided(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(values, by, out=np.zeros_like(values), where=by > 0)
