"""What was forgotten, by hand, and what noise makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selftaught.audits._forgetting import Forgotten, backward_transfer, forgotten


def test_forgetting_by_hand() -> None:
    history = [[1, 0, 1, 0], [1, 1, 0, 0]]  # means 0.5 and 0.5; the best of each item 1 1 1 0
    assert forgotten(history, [1, 0, 0, 0]) == Forgotten(items=0.5, suite=0.25)
    assert forgotten(history, [1, 1, 1, 1]) == Forgotten(items=-0.25, suite=-0.5), "more is known than ever"
    assert forgotten([[0, 0], [1, 1], [0, 1]], [0, 0]) == Forgotten(items=1.0, suite=1.0), "the best, wherever it was"
    assert forgotten([[0.5]], [0.25]) == Forgotten(items=0.25, suite=0.25)


def test_gains_hide_losses_from_the_mean_alone() -> None:
    assert forgotten([[1, 1, 0, 0], [0, 0, 1, 1]], [0, 0, 1, 1]) == Forgotten(items=0.5, suite=0.0)
    assert forgotten([[1, 1, 0, 0]], [0, 0, 1, 1]) == Forgotten(0.0, 0.0), "of one round there is no best"


def test_the_best_of_items_is_never_less_than_the_best_of_the_suite() -> None:
    draw = np.random.Generator(np.random.Philox(0))
    for _ in range(200):
        history, now = draw.random((draw.integers(1, 6), 7)), draw.random(7)
        found = forgotten(history.tolist(), now.tolist())
        assert found.items >= found.suite - 1e-12
        assert found.items == pytest.approx(np.mean([max(h[i] for h in history) - now[i] for i in range(7)]))


def test_noise_alone_is_forgetting_by_items_and_hardly_by_the_suite() -> None:
    """Coins: after one round nothing is lost on average, after two a quarter, after many a half."""
    draw = np.random.Generator(np.random.Philox(0))
    coins = draw.integers(0, 2, (11, 20_000)).astype(float).tolist()
    for rounds, lost in ((1, 0.0), (2, 0.25), (10, 0.5)):
        found = forgotten(coins[:rounds], coins[-1])
        assert found.items == pytest.approx(lost, abs=0.02) and abs(found.suite) < 0.02
    assert abs(backward_transfer(coins[:10], coins[-1], [i % 10 for i in range(20_000)])) < 0.02


def test_backward_transfer_is_since_an_item_was_learned() -> None:
    history = [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert backward_transfer(history, [0, 1, 1], [0, 1, 2]) == pytest.approx(-1 / 3)
    assert backward_transfer(history, [1, 1, 1], [0, 0, 0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("history", "now"), [([], [1.0]), ([[]], []), ([[1.0, 0.0]], [1.0]), ([[1.0], [1.0, 0.0]], [1.0])]
)
def test_scores_must_match(history: list[list[float]], now: list[float]) -> None:
    with pytest.raises(ValueError, match="must match"):
        forgotten(history, now)


def test_what_is_not_a_number_is_not_passed_over() -> None:
    for history, now in (([[math.nan]], [1.0]), ([[1.0]], [math.nan])):
        with pytest.raises(ValueError, match="not a number"):
            forgotten(history, now)


@pytest.mark.parametrize("learned", [[0], [0, 2], [-1, 0]])
def test_every_item_was_learned_in_a_round_that_there_is(learned: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        backward_transfer([[1, 0], [1, 1]], [1, 1], learned)
