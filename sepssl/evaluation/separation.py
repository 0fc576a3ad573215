"""A separator's scores on a dataset, next to those of oracle masks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sepssl.data.clips import Clips, Skipped, Subset
from sepssl.data.labels import with_labels, with_splits
from sepssl.data.mixtures import Mixtures
from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.data.segments import Segments
from sepssl.data.sources import Scenes, open_clips
from sepssl.data.spec import SCENES
from sepssl.data.splits import training_roles
from sepssl.errors import InputError
from sepssl.progress import Progress, counted
from sepssl.separation.metrics import SeparationScores, momi
from sepssl.separation.oracle import KINDS, oracle_masks
from sepssl.separation.separator import Separator

SEGMENT_SECONDS = 10.0  # of recordings without sources, for MoMi
MIN_SECONDS = 0.1  # of a recording; our choice


def evaluate_separator(
    separator: Separator,
    dataset: str,
    num_clips: int = 0,
    seed: int = 0,
    verbose: bool = True,
    data_dir: str | None = None,
    test_fold: str = "",
) -> tuple[dict, list[Skipped]]:
    """Scores a separator, the unprocessed mixture, and two oracle masks.

    Args:
        separator: `Separator`.
        dataset: the clips, see `open_clips`. Without true sources, only MoMi is reported. If the
            data has a test split of its own, only that split is evaluated.
        num_clips: largest number of clips, 0 for all; 500 by default for scenes, also mixed ones.
        seed: of the scenes and of the pairs for MoMi.
        verbose: whether to show progress.
        data_dir: the folder of TFDS datasets; None means TFDS's default.
        test_fold: of mixed scenes, the fold of their sounds; "" for the last.

    Returns:
        {"clips": their number, "scores": {system: scores as in `SeparationScores.result`, for
        "separator", "mixture", "oracle binary mask" and "oracle ratio mask"; "under", "equal" and
        "over" only for the first}, "MoMi": dB}, and the clips that were skipped. "scores" is absent
        without sources, "MoMi" with a single clip.

    Raises:
        InputError: as `open_clips`; if no clip can be read, or nothing can be scored.
    """
    rate = separator.sample_rate
    clips = open_clips(
        dataset,
        rate,
        sources=True,
        min_seconds=MIN_SECONDS,
        scenes=Scenes({"test": num_clips or 500}, seed),
        mixtures=Mixtures({"test": num_clips or 500}, seed, test_fold=test_fold),
        data_dir=data_dir,
    )
    if dataset != SCENES:
        clips = with_splits(clips, None if clips.splits is not None else with_labels(clips))
        tested = np.flatnonzero(training_roles(clips) == "test")
        clips = Subset(clips, tested) if len(tested) else clips
    if not clips.has_sources and not clips.in_order:
        clips = Segments(clips, SEGMENT_SECONDS)
    count = min(num_clips or len(clips), len(clips))
    order = np.random.default_rng([seed, 4]).permutation(len(clips))[:count].tolist()
    if clips.in_order:
        order.sort()
    result: dict[str, Any] = {"clips": 0}
    skipped = {entry.name: entry for entry in clips.skipped}
    if clips.has_sources:
        result["scores"], result["clips"] = _scores(separator, clips, order, skipped, verbose)
    value, used = _momi(separator, clips, order, skipped, verbose)
    if value is not None:
        result["MoMi"] = value
    result["clips"] = max(result["clips"], used)
    if not result["clips"]:
        reason = skipped[clips.names[order[0]]].reason
        raise InputError(f"{dataset}: no clip could be read; the first: {reason}")
    if not result.keys() & {"scores", "MoMi"}:
        raise InputError(
            f"{dataset}: has {counted(result['clips'], 'clip')} without true sources, and the "
            f"separator {counted(separator.num_sources, 'output')}; expected two or more of both, "
            "for mixtures of two clips to separate"
        )
    return result, list(skipped.values())


def _scores(
    separator: Separator, clips: Clips, order: list[int], skipped: dict[str, Skipped], verbose: bool
) -> tuple[dict[str, dict[str, float]], int]:
    """Scores by system, and the number of clips used; adds the others to `skipped`."""
    rate = separator.sample_rate
    systems: dict[str, Callable] = {
        "separator": lambda mixture, sources: separator.separate(mixture, rate),
        "mixture": lambda mixture, sources: np.stack([mixture] * len(sources)),
    }
    for kind in KINDS:
        systems[f"oracle {kind} mask"] = lambda mixture, sources, kind=kind: oracle_masks(
            mixture, sources, rate, kind
        )
    scores = {name: SeparationScores() for name in systems}
    start = f"separating: {counted(len(order), 'clip')}"
    read = value_or_error(clips.read_with_sources)
    used = 0
    with Progress("separating", len(order), "clip", start=start, verbose=verbose) as progress:
        for index, clip in zip(order, read_ahead(read, order, workers=1), strict=True):
            name = clips.names[index]
            if isinstance(clip, InputError):
                skipped.setdefault(name, Skipped(name, str(clip)))
            elif not len(active := clip[1][np.any(clip[1] != 0, axis=-1)]):
                reason = f"{name}: all of its sources are silent; expected one that sounds"
                skipped.setdefault(name, Skipped(name, reason))
            else:
                mixture = clip[0]
                for system, separate in systems.items():
                    scores[system].add(mixture, active, separate(mixture, active))
                used += 1
            progress.update()
    results = {name: score.result() for name, score in scores.items()}
    for name in set(results) - {"separator"}:  # these know the number of sources
        for rate_name in ("under", "equal", "over"):
            results[name].pop(rate_name, None)
    return results, used


def _momi(
    separator: Separator, clips: Clips, order: list[int], skipped: dict[str, Skipped], verbose: bool
) -> tuple[float | None, int]:
    """MoMi over pairs of clips, the longer of two cut to the shorter, and the clips used."""
    rate = separator.sample_rate
    gains, first, used = [], None, 0
    title = "separating mixtures of two"
    start = f"{title}: {len(order) // 2}"
    with Progress(title, len(order), "clip", start=start, verbose=verbose) as progress:
        for index in order:
            clip = value_or_error(clips.read)(index)
            if isinstance(clip, InputError):
                name = clips.names[index]
                skipped.setdefault(name, Skipped(name, str(clip)))
            elif first is None:
                used += 1
                first = clip
            else:
                used += 1
                length = min(len(first), len(clip))
                pair = np.stack([first[:length], clip[:length]])
                if separator.num_sources > 1:  # a single one cannot be split over two recordings
                    gains.append(momi(lambda x: separator.separate(x[0], rate)[None], pair))
                first = None
            progress.update()
    return (float(np.mean(gains)) if gains else None), used


def format_scores(scores: dict[str, dict[str, float]]) -> str:
    """A text table, one row per system; in dB, and in percent of clips."""
    columns = list(dict.fromkeys(name for row in scores.values() for name in row))
    width = max(len(name) for name in scores)
    lines = [" " * width + "".join(f"{name:>11}" for name in columns)]
    for name, row in scores.items():
        cells = ""
        for column in columns:
            if column not in row:
                cell = "-"
            elif column in ("under", "equal", "over"):
                cell = f"{100 * row[column]:.0f} %"
            else:
                cell = f"{row[column]:.1f}"
            cells += f"{cell:>11}"
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)
