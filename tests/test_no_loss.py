"""A claim of no loss (``gate.primary.margin``): its tests, its words, and when too little is known."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

import small
from reports import pair, report
from selftaught import gate, paired, power
from selftaught.config import GateConfig, PrimaryConfig
from selftaught.errors import RecipeError
from selftaught.types import Decision, Report


def claim(**given: object) -> GateConfig:
    return GateConfig.model_validate({"primary": {"margin": 0.03} | given})


def moved(
    change: float, n: int = 300, spread: float = 0.5, unit: str = "score", each: int = 1
) -> tuple[Report, Report]:
    """Scores whose changes are ``change`` on average, exactly, and differ by ``spread``; ``each`` items to a group."""
    noise = np.random.default_rng(12).normal(0, 1, n)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * spread
    groups = [f"g{i // each}" for i in range(n)] if each > 1 else None
    return report([2.0] * n, groups, unit=unit), report(list(2.0 + noise + change), groups, unit=unit)


# ---------------------------------------------------------------- right and wrong


def test_what_did_not_change_is_accepted_and_the_words_say_no_gain() -> None:
    decision = gate.decide(claim(), pair(20, 20, 900, 60), {})
    assert (decision.outcome, decision.reason) == ("accepted", "a loss on dev is ruled out and every guard held")
    [rule] = decision.rules
    assert (rule.name, rule.before, rule.after, rule.unit) == ("no loss on dev", 0.92, 0.92, "share")
    z = paired.tango(20, 20, 1000, -0.03)
    p = 1 - gate.NormalDist().cdf(z)
    assert rule.detail == (f"20 won, 20 lost of 1000; a loss of 3 points or more has p = {p:.2g}, must be at most 0.05")


def test_the_same_as_a_guard_of_the_same_margin() -> None:
    for wins, losses in ((20, 20), (10, 35), (5, 60), (60, 5)):
        some = pair(wins, losses, 900, 100 - wins - losses + 60)
        one, other = gate.claim_rule("dev", *some, 0.05, claim().primary), gate.guard_rule("g", *some, 0.03, 0.05)
        assert (one.passed, one.detail) == (other.passed, other.detail)


def test_a_loss_of_the_margin_is_rejected_and_a_gain_is_fine() -> None:
    lost = gate.decide(claim(), pair(10, 90, 1900, 100), {})
    assert (lost.outcome, lost.reason) == ("rejected", "did not pass: no loss on dev")
    assert gate.decide(claim(), pair(90, 10, 1900, 100), {}).outcome == "accepted"
    assert gate.decide(GateConfig(), pair(20, 20, 900, 60), {}).outcome == "rejected", "which is no gain"


def test_a_true_loss_of_the_margin_passes_no_more_often_than_alpha() -> None:
    draws = np.random.default_rng(5).multinomial(500, [0.05, 0.08, 0.87], size=2000)
    rules = [gate.claim_rule("dev", *pair(int(w), int(x), int(b), 0), 0.05, claim().primary) for w, x, b in draws]
    assert np.mean([r.passed for r in rules]) <= 0.06


@pytest.mark.parametrize(("right", "passes"), [(0, False), (30, False), (31, True)])
def test_where_no_more_than_the_margin_was_right_no_claim_of_no_loss_passes(right: int, passes: bool) -> None:
    rule = gate.claim_rule("vault", *pair(0, 0, right, 1000 - right), 0.05, claim().primary)
    assert rule.passed == passes and ("there was nothing to lose" in rule.detail) != passes


def test_with_fewer_right_claimed_a_rise_of_the_margin_is_the_loss() -> None:
    down = claim(direction="down")
    fell, rose = pair(10, 90, 1900, 100), pair(90, 10, 1900, 100)
    accepted = gate.decide(down, fell, {})
    assert accepted.outcome == "accepted" and accepted.rules[0].detail.startswith("90 won, 10 lost of 2100")
    assert accepted.rules[0].before > accepted.rules[0].after, "shown as they were measured"
    assert gate.decide(down, rose, {}).outcome == "rejected"


def test_groups_count_once() -> None:
    same = [1.0, 0.0] * 300
    whole = [str(i // 20) for i in range(600)]
    single, grouped = (gate.claim_rule("dev", report(same, g), report(same, g), 0.05, claim().primary)
                       for g in (None, whole))  # fmt: skip
    assert single.passed and not grouped.passed, "thirty groups in which nothing changed do not rule three points out"
    assert f"p = {paired.no_loss(same, same, whole, 0.03):.2g}" in grouped.detail
    decision = gate.decide(claim(), (report(same, whole), report(same, whole)), {})
    assert decision.outcome == "unproven" and "no loss on dev has 30 groups and needs " in decision.reason


# ---------------------------------------------------------------- too few


def test_too_few_are_unproven_and_the_decision_says_how_many_it_takes() -> None:
    need = power.guard_items_needed(0.03, 0.05)
    few = gate.decide(claim(), pair(0, 0, 60, 20), {})
    assert few.outcome == "unproven"
    assert few.reason == f"too few labelled items to know: no loss on dev has 80 labelled items and needs {need}"
    one = gate.decide(claim(), pair(0, 1, 60, 20), {})
    assert one.outcome == "unproven", "one lost of eighty is no loss of three points"
    assert gate.decide(claim(), pair(0, 3, 60, 20), {}).outcome == "rejected", "three of them are"
    many = pair(100, 160, need, 0)
    assert gate.decide(claim(), many, {}).outcome == "rejected", "enough items, and a loss is not ruled out"


def test_checkpoints_share_alpha_and_the_need_grows() -> None:
    some = pair(0, 0, 150, 0)
    assert gate.decide(claim(), some, {}).outcome == "accepted"
    decision = gate.decide(claim(), some, {}, tries=4)
    assert decision.outcome == "unproven"
    assert decision.reason.endswith(f"has 150 labelled items and needs {power.guard_items_needed(0.03, 0.0125)}")
    assert decision.rules[0].detail.endswith("must be at most 0.0125")
    need = {alpha: power.items_for(GateConfig(), alpha) for alpha in (0.05, 0.0125)}
    assert need[0.05] < 900 < need[0.0125]
    gained = pair(150, 120, 630, 0)
    assert gate.decide(GateConfig(), gained, {}).outcome == "accepted"
    four = gate.decide(GateConfig(), gained, {}, tries=4)
    assert four.outcome == "unproven", "enough for 5 %, and not for a fourth of it"
    assert four.reason.endswith(f"gain on dev has 900 labelled items and needs {need[0.0125]}")


# ---------------------------------------------------------------- scores and probabilities


@pytest.mark.parametrize("unit", ["score", "nats"])
def test_scores_are_tested_in_their_unit(unit: str) -> None:
    metric = {"score": "score", "nats": "loglik"}[unit]
    config = claim(metric=metric, margin=0.2)
    held = gate.decide(config, moved(-0.1, unit=unit), {})
    assert held.outcome == "accepted"
    words = {"score": "-0.100 on 300 items; a loss of 0.2 or more has p = ",
             "nats": "-0.100 nats per token on 300 texts; a loss of 0.2 nats or more has p = "}[unit]  # fmt: skip
    assert held.rules[0].detail.startswith(words) and held.rules[0].unit == unit
    assert gate.decide(config, moved(-0.2, unit=unit), {}).outcome == "rejected"
    assert gate.decide(config, moved(-0.3, unit=unit), {}).outcome == "rejected"


def test_with_a_lower_score_claimed_a_rise_is_the_loss() -> None:
    config = claim(metric="score", direction="down", margin=0.2)
    fell = gate.decide(config, moved(-0.1), {})
    assert fell.outcome == "accepted"
    assert fell.rules[0].detail.startswith("+0.100 on 300 items"), "to the good"
    assert gate.decide(config, moved(0.3), {}).outcome == "rejected"


def test_groups_of_scores_count_once() -> None:
    config = claim(metric="score", margin=0.2).primary
    p = [float(gate.claim_rule("dev", *moved(-0.1, each=e), 0.05, config).detail.split("p = ")[1].split(",")[0])
         for e in (1, 100)]  # fmt: skip
    assert p[0] < 0.01 < 0.1 < p[1], "of three groups all signs agree by chance in one of eight"


def test_too_few_scores_are_unproven_by_their_own_spread() -> None:
    config = claim(metric="score", margin=0.2)
    decision = gate.decide(config, moved(-0.05, n=10), {})
    need = power.units_for_spread(0.2, 0.05, 0.5)
    assert need == 39, "(1.645 + 0.842)^2 * (0.5 / 0.2)^2"
    assert decision.outcome == "unproven"
    assert decision.reason.endswith(f"no loss on dev has 10 labelled items and needs {need}")
    assert gate.decide(config, moved(-0.25, n=10), {}).outcome == "rejected"


# ---------------------------------------------------------------- the vault


def test_a_look_proves_that_nothing_was_lost() -> None:
    config = claim()
    accepted = gate.decide(config, pair(20, 20, 900, 60), {})
    proved = gate.prove(accepted, config, *pair(20, 20, 900, 60), look=2)
    assert (proved.outcome, proved.reason) == (
        "proved",
        "a loss is ruled out on vault questions that decided nothing before",
    )
    assert [r.name for r in proved.rules] == ["no loss on dev", "no loss on vault"]
    assert proved.rules[1].detail.startswith("look 2 of 3 on this vault; 20 won, 20 lost of 1000; a loss of 3 points")
    assert proved.rules[1].detail.endswith("must be at most 0.0167")
    not_yet = gate.prove(accepted, config, *pair(10, 30, 900, 60), look=2)
    assert not_yet.outcome == "accepted" and not_yet.reason.endswith("the vault does not confirm it")
    spent = gate.prove(accepted, config, report([]), report([]), look=4)
    assert (
        spent.rules[-1].name == "no loss on vault" and "all 3 looks at this vault are spent" in spent.rules[-1].detail
    )


def test_without_labels_nothing_is_claimed() -> None:
    assert gate.decide(claim(), None, {}) == Decision(
        "unproven", (), "no labelled questions on dev: nothing can show a gain"
    )


def test_a_plan_says_how_many_items_it_takes() -> None:
    each = power.POWER**0.5
    assert power.needed(claim(), {}) == {
        "dev": power.guard_items_needed(0.03, 0.05, power_=each),
        "vault": power.guard_items_needed(0.03, 0.05 / 3, power_=each),
    }


def test_margins_that_make_no_sense_are_refused() -> None:
    for given, said in (
        ({"margin": 1.0}, "margin is a share of the questions"),
        ({"margin": 0.0}, "greater than 0"),
        ({"margin": 0.03, "test": "mcnemar"}, "mcnemar is a test for a gain"),
    ):
        with pytest.raises(ValidationError, match=said):
            PrimaryConfig.model_validate(given)
    assert PrimaryConfig(margin=3.0, metric="loglik").margin == 3.0


def test_a_change_that_nothing_would_measure_is_refused() -> None:
    with pytest.raises(RecipeError, match="text_items is 0"):
        small.recipe("train.min_change=0.1", "gate.text_items=0")
