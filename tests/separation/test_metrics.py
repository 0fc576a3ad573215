import itertools

import hypothesis
import numpy as np
import pytest
from fast_bss_eval.numpy import si_sdr
from hypothesis import strategies as st

from sepssl.separation.metrics import SeparationScores, matched_si_snr, momi, si_snr


def test_si_snr_hand_worked():
    # Target (1, 1) / 2 * 3 = (1.5, 1.5), noise (0.5, -0.5): 10 log10(4.5 / 0.5)
    assert si_snr([1.0, 1.0], [2.0, 1.0]) == pytest.approx(10 * np.log10(9))


def test_si_snr_keeps_the_mean():
    # With the mean removed, this would be perfect.
    assert si_snr([1.0, 3.0], [0.0, 2.0]) == pytest.approx(10 * np.log10(3.6 / 0.4))


def test_si_snr_of_silence_and_of_perfection():
    x = np.random.default_rng(0).normal(size=100)
    assert si_snr(x, 0 * x) == pytest.approx(-80.0)
    assert si_snr(0 * x, x) == pytest.approx(-80.0)
    assert si_snr(x, 3 * x) == pytest.approx(80.0, abs=1e-3)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(0, 10**6), st.floats(1e-5, 1e3))
def test_si_snr_equals_fast_bss_eval_at_any_scale(seed, scale):
    reference, noise = np.random.default_rng(seed).normal(size=(2, 100))
    estimate = scale * (reference + 0.5 * noise)
    expected = si_sdr(reference[None], estimate[None])[0]
    assert si_snr(1e-3 * reference, estimate) == pytest.approx(float(expected), abs=1e-3)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 10**6))
def test_matching_equals_the_best_permutation(seed):
    rng = np.random.default_rng(seed)
    references, estimates = rng.normal(size=(3, 20)), rng.normal(size=(4, 20))
    best = max(
        sum(si_snr(r, estimates[p]) for r, p in zip(references, chosen, strict=True))
        for chosen in itertools.permutations(range(4), 3)
    )
    rows, columns, values = matched_si_snr(references, estimates)
    assert rows.tolist() == [0, 1, 2]
    assert np.sum(values) == pytest.approx(best)
    np.testing.assert_allclose(values, si_snr(references, estimates[columns]))


def scores_of(*clips):
    scores = SeparationScores()
    for clip in clips:
        scores.add(*clip)
    return scores.result()


def test_fewer_estimates_than_sources_gain_nothing_by_it():
    sources = np.random.default_rng(0).normal(size=(4, 1000)) * [[1.0], [1.0], [2.0], [4.0]]
    mixture = sources.sum(0)
    for count in (1, 2, 3):
        scores = scores_of((mixture, sources, np.stack([mixture] * count)))
        assert scores["MSi"] == pytest.approx(0.0, abs=1e-6)
        assert scores["under"] == 1.0


def test_scores_by_number_of_sources():
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(3, 1000))
    none = np.zeros(1000)
    single = sources[0] + 0.1 * sources[1]
    clips = [
        (single, np.stack([sources[0], none]), np.stack([single, none])),
        (sources[0] + sources[1], sources[:2], np.stack([sources[0] + sources[1]] * 2)),
        (sources.sum(0), sources, np.stack([sources.sum(0)] * 3)),
        (none, np.stack([none]), np.stack([none])),  # nothing to separate
    ]
    scores = scores_of(*clips)
    expected = {"1S", "MSi", "SI-SNRi_2", "SI-SNRi_3", "under", "equal", "over"}
    assert set(scores) == expected
    assert scores["1S"] == pytest.approx(20.0, abs=0.5)  # noise 20 dB below
    assert scores["MSi"] == pytest.approx(0.0, abs=1e-6)  # the mixture itself improves nothing
    assert scores["equal"] == 1.0


def test_improvement_is_over_all_sources_not_over_clips():
    rng = np.random.default_rng(1)
    two, three = rng.normal(size=(2, 1000)), rng.normal(size=(3, 1000))
    clips = [(two.sum(0), two, two), (three.sum(0), three, np.stack([three.sum(0)] * 3))]
    scores = scores_of(*clips)
    assert scores["SI-SNRi_3"] == pytest.approx(0.0, abs=1e-9)
    assert scores["MSi"] == pytest.approx(scores["SI-SNRi_2"] * 2 / 5)


def test_estimates_20_db_below_the_quietest_source_do_not_count():
    rng = np.random.default_rng(2)
    loud, quiet = 10 * rng.normal(size=1000), rng.normal(size=1000)
    sources = np.stack([loud, quiet])
    level = np.sqrt(np.mean(quiet**2))

    def estimates_at(db):
        third = rng.normal(size=1000)
        third *= level * 10 ** (db / 20) / np.sqrt(np.mean(third**2))
        return np.stack([loud, quiet, third])

    def rates(estimates):
        scores = scores_of((loud + quiet, sources, estimates))
        return scores["under"], scores["equal"], scores["over"]

    assert rates(estimates_at(-19.9)) == (0, 0, 1)
    assert rates(estimates_at(-20.1)) == (0, 1, 0)
    assert rates(np.stack([loud, 0.09 * quiet])) == (1, 0, 0)
    # The estimate of the quiet source is silent by that rule: only the loud one counts.
    scores = scores_of((loud + quiet, sources, np.stack([loud, 0.09 * quiet])))
    expected = si_snr(loud, loud) - si_snr(loud, loud + quiet)
    assert scores["SI-SNRi_2"] == pytest.approx(float(expected))


def test_momi_of_a_perfect_and_of_an_idle_separator():
    rng = np.random.default_rng(0)
    recordings = rng.normal(size=(4, 500)).astype(np.float32)
    pairs = {tuple(np.round(a + b, 3)): (a, b) for a, b in (recordings[:2], recordings[2:])}

    def perfect(mixture):
        return np.stack(pairs[tuple(np.round(mixture[0], 3))])[None]

    def idle(mixture):
        return np.stack([mixture / 2] * 2, axis=1)

    assert momi(perfect, recordings) > 60
    assert momi(idle, recordings) == pytest.approx(0.0, abs=1e-3)


def test_momi_never_leaves_a_recording_without_a_source():
    """One channel holds almost all: adding up to the mixture matters less than the quiet one."""
    rng = np.random.default_rng(0)
    recordings = (rng.normal(size=(2, 2000)) * [[1.0], [0.01]]).astype(np.float32)

    def separate(mixture):
        rest = 0.5 * recordings[1:] + 0.002 * rng.normal(size=(1, 2000)).astype(np.float32)
        return np.stack([mixture - rest, rest], axis=1)

    improvement = momi(separate, recordings)
    assert improvement > 15  # of the quiet one, by about 48 dB


def test_momi_of_more_sources_than_can_be_searched():
    """17 sources: a stretch of time of one of the recordings each."""
    recordings = np.random.default_rng(0).normal(size=(2, 900)).astype(np.float32)
    stretches = np.repeat(np.eye(9, dtype=np.float32), 100, axis=1)
    stretches = [stretches, np.concatenate([stretches[:7], stretches[7:].sum(axis=0)[None]])]
    sources = np.concatenate([s * r for s, r in zip(stretches, recordings, strict=True)])
    sources = np.random.default_rng(1).permutation(sources)[None]
    assert sources.shape == (1, 17, 900)
    assert momi(lambda mixture: sources, recordings) > 60
