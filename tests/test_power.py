"""What a holdout can prove, against simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from selftaught import paired, power
from selftaught.config import GateConfig, PrimaryConfig

# ---------------------------------------------------------------- what a holdout can prove


@pytest.mark.parametrize(
    ("n", "gain", "alpha"), [(200, 0.08, 0.05), (500, 0.05, 0.05), (1000, 0.05, 0.05 / 3), (60, 0.3, 0.05)]
)
def test_power_is_how_often_mcnemar_sees_the_gain(n: int, gain: float, alpha: float) -> None:
    differ = max(power.DISCORDANCE, gain)
    cells = [(differ + gain) / 2, (differ - gain) / 2, 1 - differ]
    draws = np.random.default_rng(4).multinomial(n, cells, size=20_000)
    seen = np.mean([w >= power.critical_wins(int(w + x), alpha) for w, x, _ in draws])
    assert power.power(n, gain, alpha) == pytest.approx(seen, abs=0.012)


def test_power_has_no_seam_where_it_turns_to_the_normal() -> None:
    n = round(power.EXACT_POWER / power.DISCORDANCE)
    exact, normal = power.power(n, 0.016, 0.05), power.power(n + 1, 0.016, 0.05)
    assert exact == pytest.approx(normal, abs=0.005)


def test_smallest_gain_and_items_needed_say_the_same() -> None:
    for gain in (0.2, 0.05, 0.02, 0.01):
        n = power.items_needed(gain, 0.05)
        assert power.smallest_gain(n, 0.05) == pytest.approx(gain, rel=0.06)
        assert power.power(n, gain, 0.05) >= power.POWER


def test_more_items_see_smaller_gains_and_a_few_see_none() -> None:
    seen = [power.smallest_gain(n, 0.05) for n in (20, 100, 500, 2000, 20_000)]
    assert all(g is not None for g in seen)
    assert seen == sorted(seen, key=lambda g: -(g or 0)), seen
    assert power.smallest_gain(0, 0.05) is None
    assert power.smallest_gain(4, 0.05) is None, "four wins of four have p = 1/16"
    assert power.smallest_gain(5, 0.05) == pytest.approx(0.96, abs=0.01), "five of five have p = 1/32"


def test_a_tiny_gain_is_judged_at_once() -> None:
    assert power.items_needed(0.001, 0.05) == pytest.approx(1.86e6, rel=0.01)


# ---------------------------------------------------------------- other metrics and tests


@pytest.mark.parametrize("test", [paired.sign_flip, paired.bootstrap])
def test_the_units_asked_for_show_the_gain_in_a_graded_score(test: Callable[..., float]) -> None:
    n = power.units_for_spread(0.1, 0.05, 0.6)
    generator = np.random.default_rng(11)
    draws = [list(generator.normal(0.1, 0.6, n)) for _ in range(150)]
    fewer = {"draws": 400} if test is paired.bootstrap else {}
    seen = np.mean([test([0.0] * n, d, [None] * n, **fewer) <= 0.05 for d in draws])
    assert 0.72 <= seen <= 0.9


def test_a_bootstrap_asks_for_items_that_differ_and_a_spread_of_nothing_for_a_few() -> None:
    big = PrimaryConfig(test="bootstrap")
    assert power.items_for(GateConfig(primary=big, min_gain=0.5), 0.05) == 100, "30 of which differ"
    assert power.items_for(GateConfig(min_gain=0.5), 0.05) < 30
    assert power.units_for_spread(0.05, 0.05, 0.0) == power.fewest_units(0.05) == 5


def test_what_a_graded_score_can_prove_is_not_promised() -> None:
    graded = GateConfig(primary=PrimaryConfig(metric="score"))
    assert list(power.needed(graded, {"guard sort": 0.03})) == ["guard sort"]
    assert list(power.needed(GateConfig(), {})) == ["dev", "vault"]


@pytest.mark.parametrize("win", [0.5, 0.65, 0.97, 1.0])
@pytest.mark.parametrize("n", [1, 40, 700])
def test_a_tail_is_the_sum_of_its_terms(n: int, win: float) -> None:
    for k in {0, 1, n // 2, round(n * win), n - 1, n, n + 1}:
        terms = [power._pmf(i, n, win) for i in range(k, n + 1)]
        assert power._tail(k, n, win) == pytest.approx(sum(terms), rel=1e-9, abs=1e-12), (k, n, win)
