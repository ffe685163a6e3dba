"""The statistics against what they claim to be: counted out, solved again another way, or simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from reports import pair, report
from selftaught import gate, paired, power
from selftaught.config import GateConfig, PrimaryConfig
from selftaught.errors import IntegrityError, RecipeError
from selftaught.types import Decision, Report

CONFIG = GateConfig()


# ---------------------------------------------------------------- guards


def test_a_guard_that_changed_nothing_needs_enough_questions_to_know() -> None:
    few, enough = (gate.guard_rule("g", *pair(0, 0, n, 0), 0.03, 0.05) for n in (87, 88))
    assert not few.passed and enough.passed, "z = sqrt(n m / (1 - m)) crosses 1.645 between 87 and 88"


@pytest.mark.parametrize("wins", [0, 5, 20])
def test_a_guard_passes_up_to_the_loss_that_tango_allows(wins: int) -> None:
    n, margin = 500, 0.03
    allowed = max(x for x in range(60) if paired.tango(wins, x, n, -margin) >= 1.6448537)
    inside = gate.guard_rule("g", *pair(wins, allowed, n - wins - allowed, 0), margin, 0.05)
    outside = gate.guard_rule("g", *pair(wins, allowed + 1, n - wins - allowed - 1, 0), margin, 0.05)
    assert inside.passed and not outside.passed
    assert f"{wins} won, {allowed + 1} lost of 500; a loss of 3 points or more has p = " in outside.detail


def test_a_guard_on_no_questions_does_not_pass() -> None:
    rule = gate.guard_rule("g", report([]), report([]), 0.03, 0.05)
    assert (rule.passed, rule.before, rule.after) == (False, None, None)
    assert "p = 1" in rule.detail


def test_a_true_loss_of_the_margin_passes_no_more_often_than_alpha() -> None:
    draws = np.random.default_rng(5).multinomial(400, [0.05, 0.08, 0.87], size=4000)
    passed = np.mean([paired.tango(int(w), int(x), 400, -0.03) >= 1.6448537 for w, x, _ in draws])
    assert passed <= 0.05 + 0.01


# ---------------------------------------------------------------- decisions

BETTER = pair(85, 38, 500, 377)
SAME = pair(50, 50, 500, 400)
WORSE = pair(38, 85, 500, 377)
HELD = (*pair(5, 5, 900, 90), 0.03)
BROKEN = (*pair(5, 90, 900, 5), 0.03)


def test_a_gain_with_every_guard_held_is_accepted() -> None:
    decision = gate.decide(CONFIG, BETTER, {"sort": HELD})
    assert decision.outcome == "accepted"
    assert decision.reason == "the gain on dev is significant and every guard held"
    assert [r.name for r in decision.rules] == ["gain on dev", "guard: sort"]
    assert decision.rules[0].detail == "85 won, 38 lost of 1000; exact McNemar p = 1.4e-05, must be at most 0.05"
    assert (decision.rules[0].before, decision.rules[0].after) == (0.538, 0.585)


def test_no_gain_on_enough_questions_is_rejected() -> None:
    assert gate.decide(CONFIG, SAME, {}) == Decision(
        "rejected", (gate.gain_rule("gain on dev", *SAME, 0.05),), "did not pass: gain on dev"
    )


def test_a_gain_that_costs_a_guard_is_rejected() -> None:
    decision = gate.decide(CONFIG, BETTER, {"sort": BROKEN, "held": HELD})
    assert (decision.outcome, decision.reason) == ("rejected", "did not pass: guard: sort")
    assert [r.passed for r in decision.rules] == [True, False, True]


def test_no_labelled_questions_is_unproven() -> None:
    for primary in (None, (report([]), report([]))):
        decision = gate.decide(CONFIG, primary, {"sort": HELD})
        assert (decision.outcome, decision.reason) == (
            "unproven",
            "no labelled questions on dev: nothing can show a gain",
        )
        assert [r.name for r in decision.rules] == ["guard: sort"]


def test_no_labelled_questions_and_a_broken_guard_is_rejected() -> None:
    decision = gate.decide(CONFIG, None, {"sort": BROKEN})
    assert decision.outcome == "rejected"
    assert decision.reason.endswith("and did not pass: guard: sort")


def test_too_few_questions_to_know_is_unproven() -> None:
    decision = gate.decide(CONFIG, pair(6, 3, 50, 41), {})
    assert decision.outcome == "unproven"
    assert decision.reason == "too few labelled items to know: gain on dev has 100 labelled items and needs 776"
    tiny = gate.decide(CONFIG, pair(2, 0, 1, 1), {})
    assert tiny.reason == "too few labelled items to know: gain on dev has 4 labelled items and needs 776"


def test_few_questions_that_rule_the_gain_out_are_rejected() -> None:
    unchanged = gate.decide(CONFIG, pair(0, 0, 0, 264), {})
    assert (unchanged.outcome, unchanged.reason) == ("rejected", "did not pass: gain on dev")
    assert gate.decide(CONFIG, pair(0, 0, 0, 40), {}).outcome == "unproven", "40 items cannot exclude five points"


def test_a_guard_with_too_few_items_to_pass_is_unproven_not_rejected() -> None:
    gain = pair(200, 20, 500, 280)
    assert power.guard_items(0.03, 0.05) == 88
    decision = gate.decide(CONFIG, gain, {"sort": (*pair(0, 0, 50, 0), 0.03)})
    assert (decision.outcome, decision.reason) == (
        "unproven",
        "too few labelled items to know: guard: sort has 50 labelled items and needs 88",
    )
    assert gate.decide(CONFIG, gain, {"sort": (*pair(0, 0, 88, 0), 0.03)}).outcome == "accepted"
    assert gate.decide(CONFIG, gain, {"sort": (*pair(0, 9, 41, 0), 0.03)}).outcome == "rejected", "it got worse"


def test_a_guard_with_too_few_items_is_unproven_however_small_or_absent_the_gain_is() -> None:
    few = {"sort": (*pair(0, 0, 50, 0), 0.03)}
    small_gain = pair(200, 100, 2500, 2200)
    assert gate.decide(CONFIG, small_gain, {}).outcome == "accepted"
    for primary in (small_gain, None):
        assert gate.decide(CONFIG, primary, few).outcome == "unproven"
    assert gate.decide(CONFIG, pair(50, 50, 500, 400), few).outcome == "rejected", "there was no gain on enough items"


def test_a_guard_whose_items_belong_together_is_tested_by_group() -> None:
    """A true loss of the margin, the same for a passage's 20 questions, passes no more often than alpha."""
    generator = np.random.default_rng(8)
    groups = tuple(f"passage {i // 20}" for i in range(1000))
    passed = 0
    for _ in range(300):
        change = np.repeat(generator.choice([1.0, -1.0, 0.0], 50, p=[0.1, 0.13, 0.77]), 20)
        before = report([0.0 if c > 0 else 1.0 for c in change], list(groups))
        after = report([0.0 if c < 0 else 1.0 for c in change], list(groups))
        passed += gate.guard_rule("guard", before, after, 0.03, 0.05).passed
    assert passed / 300 <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 300), f"{passed} of 300 (items alone: a third)"


@pytest.mark.parametrize("whole", [True, False], ids=["passages lost whole", "questions lost alone"])
@pytest.mark.parametrize("count", [5, 20, 50, 120])
def test_a_loss_of_the_margin_in_a_few_groups_does_not_pass_for_none(count: int, whole: bool) -> None:
    """Few groups often show no loss at all where three in a hundred are lost: that proves nothing."""
    generator = np.random.default_rng(9)
    groups = [f"passage {i // 5}" for i in range(5 * count)]
    before, passed = report([1.0] * len(groups), groups), 0
    for _ in range(400):
        lost = np.repeat(generator.random(count) < 0.03, 5) if whole else generator.random(5 * count) < 0.03
        passed += gate.guard_rule("guard", before, report(list(1.0 - lost), groups), 0.03, 0.05).passed
    assert passed / 400 <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400), f"{passed} of 400"


def test_a_guard_in_groups_needs_as_many_groups_as_one_of_single_items() -> None:
    for count in (power.guard_items(0.03, 0.05) - 1, power.guard_items(0.03, 0.05)):
        same = report([1.0] * 5 * count, [f"passage {i // 5}" for i in range(5 * count)])
        single = report([1.0] * count)
        assert gate.guard_rule("guard", same, same, 0.03, 0.05).passed == (count == 88)
        assert gate.guard_rule("guard", single, single, 0.03, 0.05).passed == (count == 88)


def test_groups_and_not_their_items_are_counted() -> None:
    assert paired.units([None, None, "a", "a", "b", None]) == 5
    four = tuple(f"passage {i % 4}" for i in range(40))
    same = (_grouped(report([1.0] * 40), four), _grouped(report([1.0] * 40), four))
    decision = gate.decide(CONFIG, BETTER, {"guard": (*same, 0.03)})
    assert decision.reason == "too few labelled items to know: guard: guard has 4 groups and needs 88"


def test_too_few_questions_but_fewer_right_is_rejected() -> None:
    assert gate.decide(CONFIG, pair(3, 6, 50, 41), {}).outcome == "rejected"


def test_a_small_gain_asked_for_makes_the_same_holdout_too_small() -> None:
    slightly_better = pair(60, 50, 440, 450)
    assert gate.decide(GateConfig(min_gain=0.03), slightly_better, {}).outcome == "unproven"
    assert gate.decide(GateConfig(min_gain=0.04), slightly_better, {}).outcome == "rejected"


def test_items_with_groups_are_tested_by_group() -> None:
    before, after = pair(40, 0, 0, 0)
    groups = tuple(f"passage {i % 4}" for i in range(40))
    decision = gate.decide(CONFIG, (_grouped(before, groups), _grouped(after, groups)), {})
    assert decision.outcome != "accepted", "40 wins on four passages are four wins"
    assert "sign-flip over 4 groups p = 0.06" in decision.rules[0].detail
    assert decision.outcome == "unproven" and "gain on dev has 4 groups and needs 776" in decision.reason


def _grouped(plain: Report, groups: tuple[str, ...]) -> Report:
    return Report(plain.kind, plain.name, plain.subject, plain.split, {}, plain.scores, plain.items, groups)


def test_reports_on_other_questions_are_not_compared() -> None:
    before, after = pair(5, 0, 5, 0)
    moved = Report("evaluation", "questions", "d", "dev", {}, after.scores, after.items[::-1], after.groups)
    with pytest.raises(IntegrityError, match="'questions' reports of parent and candidate are not about the same"):
        gate.decide(CONFIG, (before, moved), {})
    with pytest.raises(IntegrityError, match="not about the same"):
        gate.guard_rule("g", before, moved, 0.03, 0.05)


def test_few_groups_that_rule_the_gain_out_are_rejected() -> None:
    groups = tuple(f"passage {i % 400}" for i in range(1200))
    same = report([1.0] * 1200, groups), report([1.0] * 1200, groups)
    assert gate.decide(CONFIG, same, {}).outcome == "rejected", "400 groups without a change hide no five points"
    few = report([1.0] * 30, groups[:30]), report([1.0] * 30, groups[:30])
    assert gate.decide(CONFIG, few, {}).outcome == "unproven", "thirty can"


# ---------------------------------------------------------------- the claim


def graded(gain: float, n: int = 300, unit: str = "score", groups: list[str] | None = None) -> tuple[Report, Report]:
    """Scores around 2 with a spread of about 0.5 between questions' changes, ``gain`` on average, exactly."""
    noise = np.random.default_rng(12).normal(0, 0.5, (2, n))
    change = noise[0] - noise[0].mean() + gain
    return report(list(2 + noise[1]), groups, unit=unit), report(list(2 + noise[1] + change), groups, unit=unit)


def claim(**given: str) -> GateConfig:
    return GateConfig.model_validate({"primary": given})


@pytest.mark.parametrize("test", ["auto", "sign_flip", "bootstrap"])
def test_a_graded_score_is_tested_by_its_size_and_not_by_wins(test: str) -> None:
    decision = gate.decide(claim(metric="score", test=test), graded(0.1), {})
    named = f"{'bootstrap' if test == 'bootstrap' else 'sign-flip'} over 300 items"
    assert decision.outcome == "accepted" and named in decision.rules[0].detail, decision
    assert decision.rules[0].unit == "score" and decision.rules[0].detail.startswith("+0.1 [+0.0")
    assert gate.decide(claim(metric="score", test=test), graded(-0.1), {}).outcome == "rejected"


def test_where_less_is_better_a_fall_is_the_gain() -> None:
    down = claim(metric="score", direction="down")
    fell = gate.decide(down, graded(-0.1), {})
    assert fell.outcome == "accepted" and fell.rules[0].after < fell.rules[0].before
    assert gate.decide(down, graded(0.1), {}).outcome == "rejected"
    proved = gate.prove(fell, down, *graded(-0.1), look=1)
    assert proved.outcome == "proved"
    right = gate.decide(claim(direction="down"), WORSE, {})
    assert right.outcome == "accepted" and right.rules[0].detail.startswith("85 won, 38 lost of 1000; exact McNemar")


def test_too_few_graded_scores_are_unproven_and_the_decision_says_how_many_it_takes() -> None:
    config = claim(metric="score")
    decision = gate.decide(config, graded(0.03, n=40), {})
    spread = float(np.std(np.array(graded(0.03, 40)[1].scores) - np.array(graded(0.03, 40)[0].scores), ddof=1))
    needed = power.units_for_spread(0.05, 0.05, spread)
    assert (decision.outcome, needed > 400) == ("unproven", True)
    assert decision.reason.endswith(f"gain on dev has 40 labelled items and needs {needed}")
    assert gate.decide(config, graded(0.0, n=2000), {}).outcome == "rejected", "2000 would have shown it"


def test_groups_of_graded_scores_count_once_in_both_tests() -> None:
    groups = [f"passage {i % 20}" for i in range(300)]
    for test in ("sign_flip", "bootstrap"):
        rule = gate.gain_rule("gain", *graded(0.1, groups=groups), 0.05, PrimaryConfig(metric="score", test=test))
        assert "over 20 groups" in rule.detail
        assert rule.passed == (test == "sign_flip"), "20 groups are too few for a bootstrap"


def test_too_few_that_differ_for_a_bootstrap_are_named() -> None:
    groups = [f"passage {i % 20}" for i in range(300)]
    decision = gate.decide(claim(metric="score", test="bootstrap"), graded(0.1, groups=groups), {})
    assert decision.outcome == "unproven"
    assert decision.reason.endswith("gain on dev has 20 groups that differ and a bootstrap needs 30")
    assert "bootstrap over 20 groups (20 differ, it needs 30) p = 1, must" in decision.rules[0].detail
    assert gate.decide(claim(test="bootstrap"), pair(0, 9, 991, 0), {}).outcome == "rejected", "it got worse"


def test_mcnemar_is_refused_where_questions_belong_together() -> None:
    with pytest.raises(RecipeError, match="counts every question as independent, but these carry groups"):
        gate.test_of(PrimaryConfig(test="mcnemar"), ["a", None])
    assert gate.test_of(PrimaryConfig(), ["a", None]) == "sign_flip"
    assert gate.test_of(PrimaryConfig(), [None]) == gate.test_of(PrimaryConfig(test="mcnemar"), [None]) == "mcnemar"
    assert gate.test_of(PrimaryConfig(metric="loglik"), [None]) == "sign_flip"


def test_a_claim_that_makes_no_sense_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValidationError, match="mcnemar counts right and wrong, which score has not"):
        PrimaryConfig(metric="score", test="mcnemar")
    with pytest.raises(ValidationError, match="min_gain is a share of the questions"):
        GateConfig(min_gain=2.0)
    assert GateConfig(min_gain=2.0, primary=PrimaryConfig(metric="score")).min_gain == 2.0


# ---------------------------------------------------------------- the vault

ACCEPTED = gate.decide(CONFIG, BETTER, {})


def test_a_look_that_confirms_proves() -> None:
    decision = gate.prove(ACCEPTED, CONFIG, *BETTER, look=2)
    assert (decision.outcome, decision.reason) == (
        "proved",
        "the gain holds on vault questions that decided nothing before",
    )
    assert decision.rules[-1].detail.startswith("look 2 of 3 on this vault; 85 won, 38 lost of 1000; exact McNemar")


def test_each_look_has_a_share_of_alpha() -> None:
    between = pair(60, 40, 0, 0)
    assert 0.05 / 3 < paired.mcnemar(60, 40) < 0.05
    decision = gate.prove(ACCEPTED, CONFIG, *between, look=1)
    assert decision.outcome == "accepted" and decision.reason.endswith("; the vault does not confirm it")
    assert decision.rules[-1].detail.endswith("must be at most 0.0167")
    assert gate.prove(ACCEPTED, GateConfig(looks=1), *between, look=1).outcome == "proved"


def test_past_the_last_look_the_vault_proves_nothing() -> None:
    decision = gate.prove(ACCEPTED, CONFIG, *BETTER, look=4)
    assert decision.outcome == "accepted"
    assert decision.reason.endswith("; the vault's looks are spent, so it is not proved")
    rule = decision.rules[-1]
    assert (rule.passed, rule.detail, rule.after) == (False, "all 3 looks at this vault are spent", None)


# ---------------------------------------------------------------- no change is not accepted


def test_candidates_that_changed_nothing_are_accepted_no_more_often_than_alpha() -> None:
    generator = np.random.default_rng(6)
    accepted = proved = 0
    for _ in range(400):
        wins, losses = (int(x) for x in generator.multinomial(300, [0.1, 0.1, 0.8])[:2])
        decision = gate.decide(CONFIG, pair(wins, losses, 300 - wins - losses, 0), {})
        accepted += decision.outcome == "accepted"
        seen = gate.prove(ACCEPTED, CONFIG, *pair(wins, losses, 300 - wins - losses, 0), look=1)
        proved += seen.outcome == "proved"
    spread = 2.6 * math.sqrt(0.05 * 0.95 / 400)
    assert accepted / 400 <= 0.05 + spread, f"{accepted} of 400 false gains accepted"
    assert proved / 400 <= 0.05 / 3 + spread
    assert accepted > 0, "the test would be idle if nothing were ever accepted"
