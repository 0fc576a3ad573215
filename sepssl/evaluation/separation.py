"""A separator's scores on a dataset, next to those of oracle masks."""

import collections
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
from sepssl.separation.oracle import oracle_masks
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
    skipped: dict[str, Skipped] = {}
    result = _scores_and_momi(separator, clips, order, skipped, verbose)
    if not result["clips"]:
        reason = skipped[clips.names[order[0]]].reason
        raise InputError(f"{dataset}: no clip could be read; the first: {reason}")
    if not result.keys() & {"scores", "MoMi"}:
        raise InputError(
            f"{dataset}: has {counted(result['clips'], 'clip')} without true sources, and the "
            f"separator {counted(separator.num_sources, 'output')}; expected two or more of both, "
            "for mixtures of two clips to separate"
        )
    # Only now it is known which sounds of mixed scenes could not be used.
    return result, [*clips.skipped, *skipped.values()]


def _scores_and_momi(
    separator: Separator, clips: Clips, order: list[int], skipped: dict[str, Skipped], verbose: bool
) -> dict[str, Any]:
    """What `evaluate_separator` returns; adds the clips that were not used to `skipped`.

    Neighbours in `order` make the pairs for MoMi, the longer of two cut to the shorter.
    """
    rate = separator.sample_rate
    scores: dict[str, SeparationScores] = collections.defaultdict(SeparationScores)
    gains: list[float] = []
    first: np.ndarray | None = None
    used = 0
    start = f"separating: {counted(len(order), 'clip')}"
    read: Callable[[int], Any] = clips.read_with_sources if clips.has_sources else clips.read
    read = value_or_error(read)
    with Progress("separating", len(order), "clip", start=start, verbose=verbose) as progress:
        for index, clip in zip(order, read_ahead(read, order, workers=1), strict=True):
            progress.update()
            name = clips.names[index]
            if isinstance(clip, InputError):
                skipped.setdefault(name, Skipped(name, str(clip)))
                continue
            used += 1
            mixture = clip
            if clips.has_sources:
                mixture, sources = clip
                active = sources[np.any(sources != 0, axis=-1)]
                if len(active):
                    for system, estimates in _estimates(separator, mixture, active).items():
                        scores[system].add(mixture, active, estimates)
                else:
                    reason = f"{name}: all of its sources are silent; expected one that sounds"
                    skipped.setdefault(name, Skipped(name, reason))
            if first is None:
                first = mixture
                continue
            length = min(len(first), len(mixture))
            pair = np.stack([first[:length], mixture[:length]])
            if separator.num_sources > 1:  # a single one cannot be split over two recordings
                gains.append(momi(lambda x: separator.separate(x[0], rate)[None], pair))
            first = None
    result: dict[str, Any] = {"clips": used}
    if clips.has_sources:
        result["scores"] = {name: score.result() for name, score in scores.items()}
        for name in set(scores) - {"separator"}:  # these know the number of sources
            for rate_name in ("under", "equal", "over"):
                result["scores"][name].pop(rate_name, None)
    if gains:
        result["MoMi"] = float(np.mean(gains))
    return result


def _estimates(
    separator: Separator, mixture: np.ndarray, sources: np.ndarray
) -> dict[str, np.ndarray]:
    """[estimates, samples] of each system that is scored."""
    rate = separator.sample_rate
    masked = oracle_masks(mixture, sources, rate)
    return {
        "separator": separator.separate(mixture, rate),
        "mixture": np.stack([mixture] * len(sources)),
    } | {f"oracle {kind} mask": estimates for kind, estimates in masked.items()}


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
                cell = f"{row[column]:z.1f}"
            cells += f"{cell:>11}"
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)
