"""Is one method better than another, over seeds that both were run on?"""

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
        seeds: number of seeds that both have.
    """

    mean: float
    low: float
    high: float
    seeds: int


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference:
    """`first - second`, seed by seed, with Student's t interval of the mean.

    A seed stands for everything that is drawn anew: training, separator and test data. The interval
    holds for the mean over such seeds, if differences are roughly normal.

    Args:
        first, second: scores by seed; seeds that only one has are left out.
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
