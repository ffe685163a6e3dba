from __future__ import annotations

import random

import pytest

from selftaught.config import Member
from selftaught.errors import DataError, RecipeError
from selftaught.load import make
from selftaught.tasks.base import sizes
from selftaught.tasks.world_sums import WorldSums, sort_question, sum_question


def world(**options: object) -> WorldSums:
    return WorldSums(WorldSums.Options.model_validate(options))


def test_questions_and_answers() -> None:
    rng = random.Random(0)
    for steps in (1, 3, 5):
        question, answer = sum_question(rng, steps)
        numbers = [int(n) for n in question.split("+")]
        assert len(numbers) == steps + 1 and all(1 <= n <= 99 for n in numbers) and int(answer) == sum(numbers)
    for _ in range(200):
        question, answer = sort_question(rng)
        word, *letters = question.split(" ")
        assert word == "sort" and 3 <= len(letters) <= 7 and answer.split(" ") == sorted(letters)


def test_suites_are_disjoint_as_large_as_declared_and_checked() -> None:
    tasks = world().load(seed=0)
    assert sizes(tasks) == {"train": 2000, "dev": 1000, "vault": 2000, "guard sort": 1000}
    everything = [*tasks.train, *tasks.dev, *tasks.vault, *tasks.guards["sort"]]
    assert len({t.question for t in everything}) == 6000
    assert all(tasks.check(t, f"... #### {t.answer}")[1] for t in everything)
    steps = [t.question.count("+") for t in tasks.vault]
    assert {n: steps.count(n) > 200 for n in range(1, 6)} == dict.fromkeys(range(1, 6), True)
    assert steps.count(5) > 1.5 * steps.count(4)


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others() -> None:
    small = {"train": 50, "dev": 20, "vault": 30, "guard": 10}
    assert world(**small).load(3) == world(**small).load(3)
    assert world(**small).load(3).vault_digest != world(**small).load(4).vault_digest


def test_fewer_training_questions_leave_the_rest_as_it_is() -> None:
    whole, part = world().load(0), world(train=200).load(0)
    assert part.train == whole.train[:200]
    assert (part.dev, part.vault, part.guards) == (whole.dev, whole.vault, whole.guards)


def test_more_questions_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match=r"only \d+ of 9000 different questions found for train") as error:
        world(steps=[1], train=9000, dev=1000, vault=2000).load(0)
    assert "Lower tasks.train to" in error.value.hint and "tasks.steps=[1,2,3]" in error.value.hint


def test_options_are_checked_by_name() -> None:
    with pytest.raises(RecipeError, match="unknown key 'valt'; did you mean 'vault'"):
        make("tasks", Member(name="world_sums", valt=3))  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match=r"steps\.1: Input should be greater than or equal to 1"):
        make("tasks", Member(name="world_sums", steps=[1, 0]))  # type: ignore[call-arg]
