from __future__ import annotations

import random

import pytest

from selftaught.errors import DataError
from selftaught.tasks._checkers import checker
from selftaught.tasks._split import NO_LABELS, Pool, apart, assemble, dedupe, split
from selftaught.types import Message, Task

SHARES = {"train": 0.4, "dev": 0.2, "vault": 0.4}
NUMBER = checker("number")


def task(n: int, answer: str | None = "1", group: str | None = None) -> Task:
    return Task(({"role": "user", "content": f"question {n}"},), answer, "number", group=group, source=f"q.jsonl:{n}")


def talk(*turns: str, answer: str | None = "1") -> Task:
    roles = ("user", "assistant")
    prompt: tuple[Message, ...] = tuple({"role": roles[i % 2], "content": t} for i, t in enumerate(turns))
    return Task(prompt, answer, "number")


def pool(tasks: list[Task], holdout: list[Task] | None = None, guard: tuple[Task, ...] = ()) -> Pool:
    return Pool(tasks, holdout, guard, {"number": NUMBER})


def test_sizes_are_exactly_as_declared() -> None:
    parts = split([task(n) for n in range(1000)], SHARES, seed=0)
    assert (len(parts.train), len(parts.dev), len(parts.vault)) == (400, 200, 400)
    assert {t.split for t in parts.vault} == {"vault"} and parts.notes == ()


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_file() -> None:
    tasks = [task(n) for n in range(200)]
    shuffled = random.Random(1).sample(tasks, len(tasks))
    assert split(tasks, SHARES, 7) == split(shuffled, SHARES, 7)
    assert {t.id for t in split(tasks, SHARES, 7).vault} != {t.id for t in split(tasks, SHARES, 8).vault}


def test_a_group_never_crosses_and_sizes_hold_to_within_a_group() -> None:
    rng = random.Random(0)
    tasks = [task(n, group=f"g{rng.randrange(60)}") for n in range(600)]
    largest = max(sum(t.group == g for t in tasks) for g in {t.group for t in tasks})
    for seed in range(20):
        parts = split(tasks, SHARES, seed)
        groups = [{t.group for t in part} for part in (parts.train, parts.dev, parts.vault)]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
        assert abs(len(parts.dev) - 120) <= largest and abs(len(parts.vault) - 240) <= largest


def test_prompts_that_differ_in_case_and_space_stay_together() -> None:
    pairs = [Task(({"role": "user", "content": c},), "1") for n in range(50) for c in (f"Add {n}", f"add  {n}")]
    for seed in range(10):
        parts = split(pairs, SHARES, seed)
        asked = [{t.question.casefold().replace("  ", " ") for t in p} for p in (parts.train, parts.dev, parts.vault)]
        assert not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])


def test_unlabelled_tasks_train_and_take_their_group_along() -> None:
    tasks = [task(n, answer=None if n == 0 else "1", group="mixed" if n < 5 else None) for n in range(50)]
    parts = split(tasks, {"dev": 0.5, "vault": 0.5}, seed=0)
    assert {t.source for t in parts.train} == {f"q.jsonl:{n}" for n in range(5)}
    assert parts.notes == ("4 labelled questions are trained on because their group has unlabelled ones",)


def test_one_group_for_all_is_said() -> None:
    parts = split([task(n, group="only") for n in range(9)], SHARES, seed=0)
    assert len(parts.train) == 9
    assert parts.notes == ("nothing fell to dev and vault: too few labelled questions or groups",)


def test_dedupe_keeps_the_labelled_one_and_counts() -> None:
    kept, dropped = dedupe([task(1, None), task(1, "5"), task(1, "5.0"), task(2)], NUMBER.same)
    assert [t.answer for t in kept] == ["5", "1"] and dropped == 2


def test_dedupe_sees_through_case_and_white_space_whatever_the_order() -> None:
    twins = [talk("add 1+2", answer="3"), talk("Add 1+2 ", answer="3")]
    kept, dropped = dedupe(twins, NUMBER.same)
    assert len(kept) == 1 and dropped == 1, "the same words are the same question"
    assert dedupe(twins[::-1], NUMBER.same)[0] == kept, "the order of the file does not choose"
    with pytest.raises(DataError, match="the same question has two answers, '3' and '4'"):
        dedupe([twins[0], talk("ADD 1+2", answer="4")], NUMBER.same)


def test_conflicting_answers_name_both_lines() -> None:
    twin = Task(task(1).prompt, "6", "number", source="q.jsonl:9")
    with pytest.raises(
        DataError, match=r"q\.jsonl:1 and q\.jsonl:9: the same question has two answers, '5' and '6'"
    ) as error:
        dedupe([task(1, "5"), task(2), twin], NUMBER.same)
    assert error.value.hint == "Keep the line that is right and delete the other."


def test_apart_sees_through_case_and_white_space() -> None:
    kept, dropped = apart([task(1), task(2)], [Task(({"role": "user", "content": " QUESTION  2"},), "1")])
    assert [t.source for t in kept] == ["q.jsonl:1"] and dropped == 1


def test_apart_sees_a_held_out_conversation_inside_a_longer_one() -> None:
    held = [talk("a", "b", "c")]
    inside = [talk("A", "b", "c ", "d", "e"), talk("x", "y", "a", "b", "c")]
    outside = [talk("c"), talk("a"), talk("a", "other", "c"), talk("a", "b", "x", "b", "c")]
    kept, dropped = apart([*inside, *outside], held)
    assert list(kept) == outside and dropped == 2, "turns in a row show it, some of its turns do not"


def test_a_row_that_shows_a_held_out_conversation_is_dropped_from_train_and_counted() -> None:
    tasks = assemble(pool([talk("a", "b", "c", answer=None), task(1, None)], [talk("a"), task(2)]), SHARES, seed=0)
    assert [t.source for t in tasks.train] == ["q.jsonl:1"]
    assert "1 questions dropped from train because they are held out" in tasks.notes


@pytest.mark.parametrize("where", ["holdout", "guard"])
def test_a_group_that_a_held_out_file_has_too_is_dropped_from_train_and_counted(where: str) -> None:
    train = [task(n, None, group="p1" if n < 3 else None if n == 3 else "p2") for n in range(10)]
    other = [task(n, group="p1") for n in range(20, 24)] + [task(30)]
    made = pool(train, holdout=other) if where == "holdout" else pool(train, guard=tuple(other))
    tasks = assemble(made, SHARES, seed=0)
    assert {t.group for t in tasks.train} == {"p2", None} and len(tasks.train) == 7, "no group is no common group"
    assert "3 questions dropped from train because their group is held out" in tasks.notes


def test_nothing_left_says_what_was_dropped() -> None:
    made = pool([task(1, None, "p"), task(2, None)], [task(2), task(3, group="p")])
    with pytest.raises(DataError, match=r"left to train on: 1 questions dropped .* held out, 1 .* group is held out"):
        assemble(made, SHARES, seed=0)


def test_labels_are_not_spent_on_training_where_unlabelled_questions_are() -> None:
    tasks = assemble(pool([task(n, "1" if n < 90 else None) for n in range(300)]), SHARES, seed=0)
    assert (len(tasks.train), len(tasks.dev), len(tasks.vault)) == (210, 30, 60)
    assert all(t.answer is None for t in tasks.train)


def test_a_holdout_wins_over_train_and_over_the_guard() -> None:
    made = pool([task(n, None) for n in range(10)], [task(n) for n in range(5, 12)], (task(5), task(0), task(99)))
    tasks = assemble(made, SHARES, seed=0)
    assert {t.source for t in tasks.train} == {f"q.jsonl:{n}" for n in range(1, 5)}
    assert {t.source for t in tasks.guards["guard"]} == {"q.jsonl:0", "q.jsonl:99"}
    assert {t.split for t in tasks.guards["guard"]} == {"guard"}
    assert "6 questions dropped from train because they are held out" in tasks.notes
    assert "1 questions dropped from guard because they are in dev or vault" in tasks.notes


def test_a_smaller_train_set_is_part_of_a_larger_one() -> None:
    tasks = [task(n) for n in range(200)]
    whole = assemble(pool(tasks), SHARES, seed=0)
    few = assemble(pool(tasks), SHARES, seed=0, limit=10)
    assert few.train == whole.train[:10]
    assert few.vault == whole.vault and few.vault_digest == whole.vault_digest


def test_nothing_labelled_is_fine_and_said() -> None:
    tasks = assemble(pool([task(n, None) for n in range(5)]), SHARES, seed=0)
    assert (len(tasks.train), tasks.dev, tasks.vault, tasks.notes) == (5, (), (), (NO_LABELS,))


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="No question is left to train on") as error:
        assemble(pool([task(n) for n in range(5)]), {"train": 0, "dev": 0.5, "vault": 0.5}, seed=0)
    assert "tasks.train" in error.value.hint
