"""Is one method better than another, over the seeds that both were run with?"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from sepssl.errors import InputError


class PairedDifference(NamedTuple):
    """Mean difference with its confidence interval.

    Attributes:
        mean: of the differences.
        low, high: ends of the interval; infinite with a single seed.
        seeds: number of common seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference:
    """`first - second`, seed by seed, with Student's t interval of the mean.

    A seed determines everything random: training, separator and test data. The interval is for the
    mean over seeds, and valid if differences are roughly normal.

    Args:
        first, second: scores by seed; seeds that only one of them has are ignored.
        confidence: probability mass of the interval.

    Raises:
        InputError: if they have no seed in common.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise InputError(f"no seed in common: {sorted(first)} and {sorted(second)}")
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    mean = float(differences.mean())
    if len(seeds) == 1:
        return PairedDifference(mean, -np.inf, np.inf, 1)
    interval = stats.ttest_rel(
        [first[seed] for seed in seeds], [second[seed] for seed in seeds]
    ).confidence_interval(confidence)
    return PairedDifference(mean, float(interval.low), float(interval.high), len(seeds))
