"""What a model gives away, against exact arithmetic and counting."""

from __future__ import annotations

import math
import random
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest

from selftaught.audits._leaks import _log_rate, common_prefix, exposure, extractable_within

# ---------------------------------------------------------------- (n, p)-discoverable


def test_it_is_the_formula_where_that_can_be_computed() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        chance = Fraction(draw.randrange(1, 999), 1000)
        n, p = draw.randrange(1, 40), Fraction(draw.randrange(1, 99), 100)
        expected = 1 - (1 - chance) ** n - p
        if abs(expected) > 1e-9:  # else which side it is on is a matter of rounding
            assert extractable_within([math.log(chance)], n, float(p)) == [expected > 0]


def test_it_turns_where_the_number_of_samples_does() -> None:
    """A text of probability e**-50 is had with 1/2 in log(2) e**50 samples, and one of e**-5000 likewise."""
    for logprob in (-50, -100, -600):
        needed = math.exp(-logprob) * math.log(2)
        assert extractable_within([logprob], int(needed * 1.0001), 0.5) == [True]
        assert extractable_within([logprob], int(needed * 0.9999), 0.5) == [False]
    assert extractable_within([-5000.0, -4600.0], 10**2000, 0.5) == [False, True], "10**2000 is e**4605.2"


@pytest.mark.parametrize("logprob", [-1e-12, -0.1, -0.693, -0.694, -1.0, -10.0, -39.99, -40.01, -200.0])
def test_the_rate_is_that_of_two_hundred_digits(logprob: float) -> None:
    with localcontext(prec=200):
        exact = (-(1 - Decimal(logprob).exp()).ln()).ln()
    assert _log_rate(logprob) == pytest.approx(float(exact), rel=1e-12)


def test_certain_and_impossible_texts() -> None:
    assert extractable_within([0.0, 1e-9, -math.inf], 1, 0.999999) == [True, True, False]
    assert extractable_within([-math.inf], 10**400, 1e-300) == [False]
    assert extractable_within([], 5, 0.5) == []
    assert extractable_within([math.log(0.5)], 1, 0.5) == [True], "as likely as p will do"


def test_more_samples_or_a_smaller_p_never_extract_less() -> None:
    sums = [-0.5 * k for k in range(60)]
    counts = [[sum(extractable_within(sums, n, p)) for n in (1, 10, 10**3, 10**9)] for p in (0.9, 0.1, 1e-6)]
    assert all(row == sorted(row) for row in counts) and counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize(("n", "p"), [(0, 0.5), (1, 0.0), (1, 1.0), (1, math.nan)])
def test_what_cannot_be_asked(n: int, p: float) -> None:
    with pytest.raises(ValueError, match="n must be at least 1 and p between 0 and 1"):
        extractable_within([-1.0], n, p)


def test_what_is_not_a_number_is_no_text_that_is_safe() -> None:
    for call in (lambda: extractable_within([-1.0, math.nan], 1, 0.5), lambda: exposure(-1.0, [math.nan])):
        with pytest.raises(ValueError, match="not a number"):
            call()


# ---------------------------------------------------------------- canaries


def test_exposure_by_hand() -> None:
    assert exposure(-1.0, [-2.0] * 1023) == 10.0, "first of 1,024"
    assert exposure(-1.0, [-0.5, -2.0, -3.0]) == 1.0, "second of four"
    assert exposure(-9.0, [-2.0] * 7) == 0.0, "the last"
    assert exposure(-1.0, []) == 0.0


def test_ties_count_half() -> None:
    assert exposure(-1.0, [-1.0] * 4 + [-2.0] * 3) == pytest.approx(math.log2(8 / 3))
    assert exposure(-1.0, [-1.0] * 999) == pytest.approx(1.0, abs=0.002), "as a canary in the middle"


def test_a_canary_that_was_not_learned_has_one_by_the_natural_logarithm_of_two() -> None:
    others = [float(-i) for i in range(4095)]
    mean = sum(exposure(-place + 0.5, others) for place in range(4096)) / 4096
    assert mean == pytest.approx(1 / math.log(2), abs=0.005)


# ---------------------------------------------------------------- prefixes


def test_a_common_prefix_ends_where_they_part() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix((1, 2), [1, 2, 3]) == 2
    assert common_prefix([1], [2]) == common_prefix([], [1]) == common_prefix([], []) == 0
