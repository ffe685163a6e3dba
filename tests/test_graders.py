from __future__ import annotations

from pathlib import Path

import pytest

from selftaught.tasks._checkers import checker
from selftaught.tasks._graders import accepting, recall, words
from selftaught.tasks.base import Checker, TaskSet
from selftaught.types import Task


def task(answer: str, source: str = "q.json:1", how: str = "recall") -> Task:
    return Task(({"role": "user", "content": "Who won?"},), answer, how, source=source)


def right(how: Checker, text: str, gold: Task | str) -> bool:
    found = TaskSet((), (), (), {}, {how.name: how})
    return found.check(gold if isinstance(gold, Task) else task(gold, how=how.name), text)[1]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Denver Broncos.", ["denver", "broncos"]),
        ("well-known", ["wellknown"]),
        ("24–10", ["2410"]),
        ("$1.2 billion", ["12", "billion"]),
        ("“golden anniversary”", ["golden", "anniversary"]),
        ("ＴＥＡ", ["tea"]),
        ("theatre, anthem", ["theatre", "anthem"]),
        ("a", ["a"]),
        ("?!", ["?!"]),
        ("  ", []),
    ],
)  # fmt: skip
def test_words_are_compared_without_case_punctuation_and_articles(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert words(" ".join(expected)) == expected, "what was read is read again as itself"


# ---------------------------------------------------------------- recall


def test_recall_counts_each_word_as_often_as_it_stands() -> None:
    assert recall("new york", "New York, New York") == 0.5
    assert recall("new new york york", "New York") == 1.0
    assert recall("the", "The Hague") == 0.0 == recall("", "Paris") == recall("Paris", "")


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("Denver Broncos", "The Denver Broncos", True),
        ("It was the Broncos of Denver, I think", "Denver Broncos", True),
        ("Broncos", "Denver Broncos", False),  # 0.5
        ("Emma of France", "Queen Emma of Normandy of France", False),  # 3 of 6
        ("Emma, Queen of France", "Queen Emma of Normandy France", True),  # 4 of 5
        ("one two three", "one two three four five", True),  # 0.6 is enough
        ("", "Denver", False),
        (" \n\n", "Denver", False),
        ("...", "Denver", False),
        ("vitamin", "A", False),
        ("A.", "a", True),
    ],
)
def test_recall_is_right_from_six_tenths_on(text: str, gold: str, expected: bool) -> None:
    assert right(checker("recall"), text, gold) is expected


@pytest.mark.parametrize("how", ["recall", "squad"])
@pytest.mark.parametrize(
    "text",
    [
        "Santa Clara\n\nQuestion: Who lost?\nAnswer: Carolina Panthers",
        "\n\n Santa Clara. \nSanta Fe",
        "Answer: Santa Clara",
        "A:\nSanta Clara\nQ: Where is it?",
        "It is near San Jose.\nSo the answer is Santa Clara.\nDone.",
        "San Jose? No.\n#### Santa Clara",
    ],
)
def test_an_answer_is_what_is_marked_or_the_first_line(how: str, text: str) -> None:
    assert right(checker(how), text, "Santa Clara"), text
    assert not right(checker(how), text, "Carolina Panthers") and not right(checker(how), text, "San Jose"), text


def test_what_comes_after_the_first_line_is_no_answer() -> None:
    assert checker("recall").parse("I do not know\nSanta Clara") == "i do not know"
    assert checker("recall").parse("A: \n\nAnswer:") is None
    assert checker("recall").parse("A dog") == checker("recall").parse("the Dog!") == "dog", "one vote"


# ---------------------------------------------------------------- squad


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("the Denver Broncos!", "Denver Broncos", True),
        ("Denver  broncos", "A Denver Broncos", True),
        ("Broncos Denver", "Denver Broncos", False),
        ("Denver Broncos of 2016", "Denver Broncos", False),
        ("", "", False),
        ("2014.", "2014", True),
    ],
)
def test_squad_wants_the_same_words_in_the_same_order(text: str, gold: str, expected: bool) -> None:
    assert right(checker("squad"), text, gold) is expected


# ---------------------------------------------------------------- several right answers


def test_any_of_several_answers_is_right_where_the_task_has_several() -> None:
    both = accepting(checker("recall"), {"q.json:1": ("Levi's Stadium", "the Bay Area")})
    first, second = task("Santa Clara"), task("Santa Clara", "q.json:2")
    assert right(both, "Levis Stadium", first) and right(both, "Bay Area", first) and right(both, "Santa Clara", first)
    assert not right(both, "Denver", first)
    assert right(both, "Santa Clara", second) and not right(both, "Levis Stadium", second)
    assert not right(both, "", first)


def test_other_answers_change_the_digest_and_none_changes_nothing() -> None:
    plain = checker("recall")
    assert accepting(plain, {}) is plain
    digests = {accepting(plain, {"q.json:1": (word,)}).digest for word in ("x", "y")}
    assert len(digests | {plain.digest}) == 3, "a resumed run sees that an answer was changed"


def test_a_users_function_is_asked_about_every_answer(tmp_path: Path) -> None:
    file = tmp_path / "near.py"
    file.write_text("def near(completions, answer):\n    return [0.9 if completions[0] == answer[0] else 0.1]\n")
    near = checker(f"{file}:near")
    both = accepting(near, {"q.json:1": ("Levi's Stadium",)})
    asked = task("Santa Clara", how=near.name)
    found = TaskSet((), (), (), {}, {near.name: both})
    assert [found.grade(asked, t)[1] for t in ("Santa Clara", "Levi's Stadium", "Denver")] == [0.9, 0.9, 0.1]
    assert both.digest != near.digest
