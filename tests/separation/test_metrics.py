import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from sepssl.separation.metrics import matched_si_snr, momi, separation_scores, si_snr
from sepssl.separation.mixit import mixit_loss


def test_si_snr_hand_worked():
    # Target (1, 1) / 2 * 3 = (1.5, 1.5), noise (0.5, -0.5): 10 log10(4.5 / 0.5)
    assert si_snr([1.0, 1.0], [2.0, 1.0]) == pytest.approx(10 * np.log10(9))


def test_si_snr_keeps_the_mean():
    # With the mean removed, this would be perfect.
    assert si_snr([1.0, 3.0], [0.0, 2.0]) == pytest.approx(10 * np.log10(3.6 / 0.4))


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(0, 10**6), st.floats(0.1, 100.0))
def test_si_snr_ignores_scale(seed, scale):
    reference, noise = np.random.default_rng(seed).normal(size=(2, 100))
    expected = si_snr(reference, reference + noise)
    assert si_snr(reference, scale * (reference + noise)) == pytest.approx(expected, abs=1e-3)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 10**6))
def test_matching_equals_the_best_permutation(seed):
    rng = np.random.default_rng(seed)
    references, estimates = rng.normal(size=(3, 20)), rng.normal(size=(4, 20))
    best = max(
        sum(si_snr(r, estimates[p]) for r, p in zip(references, chosen, strict=True))
        for chosen in itertools.permutations(range(4), 3)
    )
    rows, values = matched_si_snr(references, estimates)
    assert rows.tolist() == [0, 1, 2]
    assert np.sum(values) == pytest.approx(best)


def test_fewer_estimates_than_sources_gain_nothing_by_it():
    sources = np.random.default_rng(0).normal(size=(4, 1000)) * [[1.0], [1.0], [2.0], [4.0]]
    clips = [(sources.sum(0), sources)]
    for count in (1, 2, 3):
        scores = separation_scores(
            lambda mixture, count=count: np.stack([mixture / count] * count, axis=1), clips
        )
        assert scores["MSi"] == pytest.approx(0.0, abs=1e-6)


def test_scores_by_number_of_sources():
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(3, 1000))
    none = np.zeros(1000)
    clips = [
        (sources[0] + 0.1 * sources[1], np.stack([sources[0], none])),
        (sources[0] + sources[1], sources[:2]),
        (sources.sum(0), sources),
    ]
    scores = separation_scores(lambda mixture: np.stack([mixture / 2] * 3, axis=1), clips)
    assert set(scores) == {"1S", "MSi", "SI-SNRi_2", "SI-SNRi_3"}
    assert scores["1S"] == pytest.approx(20.0, abs=0.5)  # noise 20 dB below
    assert scores["MSi"] == pytest.approx(0.0, abs=1e-6)  # the mixture itself improves nothing


def test_momi_of_a_perfect_and_of_an_idle_separator():
    rng = np.random.default_rng(0)
    recordings = rng.normal(size=(4, 500)).astype(np.float32)
    pairs = {tuple(np.round(a + b, 3)): (a, b) for a, b in (recordings[:2], recordings[2:])}

    def perfect(mixture):
        return np.stack(pairs[tuple(np.round(mixture[0], 3))])[None]

    def idle(mixture):
        return np.stack([mixture / 2] * 2, axis=1)

    assert momi(perfect, recordings, mixit_loss) > 60
    assert momi(idle, recordings, mixit_loss) == pytest.approx(0.0, abs=1e-3)
