import numpy as np
import pytest
from scipy import stats

from sepssl.errors import InputError
from sepssl.evaluation.paired import paired_difference


def test_hand_worked():
    first, second = {1: 0.5, 2: 0.6, 3: 0.7, 9: 0.0}, {3: 0.65, 1: 0.4, 2: 0.55}
    found = paired_difference(first, second)
    # Differences 0.10, 0.05, 0.05: mean 0.0667, deviation 0.0289, t(2) = 4.303.
    assert found.seeds == 3
    assert found.mean == pytest.approx(0.066667, abs=1e-6)
    assert found.low == pytest.approx(0.066667 - 4.302653 * 0.0288675 / 3**0.5, abs=1e-6)
    assert found.high == pytest.approx(0.066667 + 4.302653 * 0.0288675 / 3**0.5, abs=1e-6)


def test_the_interval_is_student_s():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6))
    found = paired_difference(dict(enumerate(a)), dict(enumerate(b)), confidence=0.9)
    half = stats.t.ppf(0.95, 5) * np.std(a - b, ddof=1) / 6**0.5
    assert found[1:3] == pytest.approx((np.mean(a - b) - half, np.mean(a - b) + half))


def test_equal_differences_have_an_interval_of_no_width():
    found = paired_difference({1: 0.75, 2: 0.5}, {1: 0.5, 2: 0.25})
    assert found == (0.25, 0.25, 0.25, 2)


def test_one_seed_says_nothing_and_none_is_an_error():
    found = paired_difference({4: 1.0}, {4: 0.5})
    assert found == (0.5, -np.inf, np.inf, 1)
    with pytest.raises(InputError, match=r"no seed in common: \[1\] and \[2\]"):
        paired_difference({1: 0.0}, {2: 0.0})
