"""Rewards of edits: how far they can be trusted, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from selftaught.methods import _rewards

RNG = np.random.default_rng(3)


def tables(documents: int, edits: int, seeds: int, own: float, noise: float) -> list[_rewards.Scores]:
    """Rewards with a true part per edit (sd ``own``) and noise per trial (sd ``noise``)."""
    return [
        RNG.normal(0, own, (edits, 1)) + RNG.normal(0, noise, (edits, seeds)) + RNG.normal(0, 3, (1, seeds))
        for _ in range(documents)
    ]


def test_rewards_that_repeat_are_reliable_whatever_a_seed_adds_to_all() -> None:
    table = np.array([[0.0, 1.0, 5.0], [0.5, 1.5, 5.5], [0.2, 1.2, 5.2]])
    assert _rewards.reliability([table]) == pytest.approx(1.0)


def test_a_reward_worked_out_by_hand() -> None:
    table = np.array([[0.0, 0.0], [1.0, 0.0]])  # rows: MS 0.25, residual: SS 0.25 over 1
    assert _rewards.reliability([table]) == pytest.approx(0.0)
    table = np.array([[0.0, 0.0], [1.0, 0.5]])  # rows: SS 2 * 2 * 0.375^2 = 0.5625; residual: 4 * 0.125^2 = 0.0625
    assert _rewards.reliability([table]) == pytest.approx(1 - 0.0625 / 0.5625)


@pytest.mark.parametrize(("own", "noise", "true"), [(0.0, 1.0, 0.0), (1.0, 1.0, 0.75), (1.0, 3.0, 0.25)])
def test_reliability_is_the_edits_share_of_the_variance(own: float, noise: float, true: float) -> None:
    found = _rewards.reliability_of(tables(400, 5, 3, own, noise))
    assert found is not None
    assert found.low - 0.02 <= true <= found.high + 0.02, "3 seeds: own² / (own² + noise² / 3)"
    assert found.high - found.low < 0.2


def test_nothing_is_said_of_one_seed_or_of_edits_that_are_all_alike() -> None:
    assert _rewards.reliability([np.ones((5, 1))]) is None
    assert _rewards.reliability([np.ones((5, 3))]) is None
    assert _rewards.reliability_of([]) is None


def test_the_best_of_noise_is_no_better_when_it_is_asked_again() -> None:
    noise = tables(2000, 5, 3, own=0.0, noise=1.0)
    apparent = np.mean([t.mean(1).max() - t.mean() for t in noise])
    assert apparent > 0.5, "the best of five looks better"
    assert abs(np.mean(_rewards.honest_best(noise))) < 0.05, "and is not"


def test_the_best_of_edits_that_differ_is_better() -> None:
    assert np.mean(_rewards.honest_best(tables(500, 5, 3, own=1.0, noise=0.1))) > 1


def test_only_what_beats_the_base_by_more_than_the_threshold_is_chosen() -> None:
    assert _rewards.best([0.2, 0.5, 0.5], base=0.4, threshold=0.0) == 1, "of equal ones the first"
    assert _rewards.best([0.2, 0.4], base=0.4, threshold=0.0) is None, "as good as without an edit is not enough"
    assert _rewards.best([0.5], base=0.4, threshold=0.1) is None
    assert _rewards.best([], base=0.4, threshold=0.0) is None
    assert _rewards.best([0.1, 0.3], base=None, threshold=0.0) == 1, "marks are no answers to compare"


def test_group_relative_weights() -> None:
    weights = _rewards.relative([0.1, 0.4, 0.7])
    assert weights == pytest.approx([-1.2247, 0.0, 1.2247], abs=1e-3)
    assert sum(weights) == pytest.approx(0)
    assert _rewards.relative([0.3, 0.3, 0.3]) == [0.0, 0.0, 0.0], "no edit was better than another"
    assert max(_rewards.relative([0.0] * 20 + [1.0])) == _rewards.CLIP
    assert _rewards.relative([]) == []


def test_the_best_stay_in_their_order() -> None:
    assert _rewards.top([0.1, 0.9, 0.5, 0.5, 0.2], 3) == [1, 2, 3]
    assert _rewards.top([0.1, 0.5, 0.5], 1) == [1], "of equal ones the first"
