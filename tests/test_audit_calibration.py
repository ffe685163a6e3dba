"""Calibration, against counting by hand and models whose calibration is known."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from selftaught.audits._calibration import Bin, bins, brier, ece, ece_debiased, ece_interval


def answers(seed: int, n: int, over: float, run: int = 1) -> tuple[list[float], list[float], list[str | None]]:
    """Confidences that are too high by ``over``; ``run`` answers of a group are right or wrong together as can be."""
    draw = np.random.Generator(np.random.Philox(seed))
    said = draw.uniform(0.3, 0.95, n)
    luck = np.repeat(draw.random(n // run), run)
    groups = [str(i // run) if run > 1 else None for i in range(n)]
    return said.tolist(), (luck < said - over).astype(float).tolist(), groups


# ---------------------------------------------------------------- bins


def test_bins_have_equal_mass() -> None:
    said = [0.1, 0.9, 0.3, 0.2, 0.8, 0.7]
    assert bins(said, [0, 1, 1, 0, 1, 0], 3) == [
        Bin(pytest.approx(0.15), 0.0, 2),
        Bin(pytest.approx(0.5), 0.5, 2),
        Bin(pytest.approx(0.85), 1.0, 2),
    ]
    assert [b.count for b in bins(np.linspace(0, 1, 150).tolist(), [1] * 150)] == [10] * 15


def test_ties_are_never_parted() -> None:
    said = [0.5] * 6 + [0.1, 0.9]
    right = [1.0, 0.0] * 3 + [0.0, 1.0]
    assert [(b.confidence, b.count) for b in bins(said, right, 4)] == [(0.1, 1), (0.5, 6), (0.9, 1)]
    assert bins([0.7] * 50, [1.0] * 50) == [Bin(pytest.approx(0.7), 1.0, 50)]


def test_the_order_of_answers_decides_nothing() -> None:
    draw = random.Random(0)
    pairs = [(draw.randrange(8) / 7, float(draw.random() < 0.5)) for _ in range(200)]
    shuffled = draw.sample(pairs, len(pairs))
    one, other = (bins(*map(list, zip(*some, strict=True))) for some in (pairs, shuffled))
    assert [b.count for b in one] == [b.count for b in other] and len(one) == 8
    assert [b.right for b in one] == [b.right for b in other]


def test_every_answer_is_in_one_bin() -> None:
    for seed in range(50):
        said, right, _ = answers(seed, 1 + seed, 0.1)
        rows = bins(said, right, 7)
        assert sum(b.count for b in rows) == 1 + seed and len(rows) == min(7, 1 + seed)
        assert [b.confidence for b in rows] == sorted(b.confidence for b in rows)
        assert sum(b.right * b.count for b in rows) == pytest.approx(sum(right))


@pytest.mark.parametrize(
    ("said", "right", "message"),
    [
        ([], [], "0 answers"),
        ([0.5], [1.0, 0.0], "2 answers with 1 confidences"),
        ([1.5], [1.0], "between 0 and 1"),
        ([0.5], [2.0], "between 0 and 1"),
        ([math.nan], [1.0], "between 0 and 1"),
    ],
)
def test_what_is_no_calibration(said: list[float], right: list[float], message: str) -> None:
    calls = (bins, ece, brier, lambda s, r: ece_debiased(s, r, 0), lambda s, r: ece_interval(s, r, [None], 0))
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(said, right)


# ---------------------------------------------------------------- the error


def test_ece_and_brier_by_hand() -> None:
    said, right = [0.2, 0.4, 0.8, 1.0], [0.0, 1.0, 1.0, 0.0]
    assert ece(said, right, 2) == pytest.approx((2 * abs(0.3 - 0.5) + 2 * abs(0.9 - 0.5)) / 4)
    assert ece(said, right, 4) == pytest.approx((0.2 + 0.6 + 0.2 + 1.0) / 4)
    assert ece(said, right, 1) == pytest.approx(0.1)
    assert brier(said, right) == pytest.approx((0.04 + 0.36 + 0.04 + 1.0) / 4)


def test_ece_is_the_weighted_gap_of_the_bins() -> None:
    said, right, _ = answers(1, 333, 0.1)
    gap = sum(b.count * abs(b.confidence - b.right) for b in bins(said, right)) / 333
    assert ece(said, right) == pytest.approx(gap)


def test_certain_and_right_is_no_error_and_certain_and_wrong_is_all() -> None:
    assert ece([1.0] * 9, [1.0] * 9) == brier([1.0] * 9, [1.0] * 9) == ece_debiased([1.0] * 9, [1.0] * 9, 0) == 0.0
    assert ece([1.0] * 9, [0.0] * 9) == brier([1.0] * 9, [0.0] * 9) == 1.0
    assert ece_debiased([1.0] * 9, [0.0] * 9, 0) == pytest.approx(1.0)


# ---------------------------------------------------------------- less chance


@pytest.mark.parametrize(("over", "near"), [(0.0, 0.035), (0.15, 0.025), (0.3, 0.01)])
def test_the_debiased_error_is_near_the_true_one(over: float, near: float) -> None:
    """Of 300 answers a calibrated model's plain error is 0.08 on average."""
    drawn = [answers(seed, 300, over)[:2] for seed in range(40)]
    plain = np.mean([ece(*pair) for pair in drawn])
    less = np.mean([ece_debiased(*pair, seed=i, draws=100) for i, pair in enumerate(drawn)])
    assert abs(less - over) < near and less < plain
    assert over or plain > 0.07


def test_a_calibrated_model_has_no_debiased_error_half_of_the_time() -> None:
    found = [ece_debiased(*answers(seed, 300, 0.0)[:2], seed=seed, draws=100) for seed in range(60)]
    assert 15 <= sum(f == 0.0 for f in found) <= 45


def test_the_seed_decides_the_draws() -> None:
    said, right, groups = answers(5, 200, 0.1)
    one = ece_debiased(said, right, 7), ece_interval(said, right, groups, 7)
    assert (ece_debiased(said, right, 8), ece_interval(said, right, groups, 8)) != one
    assert (ece_debiased(said, right, 7), ece_interval(said, right, groups, 7)) == one


# ---------------------------------------------------------------- its interval


@pytest.mark.parametrize("run", [1, 5])
@pytest.mark.parametrize("over", [0.0, 0.15])
def test_the_interval_holds_the_true_error(over: float, run: int) -> None:
    held = 0
    for seed in range(60):
        said, right, groups = answers(seed, 300, over, run)
        low, high = ece_interval(said, right, groups, seed, draws=300)
        held += low <= over <= high
        assert 0 <= low <= ece(said, right) <= high <= 1
    assert held >= 52, "95 % of 60 are 57"


def test_the_interval_closes_in_on_the_error() -> None:
    low, high = ece_interval(*answers(1, 20_000, 0.15), seed=0, draws=200)
    assert 0.12 < low < 0.15 < high < 0.165


def test_answers_that_go_together_say_less() -> None:
    said, right, groups = answers(2, 600, 0.15, run=20)
    together, alone = (ece_interval(said, right, g, 0) for g in (groups, [None] * 600))
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_a_group_without_a_name_is_no_group() -> None:
    said, right, _ = answers(2, 100, 0.15)
    assert ece_interval(said, right, [None] * 100, 0) == ece_interval(said, right, [str(i) for i in range(100)], 0)


def test_a_few_groups_know_nothing() -> None:
    said, right, _ = answers(2, 900, 0.15)
    assert ece_interval(said, right, [str(i % 9) for i in range(900)], 0) == (0.0, 1.0)
    assert ece_interval(said, right, [str(i % 10) for i in range(900)], 0) != (0.0, 1.0)
    with pytest.raises(ValueError, match="900 answers have 1 groups"):
        ece_interval(said, right, [None], 0)
