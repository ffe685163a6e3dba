"""Paired tests and intervals, against counting by hand, published tables and simulated truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from reports import pair, report
from selftaught import paired, power
from selftaught.evaluate import mean, proportion
from selftaught.types import Metric
from simulated import p_values, right_and_wrong, skewed

# ---------------------------------------------------------------- McNemar


@pytest.mark.parametrize("n", range(11))
def test_mcnemar_is_what_counting_every_outcome_gives(n: int) -> None:
    outcomes = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]
    for wins in range(n + 1):
        share = sum(o >= wins for o in outcomes) / len(outcomes)
        assert paired.mcnemar(wins, n - wins) == pytest.approx(share, rel=1e-12)


def test_mcnemar_of_a_known_table() -> None:
    assert paired.mcnemar(85, 38) == pytest.approx(1.360e-05, rel=1e-3)
    assert paired.mcnemar(0, 0) == 1.0, "nothing differs, nothing is shown"
    assert paired.mcnemar(5, 0) == 1 / 32


def test_mcnemar_has_no_seam_where_it_turns_to_logarithms() -> None:
    exact = sum(math.comb(1001, k) for k in range(540, 1002)) / 2**1001
    assert paired.mcnemar(540, 461) == pytest.approx(exact, rel=1e-9)
    assert paired.mcnemar(50_500, 49_500) == pytest.approx(math.erfc(999 / math.sqrt(2e5)) / 2, rel=0.01)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.5, 1e-6])
def test_critical_wins_is_where_mcnemar_turns(alpha: float) -> None:
    for n in range(60):
        fewest = next((w for w in range(n + 1) if paired.mcnemar(w, n - w) <= alpha), n + 1)
        assert power.critical_wins(n, alpha) == fewest


def test_wins_and_losses_are_counted_per_item() -> None:
    assert paired.wins_losses([0, 0, 1, 1, 0], [1, 0, 0, 1, 1]) == (2, 1)
    with pytest.raises(ValueError, match="shorter"):
        paired.wins_losses([0, 1], [0])


# ---------------------------------------------------------------- sign-flip


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e9, 1e15])
def test_a_p_value_does_not_depend_on_the_unit_of_a_score(unit: float) -> None:
    change = [0.1, 0.7, 0.2, 0.4, 0.3]
    before, after = [0.3 * unit] * 5, [(0.3 + c) * unit for c in change]
    for groups in ([None] * 5, ["a", "b", "c", "d", "e"]):
        assert paired.sign_flip(before, after, groups) == pytest.approx(1 / 32, abs=0.005), "one outcome of 32"


def test_what_only_rounding_changed_did_not_change() -> None:
    before, after = [0.1, 0.2, 0.3, 0.7] * 40, [0.2, 0.7, 0.1, 0.3] * 40
    groups = [f"passage {i // 4}" for i in range(160)]
    assert (0.2 - 0.1) + (0.7 - 0.2) + (0.1 - 0.3) + (0.3 - 0.7) != 0.0
    assert paired.differing(before, after, groups) == 0
    assert paired.sign_flip(before, after, groups) == 1.0 and paired.bootstrap(before, after, groups) == 1.0


def test_sign_flip_of_single_items_agrees_with_mcnemar() -> None:
    before, after = pair(14, 5, 10, 10)
    p = paired.sign_flip(before.scores, after.scores, before.groups)
    assert p == pytest.approx(paired.mcnemar(14, 5), abs=4 * math.sqrt(0.03 / paired.FLIPS))


def test_sign_flip_counts_groups_not_items() -> None:
    before = [0.0] * 40
    after = [1.0] * 40
    groups = [f"g{i % 4}" for i in range(40)]
    p = paired.sign_flip(before, after, groups)
    assert p == pytest.approx(1 / 16, abs=0.01), "40 wins in four groups are four coins"


def test_sign_flip_of_uneven_groups_is_what_every_flip_gives() -> None:
    sums = [3, -2, 1, 1, 4]
    before = [0.0 if s > 0 else 1.0 for s in sums for _ in range(abs(s))]
    after = [1.0 - b for b in before]
    groups = [f"g{i}" for i, s in enumerate(sums) for _ in range(abs(s))]
    flips = [sum(x * s for x, s in zip(sums, signs, strict=True)) for signs in itertools.product((-1, 1), repeat=5)]
    exact = sum(f >= sum(sums) for f in flips) / len(flips)
    assert paired.sign_flip(before, after, groups) == pytest.approx(exact, abs=0.01)


def test_sign_flip_sees_nothing_where_nothing_differs_and_repeats_itself() -> None:
    assert paired.sign_flip([1.0, 0.0], [1.0, 0.0], ["a", "b"]) == 1.0
    before, after = pair(9, 4, 2, 2)
    twice = [paired.sign_flip(before.scores, after.scores, before.groups) for _ in range(2)]
    assert twice[0] == twice[1]


def test_a_group_named_like_an_item_is_not_that_item() -> None:
    assert paired.sign_flip([0, 0], [1, 1], ["1", None]) == pytest.approx(0.25, abs=0.02), "two coins, not one"


# ---------------------------------------------------------------- Tango


def likelihood(wins: int, losses: int, n: int, q: float, difference: float) -> float:
    """Trinomial log-likelihood with P(loss) = q and P(win) = q + difference."""
    cells = [(wins, q + difference), (losses, q), (n - wins - losses, 1 - 2 * q - difference)]
    if any(p < 0 or (p == 0 and count) for count, p in cells):
        return -math.inf
    return sum(count * math.log(p) for count, p in cells if count)


def constrained(wins: int, losses: int, n: int, difference: float) -> float:
    """The most likely P(loss) under the hypothesis, by narrowing a grid: no formula involved."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    for _ in range(40):
        grid = [low + (high - low) * i / 20 for i in range(21)]
        best = max(range(21), key=lambda i: likelihood(wins, losses, n, grid[i], difference))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 20)]
    return (low + high) / 2


@pytest.mark.parametrize(("wins", "losses", "n"), [(9, 4, 50), (0, 3, 40), (5, 0, 30), (0, 0, 20), (12, 12, 24)])
@pytest.mark.parametrize("difference", [-0.2, -0.03, 0.05, 0.4])
def test_tango_solves_the_constrained_likelihood(wins: int, losses: int, n: int, difference: float) -> None:
    q = constrained(wins, losses, n, difference)
    variance = n * (2 * q + difference * (1 - difference))
    expected = (wins - losses - n * difference) / math.sqrt(variance)
    assert paired.tango(wins, losses, n, difference) == pytest.approx(expected, rel=1e-5)


def test_tango_at_no_difference_is_mcnemars_statistic() -> None:
    assert paired.tango(9, 4, 50, 0.0) == pytest.approx((9 - 4) / math.sqrt(9 + 4))
    assert paired.tango(0, 0, 50, 0.0) == 0.0, "nothing differs, nothing is shown"


def test_the_interval_is_where_the_statistic_crosses() -> None:
    for wins, losses, n in [(9, 4, 50), (0, 0, 100), (7, 0, 40), (0, 7, 40)]:
        low, high = paired.paired_interval(wins, losses, n)
        assert paired.tango(wins, losses, n, low) == pytest.approx(1.959964, abs=1e-4)
        assert paired.tango(wins, losses, n, high) == pytest.approx(-1.959964, abs=1e-4)
        assert low <= (wins - losses) / n <= high


def test_the_interval_of_no_difference_is_even_to_both_sides() -> None:
    low, high = paired.paired_interval(0, 0, 100)
    edge = 1.959964**2 / (100 + 1.959964**2)  # where n d / (1 - d) = z squared
    assert (low, high) == (pytest.approx(-edge, abs=1e-6), pytest.approx(edge, abs=1e-6))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(3).multinomial(120, [0.15, 0.08, 0.77], size=1500)
    intervals = [paired.paired_interval(int(w), int(x), 120) for w, x, _ in draws]
    held = np.mean([low <= 0.07 <= high for low, high in intervals])
    assert 0.935 <= held <= 0.965


# ---------------------------------------------------------------- Wilson


def test_wilson_solves_its_own_equation() -> None:
    for successes, n in [(0, 10), (10, 10), (3, 17), (81, 263)]:
        for edge in paired.wilson(successes, n):
            if 1e-9 < edge < 1 - 1e-9:
                score = abs(successes / n - edge) / math.sqrt(edge * (1 - edge) / n)
                assert score == pytest.approx(1.959964, abs=1e-4)


def test_wilson_of_a_published_table() -> None:
    low, high = paired.wilson(81, 263)  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize("measured", [proportion, mean])
def test_the_interval_of_an_average_counts_groups_and_not_their_items(measured: Callable[..., Metric]) -> None:
    """Four copies of every answer are no more answers; four that have nothing in common are four."""
    generator = np.random.default_rng(3)
    single = generator.integers(0, 2, 200).astype(float)
    copies, groups = np.repeat(single, 4), [f"passage {i // 4}" for i in range(800)]
    one, four = measured(list(single)), measured(list(copies), groups)
    assert (four.low, four.high) == pytest.approx((one.low, one.high), abs=1e-3) and four.n == 800
    apart = list(generator.integers(0, 2, 800).astype(float))
    alone, grouped = measured(apart), measured(apart, groups)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.12)
    assert proportion([1.0] * 800, groups).low == proportion([1.0] * 200).low, "nothing varies: each group is one"


def test_wilson_of_nothing_is_everything() -> None:
    assert paired.wilson(0, 0) == (0.0, 1.0)


# ---------------------------------------------------------------- bootstrap


@pytest.mark.parametrize(("n", "differ"), [(300, 0.15), (1000, 0.05), (1000, 0.3)])
def test_no_change_in_right_answers_passes_a_bootstrap_no_more_often_than_alpha(n: int, differ: float) -> None:
    found = p_values("bootstrap", right_and_wrong(400, n, differ))
    assert np.mean(found <= 0.05) <= 0.05 + 0.025
    assert np.mean(found <= 0.05 / 3) <= 0.05 / 3 + 0.015


def test_a_bootstrap_asks_about_the_mean_where_a_sign_flip_asks_whether_anything_changed() -> None:
    for sign in (1, -1):
        assert np.mean(p_values("bootstrap", skewed(400, 60, sign)) <= 0.05) <= 0.05 + 0.025
    assert np.mean(p_values("sign_flip", skewed(400, 60, -1)) <= 0.05) > 0.07, "a mean that stands, scores that did not"


def test_a_bootstrap_on_a_few_differing_units_knows_nothing() -> None:
    differences = [1.0] * (paired.FEWEST - 1) + [0.0] * 200
    assert paired.bootstrap([0.0] * len(differences), differences, [None] * len(differences)) == 1.0
    enough = [1.0, *differences]
    assert paired.bootstrap([0.0] * len(enough), enough, [None] * len(enough)) < 0.001
    groups = [f"g{i % 29}" for i in range(len(enough))]
    assert paired.bootstrap([0.0] * len(enough), enough, groups) == 1.0, "29 groups are 29, however many items"


def test_a_bootstrap_of_an_even_change_and_of_none() -> None:
    n = paired.FEWEST
    assert paired.bootstrap([0.0] * n, [0.5] * n, [None] * n) == pytest.approx(1 / (paired.DRAWS + 1))
    assert paired.bootstrap([0.5] * n, [0.0] * n, [None] * n) == 1.0
    assert paired.bootstrap([0.5] * n, [0.5] * n, [None] * n) == 1.0


def test_a_bootstrap_sees_a_gain_that_is_there_and_repeats_itself() -> None:
    generator = np.random.default_rng(9)
    before, after = generator.normal(0, 1, 400), generator.normal(0.25, 1, 400)
    found = [paired.bootstrap(list(before), list(after), [None] * 400) for _ in range(2)]
    assert found[0] == found[1] < 0.01
    assert paired.bootstrap(list(after), list(before), [None] * 400) > 0.9


# ---------------------------------------------------------------- the gain


def test_the_gain_of_single_right_answers_has_tangos_interval() -> None:
    found = paired.gain(*pair(9, 4, 20, 17))
    assert (found.value, found.n) == (0.1, 50)
    assert (found.low, found.high) == paired.paired_interval(9, 4, 50)


@pytest.mark.parametrize(("clusters", "share"), [(60, 1.0), (150, 0.5), (100, 0.1), (12, 0.5)])
def test_the_interval_over_groups_holds_the_truth_as_often_as_it_says(clusters: int, share: float) -> None:
    """Also where few groups differ, and there it is wide rather than sure."""
    generator, held = np.random.default_rng(10), []
    for _ in range(300):
        sizes = generator.integers(1, 8, clusters)
        moved = (generator.random(clusters) < share) * generator.choice([-1.0, 1.0], clusters)
        after = [float(m) for m, n in zip(moved, sizes, strict=True) for _ in range(n)]
        groups = [f"g{i}" for i, n in enumerate(sizes) for _ in range(n)]
        found = paired.gain(report([0.0] * len(after), groups), report(after, groups), draws=1000)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) >= 0.92


def test_the_interval_of_nothing_that_differs_is_not_sure_of_it() -> None:
    groups = [f"g{i % 30}" for i in range(90)]
    found = paired.gain(report([1.0] * 90, groups), report([1.0] * 90, groups))
    assert found.value == 0.0 and found.high > 0.08, "of thirty groups one in ten may still change"
    assert found.low == -found.high
    graded = paired.gain(report([3.5] * 30, unit="score"), report([3.5] * 30, unit="score"))
    assert graded.high > 0.08
