"""Generated questions of the bundled model's world: sums of whole numbers, and, as the guard, sorting letters.

Nothing is downloaded and every answer is known, so a run can be judged exactly. Holdouts are drawn before train and
from seeds of their own: a smaller train set leaves them, and its own first questions, as they are.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from selftaught.config import Section
from selftaught.errors import DataError
from selftaught.tasks._checkers import checker
from selftaught.tasks.base import TaskSet
from selftaught.types import Task, seed_for

LARGEST = 99
LETTERS = (3, 7)  # fewest and most letters of a question of the guard
MAX_TRIES = 200  # draws without a new question before a suite is given up

Steps = Annotated[int, Field(ge=1, le=50)]
Draw = Callable[[random.Random], tuple[str, str]]


def sum_question(rng: random.Random, steps: int) -> tuple[str, str]:
    """("17+25+40+8", "90") for ``steps`` 3: steps + 1 whole numbers, uniform in 1..99."""
    numbers = [rng.randint(1, LARGEST) for _ in range(steps + 1)]
    return "+".join(map(str, numbers)), str(sum(numbers))


def sort_question(rng: random.Random) -> tuple[str, str]:
    """("sort k b x d", "b d k x"): 3 to 7 letters a-z, drawn with repetition."""
    letters = rng.choices(string.ascii_lowercase, k=rng.randint(*LETTERS))
    return "sort " + " ".join(letters), " ".join(sorted(letters))


class _Options(Section):
    train: int = Field(default=2000, ge=1)
    dev: int = Field(default=1000, ge=0)
    vault: int = Field(default=2000, ge=0)
    guard: int = Field(default=1000, ge=0)
    test: int = Field(default=0, ge=0)  # opened once: selftaught eval RUN --test
    steps: tuple[Steps, ...] = Field(default=(1, 2, 3, 4, 5, 5), min_length=1)  # numbers of additions to draw from


@dataclass(frozen=True)
class _Suite:
    """A suite to draw: ``size`` questions by ``draw``, for one split and checker."""

    split: str
    size: int
    draw: Draw
    checker: str


class WorldSums:
    """The source ``world_sums``: train, dev and vault are sums, the guard suite "sort" is sorting."""

    Options = _Options

    def __init__(self, options: _Options) -> None:
        self.options = options

    def load(self, seed: int) -> TaskSet:
        """Raises DataError where a suite asks for more different questions than can be found."""
        o = self.options
        taken: set[str] = set()
        wanted = (
            _Suite("vault", o.vault, self._sum, "number"),
            _Suite("dev", o.dev, self._sum, "number"),
            _Suite("guard", o.guard, sort_question, "exact"),
            _Suite("test", o.test, self._sum, "number"),
            _Suite("train", o.train, self._sum, "number"),
        )
        suites = {suite.split: _draw(suite, seed, taken) for suite in wanted}
        return TaskSet(
            train=suites["train"],
            dev=suites["dev"],
            vault=suites["vault"],
            guards={"sort": suites["guard"]} if suites["guard"] else {},
            checkers={name: checker(name) for name in ("number", "exact")},
            test=suites["test"],
            notes=(f"generated: sums with {_range(o.steps)} additions of numbers 1 to {LARGEST}",),
        )

    def _sum(self, rng: random.Random) -> tuple[str, str]:
        return sum_question(rng, rng.choice(self.options.steps))


def _range(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    return f"{low} to {high}" if low < high else f"{low}"


def _draw(suite: _Suite, seed: int, taken: set[str]) -> tuple[Task, ...]:
    """``suite.size`` questions that are not in ``taken``, which then holds them too."""
    rng = random.Random(seed_for(seed, "world_sums", suite.split))
    tasks: list[Task] = []
    misses = 0
    while len(tasks) < suite.size:
        question, answer = suite.draw(rng)
        if question in taken:
            misses += 1
            if misses > MAX_TRIES:
                raise _exhausted(suite, len(tasks))
            continue
        misses = 0
        taken.add(question)
        source = f"world_sums:{suite.split}:{len(tasks) + 1}"
        prompt = ({"role": "user", "content": question},)
        tasks.append(Task(prompt, answer, suite.checker, suite.split, source=source))
    return tuple(tasks)


def _exhausted(suite: _Suite, found: int) -> DataError:
    also = "" if suite.split == "guard" else ", or allow longer sums (one addition has 9801): tasks.steps=[1,2,3]"
    return DataError(
        f"world_sums: only {found} of {suite.size} different questions found for {suite.split}.",
        hint=f"Lower tasks.{suite.split} to {found} or less{also}.",
    )
