"""Keep or reject, with the reason; nothing is lost and overlap cannot be switched off."""

from __future__ import annotations

import pytest

import small
from selftaught.config import CurateConfig
from selftaught.curate import ORDER, curate
from selftaught.errors import RecipeError
from selftaught.filters.base import Context
from selftaught.types import Example

DEV = small.sums(2, "dev", start=50)


def example(text: str, *, task: str = "t", parent: str = "r") -> Example:
    return Example((1,), tuple(text.encode()), text, task, parents=(parent,))


def limits(**changes: float) -> CurateConfig:
    return CurateConfig.model_validate(changes)


def test_each_example_is_kept_or_rejected_with_its_first_reason() -> None:
    made = [example("fine"), example("Q: 50+0"), example(""), example("too long by far " * 80), example("fine too")]
    found = curate(made, Context(limits(max_tokens=500), DEV, {"t": "1+1"}))
    assert [e.text for e in found.kept] == ["fine", "fine too"]
    assert [(v.by, v.reason) for v in found.verdicts] == [
        ("filter:overlap", "a line of it is a held-out question: 'Q: 50+0'"),
        ("filter:length", "empty completion"),
        ("filter:length", "1281 tokens, more than 500 (curate.max_tokens)"),
    ]
    assert [v.subject for v in found.verdicts] == [e.id for e in found.rejected]
    assert not any(v.ok for v in found.verdicts)
    assert len(found.kept) + len(found.rejected) == len(made)


def test_no_setting_lets_a_held_out_question_through() -> None:
    loosest = limits(max_tokens=10**9, max_repetition=1.0, overlap_ngram=10**6)
    found = curate([example("50+0"), example("=", task="u")], Context(loosest, DEV, {"u": "50+0"}))
    assert found.kept == () and len(found.rejected) == 2
    assert ORDER[0] == "overlap", "and it is asked first"
    with pytest.raises(RecipeError, match=r"unknown key 'curate\.overlap'"):
        small.recipe("curate.overlap=false")


def test_agreeing_paths_of_one_question_are_not_duplicates() -> None:
    same = [example("10+1=11", parent=f"r{i}") for i in range(5)]
    assert len(curate(same, Context(limits(), DEV, {"t": "10+1"})).kept) == 5


def test_nothing_in_nothing_out() -> None:
    found = curate([], Context(limits(), DEV))
    assert (found.kept, found.rejected, found.verdicts) == ((), (), ())
