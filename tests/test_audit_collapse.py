"""The audit of collapse on models that write known texts: counts by hand, and when it raises the alarm."""

from __future__ import annotations

import math

import pytest

from labs import BASE, FIRST, SECOND, FakeLab
from selftaught.audits.base import Ids, series
from selftaught.audits.collapse import COUNTED, RARE, TEXT, Collapse, CollapseOptions
from selftaught.types import Checkpoint, Report

AUDIT = Collapse(CollapseOptions(samples=10, tokens=100))


def copies(count: int, tokens: int = 10) -> list[Ids]:
    """Ten texts, of which ``count`` repeat the first; the others share no token: of ten tokens, a hundred in all."""
    kinds = [0] * (count + 1) + list(range(1, 10 - count))
    return [tuple(range(10 * k, 10 * k + tokens)) for k in kinds]


def lab(base: tuple[int, ...] = (0, 1, 0, 1), **others: int) -> FakeLab:
    """The base's four draws repeat a text so often, each draw of another model as often as any."""
    return FakeLab(writes=lambda model, draw: copies(base[draw] if model == "base" else others[model]))


def measured(some: FakeLab, *models: Checkpoint) -> list[Report]:
    return [AUDIT.measure(some, m, base=m is BASE) for m in models]


def test_what_is_counted_by_hand() -> None:
    [base] = measured(lab(), BASE)
    shown = {name: (m.value, m.n) for name, m in base.metrics.items()}
    assert shown["different 2-grams"] == (85.5, 4), "90, 81, 90, 81: nine in a text, and a copy adds none"
    assert shown["different 3-grams"] == (76.0, 4)
    assert shown["entropy"] == (pytest.approx(math.log2(100) - 0.1), 4), "ten of a hundred tokens stand twice: 0.2 less"
    assert shown["share of the 50 most frequent tokens"] == (pytest.approx((0.5 + 0.6) / 2), 4)
    assert shown["Vendi score"][0] == pytest.approx((10 + 2 ** (math.log2(10) - 0.2)) / 2)
    assert shown["texts with a template"] == (pytest.approx(0.1), 4), "two of ten in every other draw"
    assert shown["tokens in a text"] == (10.0, 4) and shown[COUNTED] == (100.0, 4)
    sd = math.sqrt(4 * 4.5**2 / 3)
    assert base.metrics["different 2-grams"].high == pytest.approx(85.5 + 3.182 * sd / 2), "Student's, over the draws"
    assert RARE not in base.metrics and TEXT not in base.metrics, "there is no real text"


def test_a_base_against_itself_is_quiet() -> None:
    [base] = measured(lab(), BASE)
    opinion = AUDIT.judge(base, [base], base)
    assert (opinion.outcome, opinion.subjects) == ("passed", ())
    assert opinion.reason == "4 signals are quiet (4 of 5 signals: there is no real text)"
    assert opinion.more["KS distance of lengths"].value == 0.0 and opinion.more["KS distance of lengths"].n == 40


def test_the_alarm_wants_two_rounds_in_a_row() -> None:
    base, first, second = measured(lab(first=3, second=3), BASE, FIRST, SECOND)
    assert first.metrics["different 2-grams"].value == 63.0
    once = AUDIT.judge(base, [], first)
    assert once.outcome == "passed"
    assert once.reason.startswith(
        "beyond its limit in this round, and the alarm wants two: different 2-grams, different 3-grams, entropy"
    )
    twice = AUDIT.judge(base, [first], second)
    assert (twice.outcome, twice.subjects) == ("failed", ("first",)), "it is about both models"
    assert twice.reason.startswith(
        "alarm: different 2-grams went down to 63 and 63 in two rounds running, from 85.5 (sd 5.2 of 4 values); "
        "more than 0.1 of that counts; different 3-grams went down to 56"
    )
    assert "entropy went down to 5.844 and 5.844" in twice.reason
    [well] = measured(lab(second=1), SECOND)
    assert AUDIT.judge(base, [first], well).reason.startswith("4 signals are quiet")
    assert AUDIT.judge(base, [first, well], first).outcome == "passed", "they are not in a row"


def test_three_deviations_and_the_declared_effect_are_both_asked_for() -> None:
    base, two = measured(lab(first=2), BASE, FIRST)
    assert base.metrics["different 2-grams"].value - two.metrics["different 2-grams"].value == 13.5, "more than 10 %"
    assert AUDIT.judge(base, [two], two).outcome == "passed", "but 3 sd of a new value are 17.4"
    still, one = measured(lab(base=(0, 0, 0, 0), first=1), BASE, FIRST)
    assert AUDIT.judge(still, [one], one).outcome == "passed", "90 to 81 is not more than a tenth"
    strict = Collapse(CollapseOptions(samples=10, tokens=100, ngrams_effect=0.09))
    assert "went down to 81 and 81" in strict.judge(still, [one], one).reason


# ---------------------------------------------------------------- real text

REAL = tuple((256, *[5] * 9, rare) for rare in range(10, 20))  # the rare tokens make up a tenth


def likes(model: str, ids: Ids) -> list[float]:
    rare = {"base": -2.0, "first": -2.31, "second": -2.29}[model]
    return [-1.0 if i == 5 else rare for i in ids[1:]]


def test_rare_tokens_of_real_text_have_a_limit_of_their_own() -> None:
    some = FakeLab(texts=REAL, likes=likes, unprompted=False)
    base, first, second = measured(some, BASE, FIRST, SECOND)
    assert base.metrics[TEXT].value == pytest.approx(1.1) and base.metrics[RARE].value == 2.0
    assert (base.metrics[RARE].n, base.metrics[TEXT].n) == (10, 10)
    assert set(base.metrics) == {RARE, TEXT}, "nothing was sampled"
    opinion = AUDIT.judge(base, [first], first)
    assert opinion.outcome == "failed" and opinion.reason.startswith(f"alarm: {RARE} went up to 2.31 and 2.31")
    quiet = AUDIT.judge(base, [second], second)
    assert quiet.outcome == "passed", "0.29 nats do not count"
    assert quiet.reason == "1 signals are quiet (1 of 5 signals: nothing can be sampled unprompted)"


def test_with_nothing_to_look_at_it_knows_nothing() -> None:
    [nothing] = measured(FakeLab(unprompted=False), BASE)
    assert nothing.metrics == {}
    opinion = AUDIT.judge(nothing, [], nothing)
    assert opinion.outcome == "inconclusive"
    assert opinion.reason == "there is no real text, and nothing can be sampled unprompted"


# ---------------------------------------------------------------- unequal amounts


def test_of_short_texts_more_are_sampled_until_there_is_enough() -> None:
    """A model that writes shorter texts has fewer different n-grams in as many texts, without having lost any."""
    some = FakeLab(writes=lambda model, draw: copies(0, 10 if model == "base" else 8))
    base, first = measured(some, BASE, FIRST)
    assert first.metrics[COUNTED].value == base.metrics[COUNTED].value == 100.0
    assert first.metrics[COUNTED].n == 4 and first.metrics["tokens in a text"].value == 8.0
    assert len(series(first, "length")) == 40, "lengths are those of the first texts alone"


def test_counts_in_unequal_amounts_of_text_are_not_compared() -> None:
    some = FakeLab(writes=lambda model, draw: copies(0)[: 10 if model == "base" else 1])
    base, first = measured(some, BASE, FIRST)
    assert first.metrics[COUNTED].value == 80.0, "one text, eight times"
    opinion = AUDIT.judge(base, [first], first)
    why = "samples of unprompted text hold 80 to 100 tokens, which cannot be compared"
    assert (opinion.outcome, opinion.reason) == ("passed", f"1 signals are quiet (1 of 5 signals: {why})")
    again = AUDIT.judge(base, [first], base)
    assert again.reason.startswith("4 signals are quiet"), "and such a round does not count for the alarm"


@pytest.mark.parametrize(("empty", "tokens"), [((), 0), ((257,), 80)])
def test_a_model_whose_texts_are_all_empty_is_measured(empty: Ids, tokens: int) -> None:
    some = FakeLab(writes=lambda model, draw: copies(0) if model == "base" else [empty] * 10)
    base, first = measured(some, BASE, FIRST)
    assert first.metrics["empty texts"].value == 1.0
    assert (first.metrics[COUNTED].value, first.metrics["different 2-grams"].value) == (tokens, 0.0)
    opinion = AUDIT.judge(base, [first], first)
    assert opinion.outcome == "failed", "a model that falls silent has collapsed, whatever can be counted"
    assert opinion.reason.startswith("alarm: tokens in a text went down to ")
    assert AUDIT.judge(base, [], first).outcome == "passed", "in two rounds"


def test_a_base_that_writes_nothing_is_no_reference() -> None:
    [base] = measured(FakeLab(writes=lambda model, draw: [()] * 10), BASE)
    assert AUDIT.judge(base, [base], base).outcome == "inconclusive"
