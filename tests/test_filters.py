"""Each filter's reasons, on the smallest example that trips them, and what they let pass."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Sequence

import pytest

from selftaught.config import CurateConfig
from selftaught.filters._text import ngrams
from selftaught.filters.base import Context
from selftaught.filters.length import Length
from selftaught.filters.overlap import Overlap
from selftaught.filters.repetition import Repetition, repeated_share
from selftaught.types import Example, Task

LONG = "How many of the forty two red apples in the old basket did Ana give away"

NINE = "how many red apples did Ben give to Ana"
TWELVE = "Ana has one basket with twelve red apples and eats two today"
ADDENDS = "17+25+40+8+33+21+9+14+50"


def task(question: str) -> Task:
    return Task(({"role": "user", "content": question},), "1")


def example(text: str, task_id: str = "t", ids: int | None = None) -> Example:
    return Example((1, 2), tuple(range(len(text) if ids is None else ids)), text, task_id)


def context(heldout: Sequence[Task] = (), question: str = "", **limits: float) -> Context:
    return Context(CurateConfig.model_validate(limits), heldout, {"t": task(question)})


# ---------------------------------------------------------------- length


@pytest.mark.parametrize(("text", "ids"), [("", 0), (" \n", 2), ("", 1)])
def test_an_empty_completion_is_rejected(text: str, ids: int) -> None:
    assert Length(context()).reason(example(text, ids=ids)) == "empty completion"


def test_the_limit_counts_prompt_and_completion() -> None:
    length = Length(context(max_tokens=5))
    assert length.reason(example("abc")) is None
    assert length.reason(example("abcd")) == "6 tokens, more than 5 (curate.max_tokens)"


# ---------------------------------------------------------------- repetition


def test_text_that_repeats_itself_is_rejected_with_the_share() -> None:
    reason = Repetition(context(max_repetition=0.5)).reason(example("so the answer is so " * 10))
    assert reason is not None and reason.startswith("89% of the text repeats itself (at most 50%)")


def test_short_and_varied_texts_pass() -> None:
    repetition = Repetition(context(max_repetition=0.1))
    assert repetition.reason(example("na " * 19)) is None, "under three spans nothing can be said"
    assert repetition.reason(example("".join(map(str, range(100))))) is None
    assert repeated_share("") == 0.0


# ---------------------------------------------------------------- overlap


@pytest.mark.parametrize(
    ("heldout", "question", "text", "reason"),
    [
        ("17+25", "17+25", "42", "its question is held out"),
        ("What is  Up?", "what is up", "x", "its question is held out"),
        ("17+25", "1+1", "so\n17+25\n= 42", "a line of it is a held-out question: '17+25'"),
        ("17+25", "", "Q: 17+25\nA: 42", "a line of it is a held-out question: 'Q: 17+25'"),
        ("two\nlines", "two lines", "x", "its question is held out"),
        (LONG, "1+1", f"You ask {LONG.upper()}!", "shares 13 words in a row with a held-out question"),
        (LONG, f"{LONG}, today", "x", "shares 13 words in a row with a held-out question"),
        ("17+25", "1+1", "1. １７ ＋ ２５\n", "a line of it is a held-out question: '1. １７ ＋ ２５'"),
        ("17\u221225", "17 - 25", "x", "its question is held out"),
        (NINE, "1+1", f"I ask, {NINE}", "shares 2 of the 2 runs of 8 words of a held-out question (70% are too many)"),
        (TWELVE, "1+1", TWELVE.replace("Ana", "Eve"), "shares 4 of the 5 runs of 8 words of a held-out question (70%"),
        (ADDENDS, f"3+{ADDENDS}+5", "x", "shares 2 of the 2 runs of 8 words of a held-out question"),
    ],
)
def test_what_overlaps_a_held_out_question_is_rejected(heldout: str, question: str, text: str, reason: str) -> None:
    found = Overlap(context([task(heldout)], question)).reason(example(text))
    assert found is not None and found.startswith(reason)


def test_the_very_task_is_rejected_by_its_id() -> None:
    held = task("17+25")
    assert Overlap(context([held])).reason(example("x", held.id)) == "its question is held out"


@pytest.mark.parametrize(
    ("heldout", "question", "text"),
    [
        ("17+25", "17+26", "17+25=42 is another sum"),
        (LONG, "1+1", " ".join(LONG.split()[:12])),
        ("17-25", "17+25", "17 + 25\n17 / 25"),
        ("(2+3)*4", "2+3*4", "2+(3*4)"),
        (NINE, "1+1", "how many red apples did Ben give us?"),
        (TWELVE, "1+1", f"{TWELVE.replace('red', 'ripe').replace('one', 'a')}?"),
        ("", "", "\n\n"),
        ("?", "1+1", "\n"),
    ],
    ids=[
        "part of a line",
        "twelve words",
        "another sign",
        "other brackets",
        "seven words",
        "under 70 percent",
        "empty questions",
        "nothing but punctuation",
    ],
)
def test_what_only_resembles_one_is_kept(heldout: str, question: str, text: str) -> None:
    assert Overlap(context([task(heldout)], question)).reason(example(text)) is None


def test_without_held_out_questions_nothing_overlaps() -> None:
    assert Overlap(context([], LONG)).reason(example(LONG)) is None


# ---------------------------------------------------------------- overlap, however it is written

PROSE = (
    "What is left of forty one plums after nine friends take two plums each?",
    "A train leaves at seven in the morning and arrives at ten, how long does it travel in all?",
    "Which of the three brothers has the fewest marbles?",
    "How many legs do seven cats and three hens have together?",
    "A farmer has thirty sheep and sells half of them, then buys twelve; how many has he now?",
    "If a book has 300 pages and Eve reads 24 a day, when does she finish it?",
    "What does “twice as many” mean for a child with five coins?",
    "Compute the area of a square whose side is 14 metres long.",
    "Wie viele Äpfel hat die große Straßenhändlerin am Ende des Tages noch übrig?",
    "一列火车早上七点出发十点到达一共行驶了多久",
)
SUMS = tuple(f"{n}+{90 - n}+{3 * n}" for n in range(11, 21))
WIDE = {c: c + 0xFEE0 for c in range(0x21, 0x7F)} | {0x20: 0x3000}
DISGUISES: dict[str, Callable[[str], str]] = {
    "exact": lambda q: q,
    "upper case": str.upper,
    "lower case": str.lower,
    "wide spaces": lambda q: "\u00a0 \t".join(q.split()) + " \u2009",
    "spaces about signs": lambda q: q.replace("+", " + "),
    "full width": lambda q: q.translate(WIDE),
    "zero width": lambda q: "\u200b".join(q) + "\ufeff",
    "soft hyphens": lambda q: q[:2] + "\u00ad" + q[2:],
    "decomposed": lambda q: unicodedata.normalize("NFD", q),
    "without punctuation": lambda q: re.sub("[?.,;“”]", "", q),
    "more punctuation": lambda q: f"»{q}« …!",
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_every_planted_question_is_found_in_every_disguise(disguise: str) -> None:
    planted = [DISGUISES[disguise](q) for q in (*PROSE, *SUMS)]
    overlap = Overlap(context([task(q) for q in (*PROSE, *SUMS)], "1+1"))
    assert len(planted) == 20
    for text in planted:
        for told in (text, f"So it is.\n{text}\nThat makes 5.", f"Q: {text}\nA: 5", f"2) {text}"):
            reason = overlap.reason(example(told))
            assert reason is not None and "held-out question" in reason, told
        assert Overlap(context([task(q) for q in (*PROSE, *SUMS)], text)).reason(example("5")) is not None


@pytest.mark.parametrize("disguise", sorted(DISGUISES))
def test_in_the_middle_of_a_text_every_question_of_eight_words_is_found(disguise: str) -> None:
    overlap = Overlap(context([task(q) for q in PROSE], "1+1"))
    for text in map(DISGUISES[disguise], PROSE):
        reason = overlap.reason(example(f"As my teacher used to ask: now, {text} And I said nothing to him."))
        assert reason is not None and re.search("shares .* words .*of a held-out|13 words in a row", reason), text


def test_other_questions_of_the_kind_are_kept() -> None:
    overlap = Overlap(context([task(q) for q in (*PROSE, *SUMS)], "7+8"))
    others = [f"{n}+{91 - n}+{3 * n}" for n in range(11, 60)]
    others += [PROSE[2].replace("brothers", "sisters"), "A train leaves at nine. How many legs do cats have?"]
    assert [overlap.reason(example(f"Q: {q}\nA: 5")) for q in others] == [None] * len(others)


def test_synthetic_sums_of_eight_and_more_numbers_do_not_meet_by_chance() -> None:
    rng = random.Random(3)
    sums = ["+".join(str(rng.randrange(10, 100)) for _ in range(rng.randrange(6, 14))) for _ in range(2000)]
    held, train = sums[:300], sums[300:]
    overlap = Overlap(context([task(q) for q in held], "1+1"))
    assert not [q for q in train if overlap.reason(example(f"{q}=5"))]
    caught = [q for q in held if overlap.reason(example(f"as {q}=5 so"))]
    assert caught == [q for q in held if q.count("+") >= 7], "eight numbers in a row are no chance"


@pytest.mark.parametrize("numbers", [2, 4])
def test_an_instruction_before_short_questions_says_nothing_about_one(numbers: int) -> None:
    rng = random.Random(5)
    asked = [
        "Please work out this sum for me: " + "+".join(str(rng.randrange(10, 100)) for _ in range(numbers))
        for _ in range(400)
    ]
    overlap = Overlap(context([task(q) for q in asked[:200]], "1+1"))
    new = [q for q in asked[200:] if q not in asked[:200]]
    assert [overlap.reason(example(f"{q} = 5")) for q in new] == [None] * len(new)
    assert all(overlap.reason(example(q)) for q in asked[:200])


# ---------------------------------------------------------------- overlap, boilerplate

INSTRUCTION = "Please read the following arithmetic problem carefully and then write the result of it alone"


@pytest.mark.parametrize(("count", "compared"), [(10, True), (11, False)])
def test_an_instruction_before_every_question_says_nothing_about_one(count: int, compared: bool) -> None:
    """Also where the last twelve words of it and the first number, as here, stand in one held-out question alone."""
    held = [task(f"{INSTRUCTION}: {n}+{n}") for n in range(count)]
    reason = Overlap(context(held, f"{INSTRUCTION}: 3+91")).reason(example("94"))
    assert (reason is not None and reason.startswith("shares 13 words")) == compared
    whole = Overlap(context(held, f"{INSTRUCTION}: 3+3")).reason(example("6"))
    assert whole == "its question is held out", "the whole question is compared as ever"


def test_a_rare_run_of_words_beside_a_common_one_is_still_seen() -> None:
    held = [task(f"{INSTRUCTION}: {n}+{n}") for n in range(20)] + [task(f"{INSTRUCTION}: {LONG}")]
    found = Overlap(context(held, "1+1")).reason(example(f"{INSTRUCTION}: so {LONG}, then"))
    assert found is not None and found.startswith("shares 13 words in a row with a held-out question: ")
    assert "please read" not in found, "what it names is the one question's own"


@pytest.mark.parametrize(("count", "reason"), [(10, "its question is held out"), (11, None)])
def test_a_last_turn_that_many_held_out_prompts_share_is_compared_as_a_whole_prompt(
    count: int, reason: str | None
) -> None:
    last = {"role": "user", "content": f"Go on, please. {LONG}"}
    held = [
        Task(({"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "ok"}, last)) for n in range(count)
    ]
    overlap = Overlap(context(held, last["content"]))
    assert overlap.reason(example("42")) == reason
    assert overlap.reason(example("42", held[0].id)) == "its question is held out"


def test_the_window_is_the_recipes() -> None:
    found = Overlap(context([task(LONG)], "1+1", overlap_ngram=5)).reason(example("of the forty two red"))
    assert found == "shares 5 words in a row with a held-out question: 'of the forty two red'"
    assert ngrams("a b c", 4) == set()


def test_a_passage_that_many_questions_share_is_still_held_out() -> None:
    passage = "In the spring of that year nobody in the village had seen the old miller or his grey horse"
    asked = [Task(({"role": "user", "content": f"{passage}\n\n{what}?"},), "1", group="miller") for what in range(30)]
    reason = Overlap(context(asked)).reason(example(f"I know this: {passage}."))
    assert reason is not None and "13 words in a row" in reason
