"""How often do bootstrap intervals of mAP hold the expected score of a test set of that size?

    python tests/benchmarks/intervals.py

Scores of positives are normal and d above those of negatives. Prints a table: the share of
simulated test sets whose 95 % interval holds the mean score of all of them, by kind of interval:
that of `sepssl.evaluation.scores`, plain percentiles, the basic bootstrap and BCa (Efron and
Tibshirani, 1993). Takes about two minutes.
"""

import numpy as np
from scipy import special

from sepssl.evaluation.scores import centred_interval, resampled_scores

TEST_SETS, REPLICATES = 100, 400
TAILS = np.array([0.025, 0.975])


def test_set(random, clips, classes, positives, d):
    labels = np.zeros((clips, classes), np.int8)
    for column in labels.T:
        column[random.choice(clips, positives, replace=False)] = 1
    return labels, random.normal(size=labels.shape) + d * labels


def mean_ap(labels, predictions, counts):
    pairs = zip(labels.T, predictions.T, strict=True)
    return np.nanmean([resampled_scores(y, x, counts)[:, 0] for y, x in pairs], axis=0)


def intervals(labels, predictions, random):
    clips = len(labels)
    score = mean_ap(labels, predictions, np.ones((1, clips)))[0]
    draws = random.multinomial(clips, np.full(clips, 1 / clips), size=REPLICATES).astype(float)
    found = mean_ap(labels, predictions, draws)
    without_one = mean_ap(labels, predictions, 1 - np.eye(clips))
    influence = without_one.mean() - without_one
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    bias = special.ndtri(np.clip(np.mean(found < score), 1e-9, 1 - 1e-9))
    z = bias + special.ndtri(TAILS)
    return score, {
        "centred (ours)": centred_interval(found, score, 0.95),
        "percentile": np.quantile(found, TAILS),
        "basic": 2 * score - np.quantile(found, TAILS[::-1]),
        "BCa": np.quantile(found, special.ndtr(bias + z / (1 - acceleration * z))),
    }


def main():
    print("| clips | classes | positives | d | centred (ours) | percentile | basic | BCa |")
    print("|---|---|---|---|---|---|---|---|")
    for case in ((80, 20, 5, 1.0), (80, 20, 5, 2.0), (300, 28, 40, 1.0), (300, 28, 10, 1.5)):
        random = np.random.default_rng(0)
        found = [intervals(*test_set(random, *case), random) for _ in range(TEST_SETS)]
        truth = np.mean([score for score, _ in found])
        shares = [
            np.mean([one[kind][0] <= truth <= one[kind][1] for _, one in found])
            for kind in found[0][1]
        ]
        print(f"| {' | '.join(map(str, case))} | {' | '.join(f'{s:.0%}' for s in shares)} |")


if __name__ == "__main__":
    main()
