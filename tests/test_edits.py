"""Edits: how a model is asked for one, and the training texts in what it writes."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from selftaught.config import Member
from selftaught.engines.scripted import ByteTokens
from selftaught.errors import RecipeError
from selftaught.load import make
from selftaught.methods import _edits
from selftaught.methods.selfedit import Selfedit
from selftaught.types import Document, Example

TEA = Document("tea", "Tea is a drink. {title} is not a place.", "Tea")
WIDE = ByteTokens(4096)


def method(**options: object) -> Selfedit:
    return Selfedit(Selfedit.Options.model_validate(options))


def said(examples: tuple[Example, ...]) -> list[str]:
    return [e.text for e in examples]


@pytest.mark.parametrize("form", get_args(_edits.Format))
def test_every_format_shows_title_and_passage_as_they_are(form: _edits.Format) -> None:
    prompt = _edits.prompt(form, None, TEA)
    assert f"Tea\n{TEA.text}\n" in prompt, "braces in a passage are text"
    assert prompt.startswith("Tea") == (form == "none"), "all but one say what to write"


def test_a_prompt_of_ones_own() -> None:
    assert _edits.prompt("implications", "On {title}: {text} Notes:", TEA) == f"On Tea: {TEA.text} Notes:"


@pytest.mark.parametrize("name", ["selfedit", "continued_pretraining"])
def test_a_prompt_without_the_document_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=re.escape("prompt needs {text}")):
        make("methods", Member(name=name, prompt="{title}:"))  # type: ignore[call-arg]


def test_the_formats_differ() -> None:
    assert len({_edits.prompt(form, None, TEA) for form in get_args(_edits.Format)}) == len(get_args(_edits.Format))


@pytest.mark.parametrize(
    ("form", "edit", "expected"),
    [
        ("implications", "\n1. Tea is hot.\n\n 2. It is wet. \n", ["1. Tea is hot.", "2. It is wet."]),
        ("implications", "Here they are:\n1. Tea is hot.\n2. It is wet.", ["1. Tea is hot.", "2. It is wet."]),
        ("implications", "Tea is hot.\nTea is wet.", ["Tea is hot.", "Tea is wet."]),
        ("implications", "1. Only one.", ["1. Only one."]),
        ("self_qa", " What is tea?\nAnswer: a drink\nQuestion 2: Is it wet?\nAnswer: yes",
         ["Question 1: What is tea?\nAnswer: a drink", "Question 2: Is it wet?\nAnswer: yes"]),
        ("self_qa", "Question 1: What?\nAnswer: tea", ["Question 1: What?\nAnswer: tea"]),
        ("chain_of_thought", "It says much.\nImplications:\nTea is hot.", ["Tea is hot."]),
        ("chain_of_thought", "no list at all", ["no list at all"]),
        ("rewrite", "  \n ", []),
        ("self_qa", " ", []),
    ],
)  # fmt: skip
def test_lines_are_training_texts(form: _edits.Format, edit: str, expected: list[str]) -> None:
    assert _edits.texts(form, edit, whole=False) == expected


def test_a_whole_edit_is_one_text() -> None:
    assert _edits.texts("rewrite", " Tea.\nHot. ", whole=True) == ["Tea.\nHot."]


def test_titles_passage_and_how_many_texts() -> None:
    edit = "Hot.\nWet.\nGreen."
    assert said(method().lessons(edit, TEA, WIDE)) == [f"Tea\n{t}" for t in ("Hot.", "Wet.", "Green.", TEA.text)]
    assert said(method(title=False, most=2).lessons(edit, TEA, WIDE)) == ["Hot.", "Wet.", TEA.text]
    assert said(method(title=False, passage=False).lessons(edit, TEA, WIDE)) == ["Hot.", "Wet.", "Green."]


def test_no_edit_leaves_the_passage() -> None:
    assert said(method(title=False, passage=False).lessons(" \n", TEA, WIDE)) == [TEA.text]


def test_every_token_of_a_text_is_learned_and_nothing_else() -> None:
    [lesson] = method(title=False, passage=False).lessons("Hot.", TEA, WIDE)
    assert lesson.prompt_ids == WIDE.encode("")
    assert lesson.completion_ids == WIDE.encode_completion("Hot.")
    assert lesson.weight == 1.0


def test_what_does_not_fit_the_context_is_cut_and_nothing_is_lost() -> None:
    narrow = ByteTokens(16)
    lessons = method(title=False).lessons("", TEA, narrow)
    assert all(len(e.prompt_ids) + len(e.completion_ids) <= 16 for e in lessons)
    assert sum((e.completion_ids for e in lessons), ()) == narrow.encode_completion(TEA.text)


def test_a_question_with_its_passage() -> None:
    from selftaught.types import Task

    task = Task(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hot?"}), "yes")
    shown = method().open_book(task, TEA)
    assert shown.prompt == (task.prompt[0], {"role": "user", "content": f"{TEA.text}\n\nHot?"})
    assert shown.answer == "yes"
