"""The statistics against what they claim to be: counted out, solved again another way, or simulated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from selftaught import gate
from selftaught.config import GateConfig
from selftaught.errors import IntegrityError
from selftaught.types import Decision, Report

CONFIG = GateConfig()


def report(scores: list[float], groups: list[str | None] | None = None, name: str = "questions") -> Report:
    items = tuple(f"q{i}" for i in range(len(scores)))
    return Report("evaluation", name, "d", "dev", {}, tuple(scores), items, tuple(groups or [None] * len(scores)))


def pair(wins: int, losses: int, both: int, neither: int) -> tuple[Report, Report]:
    """(parent's report, candidate's report) on wins + losses + both + neither questions."""
    before = [0.0] * wins + [1.0] * losses + [1.0] * both + [0.0] * neither
    after = [1.0] * wins + [0.0] * losses + [1.0] * both + [0.0] * neither
    return report(before), report(after)


# ---------------------------------------------------------------- McNemar


@pytest.mark.parametrize("n", range(11))
def test_mcnemar_is_what_counting_every_outcome_gives(n: int) -> None:
    outcomes = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]
    for wins in range(n + 1):
        share = sum(o >= wins for o in outcomes) / len(outcomes)
        assert gate.mcnemar(wins, n - wins) == pytest.approx(share, rel=1e-12)


def test_mcnemar_of_a_known_table() -> None:
    assert gate.mcnemar(85, 38) == pytest.approx(1.360e-05, rel=1e-3)
    assert gate.mcnemar(0, 0) == 1.0, "nothing differs, nothing is shown"
    assert gate.mcnemar(5, 0) == 1 / 32


def test_mcnemar_has_no_seam_where_it_turns_to_logarithms() -> None:
    exact = sum(math.comb(1001, k) for k in range(540, 1002)) / 2**1001
    assert gate.mcnemar(540, 461) == pytest.approx(exact, rel=1e-9)
    assert gate.mcnemar(50_500, 49_500) == pytest.approx(math.erfc(999 / math.sqrt(2e5)) / 2, rel=0.01)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.5, 1e-6])
def test_critical_wins_is_where_mcnemar_turns(alpha: float) -> None:
    for n in range(60):
        fewest = next((w for w in range(n + 1) if gate.mcnemar(w, n - w) <= alpha), n + 1)
        assert gate.critical_wins(n, alpha) == fewest


def test_wins_and_losses_are_counted_per_item() -> None:
    assert gate.wins_losses([0, 0, 1, 1, 0], [1, 0, 0, 1, 1]) == (2, 1)
    with pytest.raises(ValueError, match="shorter"):
        gate.wins_losses([0, 1], [0])


# ---------------------------------------------------------------- sign-flip


def test_sign_flip_of_single_items_agrees_with_mcnemar() -> None:
    before, after = pair(14, 5, 10, 10)
    p = gate.sign_flip(before.scores, after.scores, before.groups)
    assert p == pytest.approx(gate.mcnemar(14, 5), abs=4 * math.sqrt(0.03 / gate.FLIPS))


def test_sign_flip_counts_groups_not_items() -> None:
    before = [0.0] * 40
    after = [1.0] * 40
    groups = [f"g{i % 4}" for i in range(40)]
    p = gate.sign_flip(before, after, groups)
    assert p == pytest.approx(1 / 16, abs=0.01), "40 wins in four groups are four coins"


def test_sign_flip_of_uneven_groups_is_what_every_flip_gives() -> None:
    sums = [3, -2, 1, 1, 4]
    before = [0.0 if s > 0 else 1.0 for s in sums for _ in range(abs(s))]
    after = [1.0 - b for b in before]
    groups = [f"g{i}" for i, s in enumerate(sums) for _ in range(abs(s))]
    flips = [sum(x * s for x, s in zip(sums, signs, strict=True)) for signs in itertools.product((-1, 1), repeat=5)]
    exact = sum(f >= sum(sums) for f in flips) / len(flips)
    assert gate.sign_flip(before, after, groups) == pytest.approx(exact, abs=0.01)


def test_sign_flip_sees_nothing_where_nothing_differs_and_repeats_itself() -> None:
    assert gate.sign_flip([1.0, 0.0], [1.0, 0.0], ["a", "b"]) == 1.0
    before, after = pair(9, 4, 2, 2)
    twice = [gate.sign_flip(before.scores, after.scores, before.groups) for _ in range(2)]
    assert twice[0] == twice[1]


def test_a_group_named_like_an_item_is_not_that_item() -> None:
    assert gate.sign_flip([0, 0], [1, 1], ["1", None]) == pytest.approx(0.25, abs=0.02), "two coins, not one"


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
    assert gate.tango(wins, losses, n, difference) == pytest.approx(expected, rel=1e-5)


def test_tango_at_no_difference_is_mcnemars_statistic() -> None:
    assert gate.tango(9, 4, 50, 0.0) == pytest.approx((9 - 4) / math.sqrt(9 + 4))
    assert gate.tango(0, 0, 50, 0.0) == 0.0, "nothing differs, nothing is shown"


def test_the_interval_is_where_the_statistic_crosses() -> None:
    for wins, losses, n in [(9, 4, 50), (0, 0, 100), (7, 0, 40), (0, 7, 40)]:
        low, high = gate.paired_interval(wins, losses, n)
        assert gate.tango(wins, losses, n, low) == pytest.approx(1.959964, abs=1e-4)
        assert gate.tango(wins, losses, n, high) == pytest.approx(-1.959964, abs=1e-4)
        assert low <= (wins - losses) / n <= high


def test_the_interval_of_no_difference_is_even_to_both_sides() -> None:
    low, high = gate.paired_interval(0, 0, 100)
    edge = 1.959964**2 / (100 + 1.959964**2)  # where n d / (1 - d) = z squared
    assert (low, high) == (pytest.approx(-edge, abs=1e-6), pytest.approx(edge, abs=1e-6))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(3).multinomial(120, [0.15, 0.08, 0.77], size=1500)
    intervals = [gate.paired_interval(int(w), int(x), 120) for w, x, _ in draws]
    held = np.mean([low <= 0.07 <= high for low, high in intervals])
    assert 0.935 <= held <= 0.965


# ---------------------------------------------------------------- Wilson


def test_wilson_solves_its_own_equation() -> None:
    for successes, n in [(0, 10), (10, 10), (3, 17), (81, 263)]:
        for edge in gate.wilson(successes, n):
            if 1e-9 < edge < 1 - 1e-9:
                score = abs(successes / n - edge) / math.sqrt(edge * (1 - edge) / n)
                assert score == pytest.approx(1.959964, abs=1e-4)


def test_wilson_of_a_published_table() -> None:
    low, high = gate.wilson(81, 263)  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_wilson_of_nothing_is_everything() -> None:
    assert gate.wilson(0, 0) == (0.0, 1.0)


# ---------------------------------------------------------------- what a holdout can prove


@pytest.mark.parametrize(
    ("n", "gain", "alpha"), [(200, 0.08, 0.05), (500, 0.05, 0.05), (1000, 0.05, 0.05 / 3), (60, 0.3, 0.05)]
)
def test_power_is_how_often_mcnemar_sees_the_gain(n: int, gain: float, alpha: float) -> None:
    differ = max(gate.DISCORDANCE, gain)
    cells = [(differ + gain) / 2, (differ - gain) / 2, 1 - differ]
    draws = np.random.default_rng(4).multinomial(n, cells, size=20_000)
    seen = np.mean([w >= gate.critical_wins(int(w + x), alpha) for w, x, _ in draws])
    assert gate.power(n, gain, alpha) == pytest.approx(seen, abs=0.012)


def test_power_has_no_seam_where_it_turns_to_the_normal() -> None:
    n = round(gate.EXACT_POWER / gate.DISCORDANCE)
    exact, normal = gate.power(n, 0.016, 0.05), gate.power(n + 1, 0.016, 0.05)
    assert exact == pytest.approx(normal, abs=0.005)


def test_smallest_gain_and_items_needed_say_the_same() -> None:
    for gain in (0.2, 0.05, 0.02, 0.01):
        n = gate.items_needed(gain, 0.05)
        assert gate.smallest_gain(n, 0.05) == pytest.approx(gain, rel=0.06)
        assert gate.power(n, gain, 0.05) >= gate.POWER


def test_more_items_see_smaller_gains_and_a_few_see_none() -> None:
    seen = [gate.smallest_gain(n, 0.05) for n in (20, 100, 500, 2000, 20_000)]
    assert all(g is not None for g in seen)
    assert seen == sorted(seen, key=lambda g: -(g or 0)), seen
    assert gate.smallest_gain(0, 0.05) is None
    assert gate.smallest_gain(4, 0.05) is None, "four wins of four have p = 1/16"
    assert gate.smallest_gain(5, 0.05) == pytest.approx(0.96, abs=0.01), "five of five have p = 1/32"


def test_a_tiny_gain_is_judged_at_once() -> None:
    assert gate.items_needed(0.001, 0.05) == pytest.approx(1.86e6, rel=0.01)


# ---------------------------------------------------------------- guards


def test_a_guard_that_changed_nothing_needs_enough_questions_to_know() -> None:
    few, enough = (gate.guard_rule("g", *pair(0, 0, n, 0), 0.03, 0.05) for n in (87, 88))
    assert not few.passed and enough.passed, "z = sqrt(n m / (1 - m)) crosses 1.645 between 87 and 88"


@pytest.mark.parametrize("wins", [0, 5, 20])
def test_a_guard_passes_up_to_the_loss_that_tango_allows(wins: int) -> None:
    n, margin = 500, 0.03
    allowed = max(x for x in range(60) if gate.tango(wins, x, n, -margin) >= 1.6448537)
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
    passed = np.mean([gate.tango(int(w), int(x), 400, -0.03) >= 1.6448537 for w, x, _ in draws])
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
    assert gate.guard_items(0.03, 0.05) == 88
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
    held = gate.guard_rule("guard", report([1.0] * 1000, list(groups)), report([1.0] * 1000, list(groups)), 0.03, 0.05)
    assert held.passed, "nothing changed in 50 groups"


def test_groups_and_not_their_items_are_counted() -> None:
    assert gate.units([None, None, "a", "a", "b", None]) == 5
    four = tuple(f"passage {i % 4}" for i in range(40))
    same = (_grouped(report([1.0] * 40), four), _grouped(report([1.0] * 40), four))
    decision = gate.decide(CONFIG, BETTER, {"guard": (*same, 0.03)})
    assert decision.reason == "too few labelled items to know: guard: guard has 4 groups and needs 5"


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
    assert 0.05 / 3 < gate.mcnemar(60, 40) < 0.05
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
