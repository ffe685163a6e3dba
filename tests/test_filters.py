"""Each filter's reasons, on the smallest example that trips them, and what they let pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from selftaught.config import CurateConfig
from selftaught.filters.base import Context
from selftaught.filters.length import Length
from selftaught.filters.overlap import Overlap, ngrams
from selftaught.filters.repetition import Repetition, repeated_share
from selftaught.types import Example, Task

LONG = "How many of the forty two red apples in the old basket did Ana give away"


def task(question: str) -> Task:
    return Task(({"role": "user", "content": question},), "1")


def example(text: str, task_id: str = "t", ids: int | None = None) -> Example:
    return Example((1, 2), tuple(range(len(text) if ids is None else ids)), text, task_id)


def context(heldout: Sequence[Task] = (), question: str = "", **limits: float) -> Context:
    return Context(CurateConfig.model_validate(limits), heldout, {"t": question})


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
        ("", "", "\n\n"),
        ("?", "1+1", "\n"),
    ],
    ids=["part of a line", "twelve words", "empty questions", "nothing but punctuation"],
)
def test_what_only_resembles_one_is_kept(heldout: str, question: str, text: str) -> None:
    assert Overlap(context([task(heldout)], question)).reason(example(text)) is None


def test_without_held_out_questions_nothing_overlaps() -> None:
    assert Overlap(context([], LONG)).reason(example(LONG)) is None


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
