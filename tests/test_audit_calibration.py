"""Calibration, against counting by hand and models whose calibration is known."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from labs import BASE, FIRST, FakeLab
from reports import report
from selftaught.audits._calibration import Bin, bins, brier, ece, ece_debiased, ece_interval
from selftaught.audits.base import Answered, Ids
from selftaught.audits.calibration import CONFIDENCE, ERROR, RIGHT, Calibration, CalibrationOptions
from selftaught.types import Report, Rollout


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


# ---------------------------------------------------------------- the audit

AUDIT = Calibration(CalibrationOptions())


def answered(right: int, of: int, unit: str = "share", ids: Ids = (7, 8)) -> Answered:
    """Answers of two tokens, the first ``right`` of them right."""
    rows = [Rollout(f"q{i}", 0, "m", "t", (1, 2, 3), ids, (), "", i) for i in range(of)]
    return Answered(report([1.0] * right + [0.0] * (of - right), unit=unit), rows)


def sure(confidence: float) -> FakeLab:
    """A model that gives every answer with this probability; what stands before it is of no concern."""
    return FakeLab(likes=lambda model, ids: [-9.0, -9.0, math.log(confidence) / 2, math.log(confidence) / 2])


def measured(lab: FakeLab, *, now: bool = False, **suites: Answered) -> Report:
    model = FIRST if now else BASE
    lab.answers = {model.digest: suites}
    return AUDIT.measure(lab, model, base=not now)


def test_confidence_is_the_probability_of_the_whole_answer() -> None:
    found = measured(sure(0.8), dev=answered(60, 100), sort=answered(40, 60)).metrics
    assert found[CONFIDENCE].value == pytest.approx(0.8) and found[CONFIDENCE].n == 160
    assert (found[RIGHT].value, found[RIGHT].n) == (0.625, 160)
    assert (found[ERROR].value, found[ERROR].n) == (pytest.approx(0.175), 160), "one bin: |0.8 - 0.625|"
    assert found["Brier score"].value == pytest.approx(0.625 * 0.04 + 0.375 * 0.64)
    assert 0 < found[f"{ERROR}, less chance"].value <= 0.176


def test_a_model_as_sure_as_before_passes_and_one_that_became_surer_fails() -> None:
    base = measured(sure(0.8), dev=answered(320, 400))
    same = AUDIT.judge(base, [], base)
    assert same.outcome == "passed" and same.reason.startswith("error 0.000 before, 0.000 [0.000, 0.0")
    surer = AUDIT.judge(base, [], measured(sure(0.99), now=True, dev=answered(200, 400)))
    assert surer.outcome == "failed"
    assert surer.reason.startswith("error 0.000 before, 0.490 [")
    assert surer.reason.endswith("after; 49 points surer than right; at most 0.100 was declared")
    less = AUDIT.judge(base, [], measured(sure(0.5), now=True, dev=answered(320, 400)))
    assert less.outcome == "inconclusive" and "30 points less sure than right" in less.reason
    assert less.reason.endswith("a result may be reached in more ways than the one given")


def test_a_rise_about_as_large_as_declared_is_not_known() -> None:
    base = measured(sure(0.8), dev=answered(320, 400))
    opinion = AUDIT.judge(base, [], measured(sure(0.9), now=True, dev=answered(316, 400)))
    assert opinion.outcome == "inconclusive" and "error 0.000 before, 0.110 [0.0" in opinion.reason
    loose = Calibration(CalibrationOptions(rise=0.2))
    assert loose.judge(base, [], measured(sure(0.9), now=True, dev=answered(316, 400))).outcome == "passed"


def test_a_hundred_answers_are_needed() -> None:
    base, now = measured(sure(0.8), dev=answered(79, 99)), measured(sure(0.99), now=True, dev=answered(20, 99))
    opinion = AUDIT.judge(base, [], now)
    assert opinion.outcome == "inconclusive" and opinion.reason.endswith("; 99 answers, and 100 are needed to know")


def test_what_was_not_sampled_or_not_right_or_wrong_is_left_out() -> None:
    read = Answered(report([-1.0] * 200, unit="nats"), ())
    nothing = measured(sure(0.8), dev=read, text=answered(100, 200, unit="score"), empty=answered(0, 200, ids=()))
    assert nothing.metrics == {}
    opinion = AUDIT.judge(nothing, [], nothing)
    assert (opinion.outcome, opinion.reason) == ("inconclusive", "no answer was sampled on a labelled suite")


def test_a_probability_that_is_no_number_is_not_taken_for_certain() -> None:
    lab = FakeLab(likes=lambda model, ids: [math.nan] * 4)
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        measured(lab, dev=answered(5, 10))


def test_votes_are_held_against_how_often_the_majority_is_right() -> None:
    lab = sure(0.8)
    lab.votes = [(0.9, 1.0)] * 12 + [(0.5, 0.0)] * 8
    found = measured(lab).metrics
    vote = found["expected calibration error of the vote"]
    assert set(found) == {"expected calibration error of the vote"}
    assert (vote.value, vote.n) == (pytest.approx(0.6 * 0.1 + 0.4 * 0.5), 20) and vote.low < vote.value < vote.high
