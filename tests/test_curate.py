"""Keep or reject, with the reason; nothing is lost and overlap cannot be switched off."""

from __future__ import annotations

import random

import pytest

import small
from selftaught.config import CurateConfig
from selftaught.curate import ORDER, curate, judge
from selftaught.errors import RecipeError
from selftaught.filters.base import Context, Filter
from selftaught.types import Example, Task

DEV = small.sums(2, "dev", start=50)


def example(text: str, *, task: str = "t", parent: str = "r") -> Example:
    return Example((1,), tuple(text.encode("utf-8", "surrogatepass")), text, task, parents=(parent,))


def asked(question: str) -> Task:
    return Task(({"role": "user", "content": question},))


def limits(**changes: float) -> CurateConfig:
    return CurateConfig.model_validate(changes)


def test_each_example_is_kept_or_rejected_with_its_first_reason() -> None:
    made = [example("fine"), example("Q: 50+0"), example(""), example("too long by far " * 80), example("fine too")]
    found = curate(made, Context(limits(max_tokens=500), DEV, {"t": asked("1+1")}))
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
    found = curate([example("50+0"), example("=", task="u")], Context(loosest, DEV, {"u": asked("50+0")}))
    assert found.kept == () and len(found.rejected) == 2
    assert ORDER[0] == "overlap", "and it is asked first"
    with pytest.raises(RecipeError, match=r"unknown key 'curate\.overlap'"):
        small.recipe("curate.overlap=false")


def test_agreeing_paths_of_one_question_are_not_duplicates() -> None:
    same = [example("10+1=11", parent=f"r{i}") for i in range(5)]
    assert len(curate(same, Context(limits(), DEV, {"t": asked("10+1")})).kept) == 5


def test_two_questions_with_one_example_keep_the_first() -> None:
    made = [example("10+1=11"), example("10+1=11", parent="r2"), example("10+1=11", task="u")]
    found = curate(made, Context(limits(), DEV, {"t": asked("Add 10+1"), "u": asked("add  10 + 1.")}))
    assert found.kept == tuple(made[:2]) and found.verdicts[0].by == "filter:duplicates"
    assert found.verdicts[0].reason.startswith(f"repeats example {made[0].id} of another question")


class Fragile(Filter):
    """Fails where it is told to, as a filter with a fault would."""

    def reason(self, example: Example) -> str | None:
        return str(1 // (example.text != "reason")) if example.text == "reason" else None

    def keep(self, example: Example) -> None:
        if example.text == "keep":
            raise KeyError("keep")


def test_an_example_on_which_a_filter_fails_is_rejected_and_counted() -> None:
    made = [example(text) for text in ("fine", "reason", "keep", "fine too")]
    found = judge(made, [("fragile", Fragile(Context(limits(), ())))])
    assert [e.text for e in found.kept] == ["fine", "fine too"]
    assert [v.reason for v in found.verdicts] == [
        "filter fragile failed: ZeroDivisionError: integer division or modulo by zero",
        "filter fragile failed: KeyError: 'keep'",
    ]
    assert found.failed == 2 and all(v.by == "filter:fragile" and not v.ok for v in found.verdicts)


def test_an_example_that_no_filter_can_read_is_rejected() -> None:
    broken = Example((1,), (2,), None, "t")  # type: ignore[arg-type]
    found = curate([broken], Context(limits(), DEV))
    assert found.kept == () and found.verdicts[0].reason.startswith("filter overlap failed: TypeError: ")


def test_without_the_overlap_filter_nothing_goes_on() -> None:
    unreadable = Task(({"role": "user", "content": None},))  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        curate([example("fine")], Context(limits(), [unreadable]))


@pytest.mark.parametrize("seed", range(20))
def test_kept_and_rejected_are_what_was_made_whatever_was_made(seed: int) -> None:
    rng = random.Random(seed)
    pieces = ["50+0", "17+25", "\ud800", "０", "\n", " ", "so ", "apple " * 30, "", "Q: ", "\u200b", "é" * 70, "的"]
    tasks = [asked("".join(rng.choices(pieces, k=3))) for _ in range(5)]
    ids = [t.id for t in tasks] + ["", "unknown", DEV[0].id]
    made = [
        example("".join(rng.choices(pieces, k=rng.randrange(6))), task=rng.choice(ids), parent=str(i))
        for i in range(200)
    ]
    found = curate(made, Context(limits(max_tokens=rng.randrange(50, 400)), DEV, {t.id: t for t in tasks}))
    assert sorted((*found.kept, *found.rejected), key=made.index) == made
    assert [v.subject for v in found.verdicts] == [e.id for e in found.rejected]
    assert all(v.reason and not v.ok and v.by.removeprefix("filter:") in ORDER for v in found.verdicts)
    assert found.failed == 0 and found.kept and len({v.by for v in found.verdicts}) > 1


def test_nothing_in_nothing_out() -> None:
    found = curate([], Context(limits(), DEV))
    assert (found.kept, found.rejected, found.verdicts) == ((), (), ())
