"""Duplicates: exact and near, never among paths of one question, never by the luck of a hash."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

import small
from selftaught.config import CurateConfig
from selftaught.curate import Curated, judge
from selftaught.errors import RecipeError
from selftaught.filters.base import Context
from selftaught.filters.duplicates import Duplicates, jaccard
from selftaught.types import Example, Task, digest

PATH = "First we add the red apples to the green ones, then we take away what Ana gave to her brother, which leaves 9."


def task(*turns: str, group: str | None = None) -> Task:
    roles = ("assistant", "user")
    prompt = tuple({"role": roles[(len(turns) - i) % 2], "content": turn} for i, turn in enumerate(turns))
    return Task(prompt, group=group)


def deduplicated(pairs: Sequence[tuple[Task | None, str]], **limits: float) -> Curated:
    """Examples of (the task that was asked or None for replay, completion)."""
    asked = {t.id: t for t, _ in pairs if t}
    made = [Example((1,), (2, i), text, t.id if t else "", parents=(f"r{i}",)) for i, (t, text) in enumerate(pairs)]
    context = Context(CurateConfig.model_validate(limits), (), asked)
    return judge(made, [("duplicates", Duplicates(context))])


def reasons(found: Curated) -> list[str]:
    return [re.sub(r"\b[0-9a-f]{16}\b", "ID", v.reason) for v in found.verdicts]


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("again", ["17+25", "17 + 25", "１７＋２５", "17\u200b+25 ?"])
def test_the_same_question_and_completion_under_another_id_is_a_duplicate(again: str) -> None:
    found = deduplicated([(task("17+25"), "= 42"), (task(f" {again}"), "= 42.")])
    assert reasons(found) == ["repeats example ID of another question ('= 42') word for word (5 words and signs)"]
    assert found.kept[0].id in found.verdicts[0].reason


def test_of_equals_the_first_that_was_kept_stays() -> None:
    found = deduplicated([(task("1+1", group=str(i)), "2") for i in range(2)] + [(task("1 + 1"), "2")] * 2)
    assert len(found.kept) == 2, "two paths of one question"
    assert len(found.rejected) == 2 and all(found.kept[0].id in v.reason for v in found.verdicts)


def test_a_rejected_example_is_nobodys_original() -> None:
    duplicates = Duplicates(Context(CurateConfig(), (), {}))
    first, second = (Example((1,), (2,), "the same", name) for name in "ab")
    assert duplicates.reason(first) is None
    assert duplicates.reason(second) is None, "the first was never kept"
    duplicates.keep(second)
    assert duplicates.reason(first) is not None


def test_paths_of_one_question_are_never_compared_nor_is_unprompted_text() -> None:
    varied = [PATH.replace("9", word) for word in ("9", "nine", "ten", "9")]
    assert not deduplicated([(task("How many are left?"), text) for text in varied]).rejected
    assert not deduplicated([(None, text) for text in varied]).rejected


def test_unprompted_text_that_repeats_an_answer_is_a_duplicate() -> None:
    found = deduplicated([(task("1+1"), "= 2"), (None, "1+1 = 2")])
    assert reasons(found) == ["repeats example ID of another question ('= 2') word for word (5 words and signs)"]


def test_sums_and_other_short_texts_are_compared_exactly_only() -> None:
    sums = [(task(f"{a}+{b}"), f"{a}+{b}={a + b}") for a in range(10, 40) for b in range(10, 40)]
    assert not deduplicated(sums).rejected
    assert not deduplicated([(task("Say it"), "so it is " * 4), (task("Say it now"), "so it is " * 4)]).rejected


def test_the_same_last_turn_of_two_conversations_is_another_question() -> None:
    talks = [task(about, "I see.", "Go on") for about in ("Tell me of Rome", "Tell me of Oslo")]
    assert not deduplicated([(talk, "It is old.") for talk in talks]).rejected


# ---------------------------------------------------------------- near


def test_a_near_duplicate_names_the_example_and_the_similarity() -> None:
    steps = PATH + " So the number of apples that are left in the basket at the end of the day is nine, and we say so."
    pairs = [(task(f"{name} asks: how many apples are left?"), steps) for name in ("Ana", "Ben")]
    assert reasons(deduplicated(pairs)) == [
        "nearly repeats example ID of another question ('First we add the red apples to the green')"
        ": Jaccard similarity 0.960 of word 5-grams, a duplicate from 0.8 (curate.duplicate_jaccard)"
    ]
    assert not deduplicated(pairs, duplicate_jaccard=0.97).rejected


@pytest.mark.parametrize(("count", "rejected"), [(10, 9), (11, 0)])
def test_an_instruction_before_many_questions_makes_no_duplicates(count: int, rejected: int) -> None:
    instruction = " ".join(f"word{i}" for i in range(40))
    found = deduplicated([(task(f"{instruction}: {n}+{n}"), f"{n + n}") for n in range(count)])
    assert len(found.rejected) == rejected, "up to ten questions it is their words, beyond it is boilerplate"


def test_questions_of_one_passage_are_not_near_duplicates() -> None:
    passage = " ".join(f"word{i}" for i in range(100))
    pairs = [(task(f"{passage}\n\n{what} was it?", group="miller"), "yes") for what in ("Who", "When", "Where")]
    assert not deduplicated(pairs).rejected
    apart = [(task(t.question), text) for t, text in pairs]
    assert len(deduplicated(apart).rejected) == 2, "which without the group they would be"


def corpus() -> list[tuple[Task, str]]:
    """8,000 texts of 100 words, and among them 2,000 copies with one word of the question changed: similarity 0.9."""
    rng = random.Random(7)
    vocabulary = [f"w{i}" for i in range(3000)]
    texts = [rng.choices(vocabulary, k=100) for _ in range(8000)]
    copies = []
    for original in rng.sample(range(8000), 2000):
        changed = list(texts[original])
        changed[rng.randrange(4, 30)] = "changed"
        copies.append(changed)
    rows = rng.sample([*texts, *copies], 10_000)
    return [(task(" ".join(row[:30])), " ".join(row[30:])) for row in rows]


def grams(text: str) -> set[tuple[str, ...]]:
    """Written again, so that the filter is not its own witness."""
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    pairs = corpus()
    found = deduplicated(pairs)
    assert len(found.rejected) >= 0.95 * 2000 and len(found.rejected) <= 2000
    texts = {e.id: f"{t.question} {e.text}" for e, (t, _) in zip(_in_order(found, pairs), pairs, strict=True)}
    kept = {e.id for e in found.kept}
    for verdict in found.verdicts:
        [named] = re.findall(r"example ([0-9a-f]{16})", verdict.reason)
        exact = jaccard(grams(texts[named]), grams(texts[verdict.subject]))  # type: ignore[arg-type]
        assert named in kept and exact >= 0.8 and f"similarity {exact:.3f}" in verdict.reason


def _in_order(found: Curated, pairs: Sequence[tuple[Task, str]]) -> list[Example]:
    return sorted((*found.kept, *found.rejected), key=lambda e: e.completion_ids[1])


def test_similarity_is_that_of_sets_by_hand() -> None:
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5


TWICE = """
from test_duplicates import corpus, deduplicated
from selftaught.types import digest
pairs = corpus()
print(digest([[v.subject, v.reason] for v in deduplicated(pairs[:1500]).verdicts]))
"""


def test_the_verdicts_are_the_same_in_every_process() -> None:
    pairs = corpus()
    here = digest([[v.subject, v.reason] for v in deduplicated(pairs[:1500]).verdicts])
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", TWICE], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


def test_a_threshold_that_the_bands_cannot_serve_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"curate\.duplicate_jaccard: .* greater than or equal to 0\.7"):
        small.recipe("curate.duplicate_jaccard=0.3")
