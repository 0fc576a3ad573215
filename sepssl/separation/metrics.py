"""How well sources were separated. NumPy in, NumPy out; all results in dB unless stated otherwise.

Reference: the protocol, its thresholds and its names are those of Wisdom et al., What's All the
FUSS About Free Universal Sound Separation Data? (2021).
"""

import collections
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from sepssl.separation.mixit import MAX_ASSIGNMENTS, best_mixing, least_squares_mixing
from sepssl.separation.signal_losses import negative_si_snr
from sepssl.typing import Tensor

EPSILON = 1e-8
SILENT_RMS = 1e-8
ACTIVE_SHARE = 0.01


def si_snr(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Scale-invariant signal-to-noise ratio, without removal of the mean (as Google computes it).

    Args:
        reference, estimate: [..., samples], broadcast to each other.

    Returns:
        [...], in dB, -80 to 80; -80 for silence.

    Reference: Le Roux et al., SDR - half-baked or well done? (2019).
    """
    reference = np.asarray(reference, np.float64)
    estimate = np.asarray(estimate, np.float64)
    dot = np.einsum("...t,...t->...", reference, estimate)  # without an array of the products
    energies = np.sum(reference**2, axis=-1) * np.sum(estimate**2, axis=-1)
    share = np.minimum(dot**2 / np.maximum(energies, 1e-300), 1.0)  # of the estimate's power
    return 10.0 * np.log10((share + EPSILON) / (1.0 - share + EPSILON))


def matched_si_snr(
    references: np.ndarray, estimates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SI-SNR of references with their estimates in the best one-to-one matching.

    Args:
        references: [active, samples], none of them silent.
        estimates: [sources, samples].

    Returns:
        Indices of the matched references (all of them, unless there are fewer estimates) and of
        their estimates, and the pairs' SI-SNR in dB.
    """
    pairwise = si_snr(references[:, None], estimates[None])
    rows, columns = linear_sum_assignment(pairwise, maximize=True)
    return rows, columns, pairwise[rows, columns]


class SeparationScores:
    """Collects the scores of clips whose sources are known.

    A reference is active if its RMS is above 1e-8, an estimate if its power is above 0.01 times
    that of the clip's quietest active reference. Active references are matched one to one with
    estimates by SI-SNR, and only pairs with both active are scored. If a clip has more sources than
    there are estimates, unmatched ones are not scored.
    """

    def __init__(self):
        self._single: list[float] = []
        self._improvements = collections.defaultdict(list)
        self._surplus: list[int] = []  # active estimates beyond the active references

    def add(self, mixture: np.ndarray, sources: np.ndarray, estimates: np.ndarray) -> None:
        """Scores one clip.

        Args:
            mixture: [samples].
            sources: [count, samples]; a clip without an active one is ignored.
            estimates: [estimates, samples].
        """
        active = sources[np.sqrt(np.mean(np.square(sources), axis=-1)) > SILENT_RMS]
        if not len(active):
            return
        quietest = np.min(np.mean(np.square(active), axis=-1))
        sounds = np.mean(np.square(estimates), axis=-1) > ACTIVE_SHARE * quietest
        self._surplus.append(int(np.sum(sounds)) - len(active))
        rows, columns, values = matched_si_snr(active, estimates)
        counted = sounds[columns]
        if len(active) == 1:
            self._single.extend(values[counted])
        else:
            gains = values - si_snr(active[rows], mixture[None])
            self._improvements[len(active)].extend(gains[counted])

    def result(self) -> dict[str, float]:
        """The scores; those without any clips are absent.

        Returns:
            "1S": mean SI-SNR in clips with one source; "MSi": mean SI-SNR improvement over the
            mixture, over all sources in clips with several; "SI-SNRi_2", "SI-SNRi_3", ...: the same
            by number of sources; "under", "equal", "over": share of clips (0 to 1) with fewer, as
            many and more active estimates than active references.
        """
        scores = {"1S": float(np.mean(self._single))} if self._single else {}
        by_count = {n: gains for n, gains in sorted(self._improvements.items()) if gains}
        if by_count:
            scores["MSi"] = float(np.mean(np.concatenate(list(by_count.values()))))
        for count, gains in by_count.items():
            scores[f"SI-SNRi_{count}"] = float(np.mean(gains))
        if self._surplus:
            sign = np.sign(self._surplus)
            for name, value in (("under", -1), ("equal", 0), ("over", 1)):
                scores[name] = float(np.mean(sign == value))
        return scores


def momi(separate: Callable[[np.ndarray], Tensor], recordings: np.ndarray) -> float:
    """SI-SNR improvement of remixed mixtures of mixtures: needs recordings only, no sources.

    The remix is the best one by SI-SNR, just as references and estimates are matched by SI-SNR if
    sources are known (our choice: the assignment used in training may leave a mixture without any
    source, and its SI-SNR of -80 dB would dominate the mean). Above 16 sources, it is that of
    `least_squares_mixing`.

    Args:
        separate: mixtures [batch, samples] -> estimates [batch, sources, samples].
        recordings: [2 n, samples]; neighbours make a mixture of mixtures.

    Returns:
        Mean improvement in dB over the recordings.

    Reference: Wisdom et al., Unsupervised Sound Separation Using Mixture Invariant Training
    (2020), "MoMi".
    """
    gains = []
    for references in np.reshape(recordings, (-1, 1, 2, recordings.shape[-1])):
        mixture = references.sum(axis=1)
        estimates = np.asarray(separate(mixture))
        if 2 ** estimates.shape[1] <= MAX_ASSIGNMENTS:
            mixing = best_mixing(references, estimates, negative_si_snr)
        else:
            mixing = least_squares_mixing(references, estimates)
        remixed = np.asarray(mixing) @ estimates
        gains.append(si_snr(references, remixed) - si_snr(references, mixture[:, None]))
    return float(np.mean(gains))
