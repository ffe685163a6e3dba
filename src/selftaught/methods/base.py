"""What a method is: two hooks, both called once per step, and the bench, the only handle it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from selftaught.engines.base import Tokens
from selftaught.tasks.base import Checker, Support
from selftaught.types import (
    Document,
    Example,
    Metric,
    Rollout,
    Sampling,
    Task,
    Tried,
    Verdict,
    content_id,
)

Group = tuple[Task, Sequence[Rollout]]
Supports = Callable[[Sequence[tuple[str, Document]]], list[Support | None]]


@dataclass(frozen=True)
class Trial:
    """A throw-away adapter: it learns ``examples`` on top of the parent and answers ``questions``. Without examples it
    is the parent that answers. ``seed`` numbers adapters that learn the same.
    """

    examples: tuple[Example, ...]
    questions: tuple[Task, ...]
    seed: int = 0

    @cached_property
    def id(self) -> str:
        return content_id("trial", [e.id for e in self.examples], [t.id for t in self.questions], self.seed)


class Bench(Protocol):
    """What a method may touch. Every call is remembered in the store by content, so a resumed run repeats nothing.

    A bench never sees the gate's data: a task whose prompt is held out is refused, checked by prompt hash.
    """

    seed: int
    tasks: tuple[Task, ...]  # training tasks, without answers
    documents: Mapping[str, Document]  # those that may be learned from, by the ``group`` of their tasks
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

    def support(self, pairs: Sequence[tuple[str, Document]]) -> list[Support | None]:
        """What a document says of a statement: the world's word, or the judge's; None where nobody can tell."""
        ...

    def marks(self, pairs: Sequence[tuple[Document, str]]) -> list[float | None]:
        """A judge's marks for edits of documents, 0 to 1; None where there is no judge, or it gives none."""
        ...

    def trials(self, trials: Sequence[Trial]) -> list[tuple[Tried, ...]]:
        """What each trial's adapter says to its questions, in order; recorded as a use of labels.

        Questions are training tasks (their gold answers judge, unseen) or such as the method brings with an answer of
        its own. An adapter that leaves the numbers is wrong everywhere and costs nothing else.
        """
        ...

    def record(self, name: str, metrics: Mapping[str, Metric], verdicts: Sequence[Verdict] = ()) -> None:
        """Keep what a method measured about its own data, and its opinions on it, for the record and the report."""
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


@runtime_checkable
class Answers(Method, Protocol):
    """A method that says how long an answer is, where its samples are something else than answers."""

    def answering(self) -> Sampling:
        """How a question is answered when a checkpoint is judged."""
        ...


@runtime_checkable
class Chooses(Method, Protocol):
    """A method that chooses among what it samples, and so can choose at random: the recipe's ``control: random``."""

    def at_random(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        """What ``harvest`` would give if nothing had been known of what was sampled. Called after it, of the same
        groups; it samples nothing and notes nothing."""
        ...


@runtime_checkable
class Reads(Method, Protocol):
    """A method that reads documents and not questions. One with the attribute ``retains`` makes a model know them, and
    is judged by questions about documents that were learned.
    """

    def study(self, document: Document) -> Task:
        """How a document is put so that a model writes an edit of it."""
        ...


@runtime_checkable
class Studies(Reads, Chooses, Protocol):
    """A method whose models can be judged by ``gate.primary.protocol: adapt``: edit, adapt, ask."""

    def lessons(self, text: str, document: Document, tokens: Tokens) -> tuple[Example, ...]:
        """What a throw-away adapter learns from one edit of a document; from "", the document alone."""
        ...

    def cleaned(self, edits: Sequence[tuple[str, Document]], support: Supports) -> list[str]:
        """Edits as adapters learn them: with or without what their documents do not support."""
        ...

    def open_book(self, task: Task, document: Document) -> Task:
        """A question with a document before it."""
        ...


def answering(method: Method) -> Sampling:
    """How a checkpoint is asked a question: greedily, and with the room of a sample unless the method says how much."""
    sampling = method.answering() if isinstance(method, Answers) else method.sampling()
    return replace(sampling, n=1, temperature=0.0)


def most_samples(method: Method, questions: int) -> int:
    """Samples of a round with so many questions, or documents for a method that reads those, at most. One that reads
    only some of them has ``passages`` among its options."""
    options = getattr(method, "options", None)
    return min(questions, getattr(options, "passages", questions)) * method.most()[0]
