"""What a data source is: named suites of tasks, split before anything is sampled, and checkers that read answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from selftaught.types import Canary, Document, Message, Private, Task, digest

Parse = Callable[[str], str | None]
Judge = Callable[[Task, str], float]
CORRECT_SCORE = 0.5
Support = Literal["supported", "unsupported", "contradicted"]  # what a document says of a statement


@dataclass(frozen=True)
class Checker:
    """``parse`` reads the answer out of a completion (None: there is none, so no vote); ``same`` compares what was
    parsed with a gold answer. ``score``, where there is one, decides what is correct instead of ``same``: a user's
    reward function of (task, completion), correct from CORRECT_SCORE on. ``doubts`` says of a parsed answer and a gold
    one whether a judge, where there is one, should be asked rather than ``same``. ``golds``, where there is one, names
    all right answers of a task that has several. ``digest`` names the code that decides (the SHA-256 of the user's
    file, "" for the built-in checkers), so that a resumed run can see that it was edited.
    """

    name: str
    parse: Parse
    same: Callable[[str, str], bool]
    score: Judge | None = None
    digest: str = ""
    doubts: Callable[[str, str], bool] | None = None
    golds: Callable[[Task], Sequence[str]] | None = None


NO_CHECKER = Checker("", parse=lambda text: None, same=lambda a, b: False)  # of a task that has no right answer


@dataclass(frozen=True)
class TaskSet:
    """What a source brings to a run.

    ``train`` tasks keep the answers they came with; the bench removes them before a method sees a task. ``dev`` and
    ``vault`` are the primary suite's two holdouts (labelled). ``guards`` are further labelled suites that must not get
    worse.
    ``documents`` are the texts that tasks ask about, by the group of those tasks; those without a task are trained on.
    ``unasked`` are unfinished questions, one for each document that has none and may get some: ``prompt`` holds what
    stands before the question, ``split`` the suite that it is for.
    ``supports``, where a source knows, says of a line and a document whether what the one states stands in the other;
    None of a line that states nothing. Elsewhere a judge is asked.
    ``private`` and ``canaries`` are what the model that a run begins with is known to have read and must not give away.
    ``notes`` say what was found, dropped and why, in words for a person.
    """

    train: tuple[Task, ...]
    dev: tuple[Task, ...]
    vault: tuple[Task, ...]
    guards: Mapping[str, tuple[Task, ...]]
    checkers: Mapping[str, Checker]
    notes: tuple[str, ...] = ()
    test: tuple[Task, ...] = ()  # a third holdout, opened once, after all rounds and runs
    documents: Mapping[str, Document] = field(default_factory=dict)
    unasked: tuple[Task, ...] = ()
    supports: Callable[[str, Document], Support | None] | None = None
    private: tuple[Private, ...] = ()
    canaries: tuple[Canary, ...] = ()

    @property
    def vault_digest(self) -> str:
        """Names the vault: the same questions are the same vault, whatever file they came from."""
        return digest(sorted(t.id for t in self.vault))

    def check(self, task: Task, text: str) -> tuple[str | None, bool]:
        """(parsed answer, whether it is the task's). A checker with a ``score`` asks that; the answer may be None."""
        parsed, score = self.grade(task, text)
        return parsed, score >= CORRECT_SCORE

    def grade(self, task: Task, text: str) -> tuple[str | None, float]:
        """(parsed answer, its score): what the checker's ``score`` says; without one, 1.0 for right and 0.0 for not."""
        checker = self.checkers[task.checker]
        parsed = checker.parse(text)
        if checker.score is not None:
            return parsed, checker.score(task, text)
        return parsed, float(parsed is not None and task.answer is not None and checker.same(parsed, task.answer))

    def golds(self, task: Task) -> Sequence[str]:
        """Every right answer of a task, its own first."""
        golds = self.checkers[task.checker].golds
        return golds(task) if golds is not None else [task.answer or ""]

    def doubted(self, task: Task, answer: str) -> bool:
        """Whether a judge should say if a parsed answer is right: beside no right answer is it so without doubt, and
        beside one there is some doubt."""
        checker = self.checkers[task.checker]
        if checker.doubts is None:
            return False
        doubts = {gold: checker.doubts(answer, gold) for gold in self.golds(task)}
        sure = any(checker.same(answer, gold) for gold, doubtful in doubts.items() if not doubtful)
        return any(doubts.values()) and not sure


class Source(Protocol):
    """A member of ``tasks/``. ``Options`` is its pydantic model; it is made with checked options."""

    Options: Any

    def load(self, seed: int) -> TaskSet:
        """Read or generate everything; suites in hash order or drawn at random, so that a prefix is a fair sample.

        Raises DataError with file, line and counts; nothing is skipped silently.
        """
        ...


def wording(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """A prompt as (role, words) per turn, up to case and white space."""
    return tuple((m["role"], " ".join(m["content"].casefold().split())) for m in messages)


class Held:
    """Held-out prompts, up to case and white space."""

    def __init__(self, prompts: Iterable[Sequence[Message]]) -> None:
        self._wordings = {wording(p) for p in prompts}
        self._lengths = {len(turns) for turns in self._wordings}

    def shows(self, messages: Sequence[Message]) -> bool:
        """Whether a held-out prompt stands in ``messages``: as all of them, or as turns in a row."""
        said = wording(messages)
        return any(said[i : i + n] in self._wordings for n in self._lengths for i in range(len(said) - n + 1))


def sizes(tasks: TaskSet) -> dict[str, int]:
    counts: dict[str, int] = {"train": len(tasks.train), "dev": len(tasks.dev), "vault": len(tasks.vault)}
    counts |= {"test": len(tasks.test)} if tasks.test else {}
    return counts | {f"guard {name}": len(suite) for name, suite in tasks.guards.items()}


def without_answers(tasks: Sequence[Task]) -> tuple[Task, ...]:
    from dataclasses import replace

    return tuple(replace(t, answer=None) for t in tasks)
