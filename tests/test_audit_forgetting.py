"""What was forgotten: the formulas and the audit, by hand, and what noise makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from labs import BASE, FIRST, SECOND, FakeLab
from reports import report
from selftaught.audits._forgetting import Forgotten, backward_transfer, forgotten
from selftaught.audits.base import Answered, Ids, Opinion
from selftaught.audits.forgetting import Forgetting, ForgettingOptions
from selftaught.types import Checkpoint, Report


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


# ---------------------------------------------------------------- the audit

AUDIT = Forgetting(ForgettingOptions())


def answering(right: int, of: int, groups: list[str] | None = None, unit: str = "share") -> Answered:
    """The first ``right`` questions are right."""
    return Answered(report([1.0] * right + [0.0] * (of - right), groups, unit=unit), ())


def measured(checkpoint: Checkpoint, **suites: Answered) -> Report:
    return AUDIT.measure(FakeLab(answers={checkpoint.digest: suites}), checkpoint, base=checkpoint is BASE)


def dev(*right: int, of: int = 100, groups: list[str] | None = None) -> Opinion:
    """The opinion of the last of several models in a row with so many right answers, the first the base."""
    base, *past, now = [measured(Checkpoint(f"{i}", ""), dev=answering(r, of, groups)) for i, r in enumerate(right)]
    return AUDIT.judge(base, past, now)


def test_a_base_against_itself_forgot_nothing() -> None:
    opinion = dev(50, 50)
    assert opinion.outcome == "passed"
    assert opinion.reason == (
        "most on dev: +0.00 points less than in its best earlier round; a loss of its margin is ruled out everywhere"
    )
    assert {n: (m.value, m.n) for n, m in opinion.more.items()} == {
        "dev: forgotten": (0.0, 100), "dev: forgotten, item by item": (0.0, 100),
    }  # fmt: skip


def test_a_loss_that_is_shown_fails() -> None:
    opinion = dev(50, 44)
    assert opinion.outcome == "failed", "six to nothing: 1/64"
    assert opinion.reason.startswith("most on dev: +6.00 points less than in its best earlier round; a loss is shown")
    assert opinion.reason.endswith("and one of its margin not ruled out, on dev")
    found = opinion.more["dev: forgotten"]
    assert found.value == 0.06 and 0 < found.low < 0.06 < found.high


def test_a_small_loss_on_many_questions_passes_though_it_is_shown() -> None:
    opinion = dev(1000, 990, of=2000)
    assert opinion.outcome == "passed" and opinion.more["dev: forgotten"].low > 0, opinion.reason


@pytest.mark.parametrize(
    ("of", "now", "said"), [(100, 48, "a loss of its margin is not ruled out on dev"), (87, 50, "too few items on dev")]
)
def test_what_is_neither_shown_nor_ruled_out_is_not_known(of: int, now: int, said: str) -> None:
    """Two to nothing is 1/4; without a change 88 questions are needed to rule three points out."""
    opinion = dev(50, now, of=of)
    assert opinion.outcome == "inconclusive" and opinion.reason.endswith(said)


def test_the_best_earlier_round_is_what_counts() -> None:
    opinion = dev(40, 60, 40)
    assert opinion.outcome == "failed" and opinion.reason.startswith("most on dev: +20.00 points less")
    assert dev(40, 60).outcome == "passed", "a gain is no loss"


def test_the_best_of_many_rounds_is_best_by_luck_too() -> None:
    """Five to nothing is 1/32 against one round; against the better of two rounds twice that."""
    assert dev(50, 45).outcome == "failed"
    assert dev(50, 50, 45).outcome == "inconclusive"


def test_many_suites_share_alpha_and_few_items_hide_no_loss() -> None:
    base = measured(BASE, dev=answering(50, 100), sort=answering(10, 10))
    now = measured(FIRST, dev=answering(45, 100), sort=answering(10, 10))
    assert AUDIT.judge(base, [], now).reason.endswith("too few items on sort"), "2/32 on dev is not shown"
    worse = measured(FIRST, dev=answering(40, 100), sort=answering(10, 10))
    opinion = AUDIT.judge(base, [], worse)
    assert opinion.outcome == "failed" and opinion.reason.endswith("not ruled out, on dev"), opinion.reason


def test_questions_that_belong_together_count_once() -> None:
    """Twenty lost of 500 would be shown; all of them are about one passage of ten."""
    assert dev(300, 280, of=500).outcome == "failed"
    passages = [str(i // 50) for i in range(500)]
    opinion = dev(300, 280, of=500, groups=passages)
    assert opinion.outcome == "inconclusive" and opinion.reason.endswith("too few items on dev")


def test_suites_that_are_not_right_or_wrong_or_were_never_asked_are_left_out() -> None:
    base = measured(BASE, dev=answering(1, 2, unit="score"), text=answering(1, 2, unit="nats"))
    now = measured(FIRST, dev=answering(0, 2, unit="score"), sort=answering(50, 100), none=answering(0, 0))
    assert base.metrics == {} and set(now.metrics) == {"sort"}
    opinion = AUDIT.judge(base, [], now)
    assert (opinion.outcome, opinion.reason) == (
        "inconclusive", "nothing was asked that an earlier model had been asked",
    )  # fmt: skip


# ---------------------------------------------------------------- what rounds taught


def taught(fall: float, texts: int = 10) -> tuple[Report, Report, Report, Opinion]:
    """Base, the candidate that learned round-000's texts, the next one by ``fall`` nats less sure of them."""
    some = [((1, 2), (3, i, 4)) for i in range(texts)]
    levels = {"base": -9.0, "first": -1.0, "second": -1.0 - fall}

    def likes(model: str, ids: Ids) -> list[float]:
        return [-50.0] + [levels[model] + 0.01 * (ids[3] % 3)] * 3  # the prompt's own token does not count

    lab = FakeLab(taught={"round-000": some}, likes=likes)
    base, first, second = (AUDIT.measure(lab, c, base=c is BASE) for c in (BASE, FIRST, SECOND))
    return base, first, second, AUDIT.judge(base, [first], second)


def test_what_an_accepted_round_taught_is_held_against_the_model_that_learned_it() -> None:
    base, first, _, opinion = taught(0.1)
    assert base.metrics == {}, "which the base never learned"
    assert first.metrics["taught in round-000"].value == pytest.approx(-1.0 + 0.01 * 9 / 10)
    assert first.metrics["taught in round-000"].n == 10
    assert opinion.outcome == "passed"
    assert opinion.reason.startswith("most on taught in round-000: +0.10 nats per token less")
    assert opinion.more["taught in round-000: forgotten"].value == pytest.approx(0.1)
    assert AUDIT.judge(base, [], first).outcome == "inconclusive", "in the first round nothing was taught before"


@pytest.mark.parametrize(
    ("fall", "texts", "outcome", "said"),
    [
        (0.3, 10, "failed", "not ruled out, on taught in round-000"),
        (0.1, 4, "inconclusive", "too few items on taught in round-000"),  # 2^-4 is more than 5 %
        (0.3, 1, "inconclusive", "too few items on taught in round-000"),
        (0.1, 6, "passed", "is ruled out everywhere"),
    ],
)
def test_few_texts_that_were_taught_prove_nothing(fall: float, texts: int, outcome: str, said: str) -> None:
    opinion = taught(fall, texts)[3]
    assert (opinion.outcome, opinion.reason.endswith(said)) == (outcome, True), opinion.reason
