import numpy as np
import pytest

from sepssl.separation.metrics import si_snr
from sepssl.separation.oracle import KINDS, oracle_masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 300, 5000])
def test_a_single_source_is_given_back(kind, samples):
    x = np.random.default_rng(0).normal(size=samples)
    np.testing.assert_allclose(oracle_masks(x, x[None], 16000)[kind], x[None], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_sources_apart_in_frequency_are_told_apart(kind):
    t = np.arange(16000) / 16000
    sources = np.stack([np.sin(2 * np.pi * 500 * t), 0.3 * np.sin(2 * np.pi * 3000 * t)])
    estimates = oracle_masks(sources.sum(0), sources, 16000)[kind]
    inside = slice(1000, -1000)
    assert np.all(si_snr(sources[:, inside], estimates[:, inside]) > 30)


def test_ratio_masks_share_out_in_proportion_to_the_magnitudes():
    x = np.random.default_rng(0).normal(size=4000)
    estimates = oracle_masks(4 * x, np.stack([3 * x, x]), 16000)["ratio"]
    np.testing.assert_allclose(estimates, [3 * x, x], atol=1e-6)


def test_a_bin_is_given_to_one_source_only():
    x = np.random.default_rng(0).normal(size=4000)
    estimates = oracle_masks(2 * x, np.stack([x, x]), 16000)["binary"]
    np.testing.assert_allclose(estimates.sum(axis=0), 2 * x, atol=1e-6)


def test_what_the_sources_do_not_explain_is_a_source_of_its_own():
    x = np.random.default_rng(0).normal(size=4000)
    for kind, share in (("ratio", 0.25), ("binary", 0.0)):
        estimate = oracle_masks(x + 3 * x, x[None], 16000)[kind]  # residual: 3 x
        np.testing.assert_allclose(estimate, share * 4 * x[None], atol=1e-6)
