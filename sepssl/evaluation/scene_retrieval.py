"""Scene retrieval: does an isolated sound find the scenes that its class is heard in?

This is what the paper's pairs of a mixture and a channel train for, asked without a classifier in
between. The task and its counts are our choice.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from sepssl.data.clips import Clips, Subset
from sepssl.data.mixtures import Mixtures
from sepssl.errors import InputError
from sepssl.evaluation.retrieval import directions, expected_random_ap
from sepssl.evaluation.scores import average_precision, centred_interval, check_multi_hot
from sepssl.progress import Progress

NUM_BOOTSTRAP = 1000
AUDIBLE_DB = -30.0  # below the mixture: channels that are quieter do not count; our choice


@dataclasses.dataclass(frozen=True)
class SceneRetrievalResult:
    """Mean average precision of scene retrieval.

    Attributes:
        map: mean over the queries of `precisions`, in [0, 1].
        chance: expected `map` if the scenes were ranked at random.
        precisions: float64 `[queries]`, average precision of a query; NaN for one that was left
            out, since none or all of the scenes have its class.
        low, high: 95 % bootstrap interval of `map` over queries.
    """

    map: float
    chance: float
    precisions: np.ndarray
    low: float
    high: float


def scene_retrieval(
    queries: np.ndarray,
    query_labels: np.ndarray,
    scenes: np.ndarray,
    scene_labels: np.ndarray,
    seed: int = 0,
    several: Literal["max", "mean"] = "max",
) -> SceneRetrievalResult:
    """Ranks all scenes by their cosine similarity to each isolated sound.

    Relevant to a query are the scenes that have all of its classes. The mean over the scenes is
    subtracted from all embeddings first: what all scenes have in common tells none from another.

    A scene may have several embeddings, those of its mixture and of its channels; the most similar
    one counts, or the mean of their similarities. The mean that is subtracted is that of the first,
    the mixtures'.

    Args:
        queries: float `[queries, dim]`.
        query_labels: multi-hot `[queries, classes]`, at least one class each.
        scenes: float `[scenes, dim]` or `[scenes, rows, dim]`; rows of NaN do not count, except
            that the first must be there.
        scene_labels: multi-hot `[scenes, classes]`.
        seed: of the bootstrap.
        several: what counts of a scene's several similarities, "max" or "mean".

    Raises:
        InputError: if shapes do not fit, values are not finite, a query has no class, or no query
            has both scenes with its classes and others.
    """
    queries, scenes = np.asarray(queries, np.float64), np.asarray(scenes, np.float64)
    if scenes.ndim == 2:
        scenes = scenes[:, None]
    if queries.ndim != 2 or scenes.ndim != 3 or queries.shape[-1] != scenes.shape[-1]:
        raise InputError(
            f"queries have the shape {list(queries.shape)}, scenes {list(scenes.shape)}; expected "
            "[queries, dim] and [scenes, dim] or [scenes, rows, dim]"
        )
    query_labels = check_multi_hot(query_labels, len(queries)).astype(int)
    scene_labels = check_multi_hot(scene_labels, len(scenes)).astype(int)
    if query_labels.shape[1] != scene_labels.shape[1]:
        raise InputError(
            f"queries have {query_labels.shape[1]} classes, scenes {scene_labels.shape[1]}; "
            "expected the same"
        )
    if not query_labels.any(axis=1).all():
        raise InputError("a query has no class; expected at least one each")
    absent = np.isnan(scenes).all(axis=-1)
    if absent[:, 0].any() or not (
        np.isfinite(queries).all() and np.isfinite(scenes[~absent]).all()
    ):
        raise InputError("embeddings hold NaN or infinity; expected finite numbers")
    mean = scenes[:, 0].mean(axis=0)
    similarity = np.einsum("qd,srd->qsr", directions(queries - mean), directions(scenes - mean))
    if several == "mean":
        similarity = np.where(absent, 0, similarity).sum(axis=-1) / (~absent).sum(axis=-1)
    else:
        similarity = np.where(absent, -np.inf, similarity).max(axis=-1)
    similarity = np.round(similarity, 9)  # equal ones count as one step of the ranking

    wanted = query_labels.sum(axis=1, keepdims=True)
    relevant = (query_labels @ scene_labels.T == wanted).astype(int)
    counts = relevant.sum(axis=1)
    asked = (counts > 0) & (counts < len(scenes))
    if not asked.any():
        raise InputError(
            f"none of {len(queries)} queries has both scenes with its classes and others; expected "
            "one at least"
        )
    precisions = np.full(len(queries), np.nan)
    for query in np.flatnonzero(asked):
        precisions[query] = average_precision(relevant[query], similarity[query])
    known = precisions[asked]
    drawn = np.random.default_rng(seed).integers(len(known), size=(NUM_BOOTSTRAP, len(known)))
    low, high = centred_interval(known[drawn].mean(axis=1), known.mean(), 0.95)
    chance = np.mean([expected_random_ap(count, len(scenes)) for count in counts[asked].tolist()])
    return SceneRetrievalResult(
        float(known.mean()), float(chance), precisions, float(low), float(high)
    )


def draw_retrieval(
    sounds: Clips,
    mixtures: Mixtures,
    title: str,
    recording: str = "",
    rooms: Clips | None = None,
) -> tuple[Subset, Clips]:
    """Isolated sounds as queries, and scenes that are mixed from other recordings.

    Of each class, about half of the test split's recordings are queries, drawn by the seed of
    `mixtures`; the scenes of the test split are mixed from the others.

    Args:
        sounds: labelled, each of one sound.
        mixtures: the number of scenes in the test split, and what they are like.
        title: of the sounds, for errors.
        recording: regular expression for the part of a sound's name that sounds cut from one
            recording share; "" where each is a recording of its own, or `sounds.recordings` is
            known.
        rooms: room responses of the scenes, if `mixtures.config.rooms` names any.

    Returns:
        The queries, and the scenes, both labelled.

    Raises:
        InputError: if the test split is empty, the expression does not match a name, or no class
            has two recordings.
    """
    if sounds.labels is None or sounds.class_names is None:
        raise InputError(f"{title}: has no labels; expected some, for scene retrieval")
    tested = np.flatnonzero(mixtures.assigned(sounds, title) == "test")
    labels = sounds.labels[tested]
    sounds = Subset(sounds, tested)
    recordings = list(sounds.names if sounds.recordings is None else sounds.recordings)
    if recording:
        recordings = [_matched(recording, name, title) for name in recordings]
    by_class: dict[bytes, dict[str, None]] = collections.defaultdict(dict)
    for name, row in zip(recordings, labels, strict=True):
        by_class[row.tobytes()][name] = None
    rng = np.random.default_rng([mixtures.seed, 9])
    asked: set[str] = set()
    for of_class in sorted(by_class):
        # A recording that another class has taken stays there.
        names = sorted(set(by_class[of_class]) - asked)
        asked |= {names[i] for i in rng.permutation(len(names))[: len(names) // 2].tolist()}
    chosen = np.isin(np.array(recordings, dtype=object), sorted(asked))
    if not chosen.any():
        raise InputError(f"{title}: no class has two recordings in the test split; expected some")
    others = Subset(sounds, np.flatnonzero(~chosen))
    others.folds = ["others"] * len(others)
    of_others = dataclasses.replace(
        mixtures, counts={"test": mixtures.counts["test"]}, folds={"test": ("others",)}
    )
    return Subset(sounds, np.flatnonzero(chosen)), of_others.open(others, title, rooms)


def evaluate_scene_retrieval(
    embed: Callable[[np.ndarray], np.ndarray],
    queries: Clips,
    scenes: Clips,
    separated: Mapping[str, Callable[[int], np.ndarray]],
    seed: int,
    title: str,
    verbose: bool = True,
) -> dict[str, float]:
    """Embeds sounds and scenes, and ranks these by their mixtures, and by their channels as well.

    Args:
        embed: waveform [samples] -> embedding [dim].
        queries, scenes: as from `draw_retrieval`.
        separated: by name, what gives the channels [channels, samples] of a scene by its number.
            Channels more than 30 dB below the mixture do not count.
        seed: of the bootstrap.
        title: of the clips, for progress and errors.
        verbose: whether to show progress.

    Returns:
        "scene_map", where a scene is its mixture; for each of `separated` "scene_NAME_map", where
        the most similar one of its mixture and its channels counts, and "scene_NAME_mean_map",
        where the mean of their similarities does; for all of these "..._low" and "..._high", the
        95 % bootstrap interval over queries; and "scene_chance".

    Raises:
        InputError: if a clip cannot be read, or as `scene_retrieval`.
    """
    if queries.labels is None or scenes.labels is None:
        raise InputError(f"{title}: has no labels; expected some, for scene retrieval")
    asked = np.stack([embed(queries.read(i)) for i in range(len(queries))])
    mixtures: list[np.ndarray] = []
    rows: dict[str, list[list[np.ndarray]]] = {f"scene_{name}": [] for name in separated}
    with Progress(f"{title}, scene retrieval", len(scenes), "scene", verbose=verbose) as progress:
        for index in range(len(scenes)):
            mixture = scenes.read(index)
            mixtures.append(embed(mixture))
            for name, channels_of in separated.items():
                channels = audible(channels_of(index), mixture)
                rows[f"scene_{name}"].append([mixtures[-1], *map(embed, channels)])
            progress.update()
    vectors = {"scene": np.stack(mixtures), **{name: _padded(row) for name, row in rows.items()}}
    return retrieval_scores(asked, queries.labels, vectors, scenes.labels, seed)


def retrieval_scores(
    queries: np.ndarray,
    query_labels: np.ndarray,
    scenes: Mapping[str, np.ndarray],
    scene_labels: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Scores of `scene_retrieval` for several kinds of embeddings of the same scenes, by name.

    Args:
        queries, query_labels, scene_labels, seed: as there.
        scenes: of each kind, float [scenes, dim], or [scenes, several, dim] as there.

    Returns:
        "NAME_map", "NAME_map_low" and "NAME_map_high" for each of `scenes`; "NAME_mean_map" and so
        on, by the mean, for those of several embeddings; and "scene_chance".
    """
    rank = functools.partial(scene_retrieval, queries, query_labels)
    found: dict[str, SceneRetrievalResult] = {}
    for name, embeddings in scenes.items():
        found[name] = rank(embeddings, scene_labels, seed)
        if embeddings.ndim == 3:
            found[f"{name}_mean"] = rank(embeddings, scene_labels, seed, several="mean")
    results: dict[str, float] = {}
    for name, result in found.items():
        results |= {f"{name}_map": result.map, "scene_chance": result.chance}
        results |= {f"{name}_map_low": result.low, f"{name}_map_high": result.high}
    return results


def audible(channels: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """The channels [channels, samples] at most 30 dB below the mixture [samples]."""
    power = np.square(channels, dtype=np.float64).mean(axis=-1)
    lowest = np.square(mixture, dtype=np.float64).mean() * 10 ** (AUDIBLE_DB / 10)
    return channels[power >= max(lowest, 1e-12)]


def _padded(embeddings: list[list[np.ndarray]]) -> np.ndarray:
    """[scenes, rows, dim], with rows of NaN where a scene has fewer than another."""
    most = max(map(len, embeddings))
    absent = np.full_like(embeddings[0][0], np.nan)
    return np.stack([np.stack(rows + [absent] * (most - len(rows))) for rows in embeddings])


def _matched(expression: str, name: str, title: str) -> str:
    match = re.search(expression, name)
    if match is None:
        raise InputError(f"{title}: {expression!r} matches nothing in {name}; expected each name")
    return match[match.re.groups and 1]
