"""What a method is: two hooks, both called once per step, and the bench, the only handle it gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from selftaught.engines.base import Tokens
from selftaught.tasks.base import Checker
from selftaught.types import Example, Rollout, Sampling, Task, Verdict

Group = tuple[Task, Sequence[Rollout]]


class Bench(Protocol):
    """What a method may touch. Every call is remembered in the store by content, so a resumed run repeats nothing.

    A bench never sees the gate's data: a task whose prompt is held out is refused, checked by prompt hash.
    """

    seed: int
    tasks: tuple[Task, ...]  # training tasks, without answers
    tokens: Tokens

    def generate(
        self, tasks: Sequence[Task], sampling: Sampling, *, first: int = 0, role: str = "student"
    ) -> list[Group]:
        """Samples ``first`` .. ``first + sampling.n - 1`` of each different task from the frozen parent.

        In another ``role`` (one of the method's ``roles``) they are by whom the recipe names for it, in the student's
        tokens.
        """
        ...

    def fresh(self, tasks: Sequence[Task]) -> list[Task]:
        """Those that are neither a training question nor a held-out one, each once: for questions a model wrote."""
        ...

    def ask(self, tasks: Sequence[Task], why: str = "") -> list[Verdict]:
        """A person's answer to each different task, in order, as a Verdict's ``value``; recorded as labels.

        Raises Waiting while one is missing: the run ends in order, and when it is resumed this call returns them all.
        """
        ...

    def checker(self, task: Task) -> Checker: ...

    def note(self, key: str, count: int) -> None:
        """Add to a named count in the round's record ("questions without a majority": 37)."""
        ...


class Method(Protocol):
    """A member of ``methods/``. ``Options`` is its pydantic model; it is made with checked options."""

    Options: Any
    name: str
    roles: tuple[str, ...]  # that it may ask besides the student: of RolesConfig; what it proposes, the source samples

    def sampling(self) -> Sampling:
        """How the tasks from ``propose`` are sampled."""
        ...

    def most(self) -> tuple[int, int]:
        """(samples, examples) that one question may take at most: what a budget plans with."""
        ...

    def ask(self, task: Task) -> Task:
        """How a question is put when a checkpoint is judged, parent and candidate alike."""
        ...

    def propose(self, bench: Bench) -> Iterable[Task]: ...

    def harvest(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        """All rollouts, grouped by task in the order proposed, to examples in a fixed order."""
        ...
