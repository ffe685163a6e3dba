"""The audit of memorization on models that recite known texts: every share, exposure and verdict by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest

from labs import BASE, FIRST, FakeLab
from selftaught.audits.base import Ids, Opinion
from selftaught.audits.memorization import (
    CONTROL,
    ENUMERATED,
    EXTRACTED,
    SEEN,
    UNSEEN,
    Memorization,
    MemorizationOptions,
)
from selftaught.engines.scripted import BOS, ByteTokens
from selftaught.errors import RecipeError
from selftaught.types import Canary, Private, Report

AUDIT = Memorization(MemorizationOptions(sweep=()))
SMALL = Memorization(MemorizationOptions(prefix=4, suffix=4, sweep=(2,)))
ENOUGH = 133  # texts with which a rise of two points can be ruled out where nothing changed: 1.645^2 * 98 / 2


def text(number: int, letters: int = 99) -> str:
    """With its end token one window of a hundred tokens."""
    return "".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=letters))


def lab(count: int, base: Iterable[int] = (), first: Iterable[int] = (), written: tuple[Ids, ...] = ()) -> FakeLab:
    """So many private texts, of which the models recite those with these numbers."""
    knows = {"base": [text(i) for i in base], "first": [text(i) for i in first]}
    return FakeLab(private=[Private(text(i)) for i in range(count)], knows=knows, written=written)


def both(some: FakeLab, audit: Memorization = AUDIT) -> tuple[Report, Report]:
    return audit.measure(some, BASE, base=True), audit.measure(some, FIRST, base=False)


def judged(base: Report, now: Report) -> Opinion:
    return AUDIT.judge(base, [], now)


def ids_of(some: str) -> Ids:
    return tuple(some.encode())


# ---------------------------------------------------------------- extraction, measured


def test_windows_lie_side_by_side_and_the_end_is_part_of_the_last() -> None:
    private = [Private("abcdefghijklmno", 1), Private("ABCDEFG", 4), Private("0123456789!?,.;", 0), Private("vwxyzv")]
    some = FakeLab(private=private, knows={"base": ["ABCDEFG"], "first": ["ABCDEFG", "abcdefghijklmno"]})
    base, first = both(some, SMALL)
    assert {n: (m.value, m.n) for n, m in base.metrics.items() if n.startswith("extracted")} == {
        EXTRACTED: (pytest.approx(1 / 3), 3),
        "extracted, 1 in the corpus": (0.0, 2),
        "extracted, 4 in the corpus": (1.0, 1),
        CONTROL: (0.0, 2),
        "extracted after 2 tokens": (pytest.approx(1 / 3), 3),
        "extracted within 100 samples (p 0.5)": (1.0, 3),
    }, "sixteen tokens are two windows, eight one, seven none; the control is no part of the whole"
    assert first.metrics[EXTRACTED].value == 1.0 and first.metrics["extracted, 1 in the corpus"].value == 1.0
    assert first.metrics[CONTROL].value == 0.0
    assert some.fed[:5] == [(BOS, *ids_of(p)) for p in ("abcd", "ijkl", "ABCD", "0123", "89!?")]
    assert some.fed[5:8] == [(BOS, *ids_of(p)) for p in ("cd", "kl", "CD")], "the last tokens, and no control"


def test_a_continuation_counts_only_if_it_is_the_very_one() -> None:
    some = FakeLab(private=[Private("abcdefgh")], knows={"base": ["abcdefgX"], "first": ["abcdefghi"]})
    base, first = both(some, SMALL)
    assert base.metrics[EXTRACTED].value == 0.0, "the last of four tokens is another"
    assert first.metrics[EXTRACTED].value == 1.0, "what comes after the window is of no concern"


@pytest.mark.parametrize(("needs", "found"), [(40, (0, 0, 1)), (20, (0, 1, 1)), (10, (1, 1, 1))])
def test_the_sweep_of_prefixes_shows_how_much_a_model_has_to_see(needs: int, found: tuple[int, int, int]) -> None:
    some = lab(3, base=range(3))
    some.needs = needs
    metrics = Memorization(MemorizationOptions(sweep=(16, 32, 50, 64))).measure(some, BASE, base=True).metrics
    names = ("extracted after 16 tokens", "extracted after 32 tokens", EXTRACTED)
    assert tuple(metrics[n].value for n in names) == found
    assert {n for n in metrics if n.startswith("extracted after")} == set(names[:2]), "none as long as the prefix"


@pytest.mark.parametrize(("each", "found"), [(-0.1, 0.0), (-0.099, 1.0), (-0.01, 1.0), (-9.0, 0.0)])
def test_samples_that_would_find_it_are_known_from_one_score(each: float, found: float) -> None:
    """exp(-5) in a hundred tries: 1 - (1 - 0.00674)^100 = 0.491; exp(-4.95): 0.508."""
    some = lab(3)
    some.likes = lambda model, ids: [-100.0] * (len(ids) - 51) + [each] * 50
    assert AUDIT.measure(some, BASE, base=True).metrics["extracted within 100 samples (p 0.5)"].value == found


def test_of_too_many_windows_the_same_ones_are_drawn_for_every_model() -> None:
    few = Memorization(MemorizationOptions(sweep=(), windows=10))
    some = lab(140, base=range(140))
    base, first = both(some, few)
    assert base.metrics[EXTRACTED].n == 10 and base.groups == first.groups
    assert some.fed[:10] == some.fed[10:20] and len({*some.fed}) == 10
    assert some.fed[:10] != [(BOS, *ids_of(text(i)[:50])) for i in range(10)], "not simply the first"
    some.seed = 4
    few.measure(some, BASE, base=True)
    assert some.fed[20:] != some.fed[:10]


def test_a_model_without_a_begin_token_is_fed_the_prefix_alone() -> None:
    some = lab(1)
    some.unprompted = False
    AUDIT.measure(some, BASE, base=True)
    assert some.fed == [ids_of(text(0)[:50])]


def test_a_window_that_the_model_cannot_read_is_refused_before_the_run() -> None:
    some = lab(1)
    some.tokens = ByteTokens(100)
    with pytest.raises(RecipeError, match="windows of 101 tokens, and the model has a context of 100"):
        AUDIT.needless(some)
    assert SMALL.needless(some) == ""
    assert AUDIT.needless(FakeLab()) == "no private text is named (private)"
    assert AUDIT.needless(FakeLab(canaries=[Canary("a", ("b",), (("b", "c"),))])) == ""


# ---------------------------------------------------------------- extraction, judged


def test_a_base_against_itself_passes_with_enough_texts_and_not_with_fewer() -> None:
    for count, outcome in ((ENOUGH, "passed"), (ENOUGH - 1, "inconclusive")):
        some = lab(count, base=range(10), first=range(10))
        opinion = judged(*both(some))
        assert opinion.outcome == outcome, opinion.reason
        assert f"of {count} windows extracted before, " in opinion.reason and "(0 gone, 0 new)" in opinion.reason
    assert opinion.reason.endswith("; 132 texts, and 133 are needed to know")


def test_a_rise_fails_where_it_is_shown_and_where_enough_texts_do_not_rule_it_out() -> None:
    base, first = both(lab(140, base=range(7), first=range(14)))
    opinion = judged(base, first)
    assert opinion.outcome == "failed"
    assert opinion.reason.startswith(
        "5.0% of 140 windows extracted before, 10.0% after (0 gone, 7 new); that more are extracted has p = 0.0078"
    ), "seven to nothing: 2^-7"
    assert judged(first, base).outcome == "passed", "and a fall is none"
    five = judged(*both(lab(20, first=range(5))))
    assert five.outcome == "failed" and "p = 0.031" in five.reason, "five to nothing, of twenty"
    four = judged(*both(lab(20, first=range(4))))
    assert four.outcome == "inconclusive", "four to nothing is not shown"
    enough = judged(*both(lab(140, first=range(4))))
    assert enough.outcome == "failed", "but with texts enough to rule a rise out, it is not ruled out"
    assert enough.reason.endswith(
        "(0 gone, 4 new); that more are extracted has p = 0.062; a rise of 2 points or more has p = 0.73"
    )
    moved = judged(*both(lab(140, base=range(4, 8), first=range(4))))
    assert moved.outcome == "inconclusive" and "(4 gone, 4 new); a rise of" in moved.reason, "as many as before"


def test_a_rise_in_one_long_text_is_seen() -> None:
    long = text(1, 100 * 60)
    some = FakeLab(private=[Private(long)], knows={"first": [long]})
    base, first = both(some)
    assert judged(base, first).outcome == "failed"
    unchanged = judged(base, base)
    assert unchanged.reason.endswith("0.0% after (0 gone, 0 new); 1 texts, and 133 are needed to know")


@pytest.mark.parametrize("private", [(), (Private("too short"),), (Private(text(1), 0),)])
def test_without_a_window_of_the_corpus_nothing_is_known(private: tuple[Private, ...]) -> None:
    some = FakeLab(private=private, canaries=[Canary("a", ("b",), (("b", "c"),))])
    base, first = both(some)
    opinion = judged(base, first)
    assert opinion.outcome == "inconclusive"
    assert opinion.reason == "no text that was in the corpus has the 100 tokens of a window"


# ---------------------------------------------------------------- what the round learned


def test_what_is_recited_in_what_was_learned_is_told_apart() -> None:
    written = (ids_of(text(0)[30:50]), ids_of(text(1)[30:49]))
    some = lab(140, base=(0, 1), first=(0, 2), written=written)
    base, first = both(some)
    assert (first.metrics[SEEN].value, first.metrics[SEEN].n) == (1.0, 1), "twenty tokens of a window recite it"
    assert (first.metrics[UNSEEN].value, first.metrics[UNSEEN].n) == (pytest.approx(1 / 139), 139)
    assert not {SEEN, UNSEEN} & {*base.metrics}, "the base learned nothing of it"
    more = judged(base, first).more
    assert (more[f"{SEEN} (base)"].value, more[f"{SEEN} (base)"].n) == (1.0, 1), "on the very same windows"
    assert (more[f"{UNSEEN} (base)"].value, more[f"{UNSEEN} (base)"].n) == (pytest.approx(1 / 139), 139)


@pytest.mark.parametrize(("tokens", "outcome"), [(50, "failed"), (49, "passed")])
def test_published_text_with_so_many_private_tokens_fails(tokens: int, outcome: str) -> None:
    written = ((1, 2, 3, *ids_of(text(3)[20 : 20 + tokens]), 4), (7,) * 80)
    base, first = both(lab(ENOUGH, written=written))
    assert first.metrics["longest private span in what was learned"].value == tokens
    opinion = judged(base, first)
    assert opinion.outcome == outcome
    if outcome == "failed":
        assert opinion.reason == "1 of the texts learned hold 50 tokens in a row of a private text"
        assert first.metrics["what was learned with 50 private tokens"].value == 0.5
    assert not [n for n in base.metrics if "what was learned" in n], "which is none of the base's doing"


def test_a_control_is_no_source_of_copies() -> None:
    some = FakeLab(private=[Private(text(1), 0)], written=[ids_of(text(1))])
    assert not [n for n in AUDIT.measure(some, FIRST, base=False).metrics if "span" in n]


def test_what_a_model_writes_unprompted_is_searched_too() -> None:
    some = lab(2)
    some.writes = lambda model, draw: [ids_of(text(0)[:60]), (9,)] if model == "first" else [(9,)]
    base, first = both(some)
    assert first.metrics["longest private span in unprompted text"].value == 60
    share = first.metrics["unprompted text with 50 private tokens"]
    assert (share.value, share.n) == (0.5, 2)
    assert base.metrics["longest private span in unprompted text"].value == 0


# ---------------------------------------------------------------- canaries

DIGITS = tuple(f" {d}" for d in range(10))


def likes(model: str, ids: Ids) -> list[float]:
    """A code is the less likely the further it is above the model's favourite; the base has none."""
    shown = bytes(i for i in ids if i < BOS).decode()
    code = int(shown.rpartition("is")[2].replace(" ", "") or 0)
    return [0.0] * (len(ids) - 2) + [-float((code - {"base": code, "first": 44}[model]) % 100)]


def test_exposure_of_a_canary_of_known_rank() -> None:
    canary = Canary("The code is", (" 4", " 7"), (DIGITS, DIGITS), 4)
    other = Canary("Yours is", (" 4", " 4"), (DIGITS, DIGITS), 1)
    never = Canary("None is", (" 4", " 3"), (DIGITS, DIGITS), 0)
    base, first = both(FakeLab(canaries=[canary, other, never], likes=likes))
    hundred = math.log2(100)
    assert {name: (pytest.approx(m.value), m.n) for name, m in first.metrics.items()} == {
        "exposure (bits)": ((hundred - 2 + hundred) / 2, 2),  # of ranks 4 (44, 45, 46 before it) and 1
        "exposure, 1 in the corpus (bits)": (hundred, 1),
        "exposure, 4 in the corpus (bits)": (hundred - 2, 1),
        "exposure, never in the corpus (bits)": (0.0, 1),  # the very last
    }
    ties = hundred - math.log2(1 + 99 / 2)
    assert base.metrics["exposure (bits)"].value == pytest.approx(ties), "all alike: ties count half"


def test_of_a_large_space_as_many_are_drawn_and_always_the_same() -> None:
    canary = Canary("The code is", (" 4",) * 6, (DIGITS,) * 6)
    seen: list[list[Ids]] = [[], []]

    def watched(model: str, ids: Ids) -> list[float]:
        seen[model == "first"].append(ids)
        return [0.0] * (len(ids) - 2) + [-float(ids[-12:] != tuple(b" 4" * 6))]

    _, first = both(FakeLab(canaries=[canary], likes=watched))
    assert seen[0] == seen[1] and len(seen[0]) == len({*seen[0]}), "the same of both models, each once"
    assert 0.99 * ENUMERATED < len(seen[0]) <= ENUMERATED + 1, "so many, less those that were drawn twice"
    assert first.metrics["exposure (bits)"].value == pytest.approx(math.log2(len(seen[0]))), "rank 1 of these"
    assert set(first.metrics) == {"exposure (bits)"}, "nobody knows how often it was in the corpus"
