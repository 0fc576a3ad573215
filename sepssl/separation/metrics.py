"""How well sources were separated. NumPy in, NumPy out; all results in dB."""

import numpy as np
from scipy.optimize import linear_sum_assignment

EPSILON = 1e-8


def si_snr(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Scale-invariant signal-to-noise ratio, without removal of the mean (as Google computes it).

    Args:
        reference, estimate: [..., samples], broadcast against each other.

    Returns:
        [...], in dB. About -80 for an estimate of silence, and finite always.

    Reference: Le Roux et al., SDR - half-baked or well done? (2019).
    """
    reference = np.asarray(reference, np.float64)
    estimate = np.asarray(estimate, np.float64)
    dot = np.sum(reference * estimate, axis=-1)
    energy = np.sum(reference**2, axis=-1)
    target = dot**2 / (energy + EPSILON)
    noise = np.maximum(np.sum(estimate**2, axis=-1) - target, 0.0)
    return 10.0 * np.log10((target + EPSILON) / (noise + EPSILON))


def matched_si_snr(references: np.ndarray, estimates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SI-SNR of references with the estimates that the best one-to-one matching gives them.

    Args:
        references: [active, samples], none of them silent.
        estimates: [sources, samples].

    Returns:
        Indices of the references matched (all of them, unless there are fewer estimates), and
        their SI-SNR in dB.
    """
    pairwise = si_snr(references[:, None], estimates[None])
    rows, columns = linear_sum_assignment(pairwise, maximize=True)
    return rows, pairwise[rows, columns]


def separation_scores(separate, clips) -> dict[str, float]:
    """Scores over clips with known sources.

    Args:
        separate: mixtures [batch, samples] -> estimates [batch, sources, samples].
        clips: pairs of mixture [samples] and sources [count, samples]; silent sources (RMS below
            1e-8) are left out.

    Returns:
        "1S": mean SI-SNR of clips with a single source; "MSi": mean SI-SNR improvement over the
        mixture of clips with more; "SI-SNRi_2", "SI-SNRi_3", ...: the same by number of sources.
        Kinds that no clip belongs to are absent. Where a clip has more sources than there are
        estimates, only as many sources as can be matched count.

    Reference: the names and the matching are those of Wisdom et al., FUSS (2021).
    """
    single: list[float] = []
    improvements: dict[int, list[float]] = {}
    for mixture, sources in clips:
        active = sources[np.sqrt(np.mean(np.square(sources), axis=-1)) > 1e-8]
        if not len(active):
            continue
        estimates = np.asarray(separate(mixture[None]))[0]
        rows, values = matched_si_snr(active, estimates)
        if len(active) == 1:
            single.append(float(values[0]))
        else:
            gain = float(np.mean(values - si_snr(active[rows], mixture[None])))
            improvements.setdefault(len(active), []).append(gain)
    scores = {"1S": float(np.mean(single))} if single else {}
    if improvements:
        scores["MSi"] = float(np.mean([g for gains in improvements.values() for g in gains]))
    for count in sorted(improvements):
        scores[f"SI-SNRi_{count}"] = float(np.mean(improvements[count]))
    return scores


def momi(separate, recordings: np.ndarray, best_mixing) -> float:
    """SI-SNR improvement of remixed mixtures of mixtures: needs recordings only, no sources.

    Args:
        separate: mixtures [batch, samples] -> estimates [batch, sources, samples].
        recordings: [2 n, samples]; neighbours make a mixture of mixtures.
        best_mixing: (references [n, 2, samples], estimates) -> (loss, mixing matrix), as
            `mixit_loss`.

    Returns:
        Mean improvement in dB over the pairs.

    Reference: Wisdom et al. (2020), "MoMi".
    """
    gains = []
    for references in np.reshape(recordings, (-1, 1, 2, recordings.shape[-1])):
        mixture = references.sum(axis=1)
        estimates = np.asarray(separate(mixture))
        mixing = np.asarray(best_mixing(references, estimates)[1])
        remixed = mixing @ estimates
        gains.append(si_snr(references, remixed) - si_snr(references, mixture[:, None]))
    return float(np.mean(gains))
