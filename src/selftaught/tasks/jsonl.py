"""A user's own questions from a file: JSON lines, a JSON list, CSV, TSV or parquet. Answers are optional.

One file is enough: its labelled questions are split into train, dev and vault, and unlabelled ones are trained on.
Labels of train tasks stay on the tasks; the bench hides them from the method.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator, model_validator

from selftaught.tasks._checkers import checker, guess
from selftaught.tasks._rows import Questions, read_questions, to_tasks
from selftaught.tasks._split import Pool, Shares, assemble
from selftaught.tasks.base import Checker, TaskSet
from selftaught.types import Task


@dataclass(frozen=True)
class Files:
    """The files of one source, read. ``holdout`` and ``guard`` are None where the recipe names none."""

    questions: Questions
    holdout: Questions | None
    guard: Questions | None


class _Options(Shares):
    path: str
    holdout: str | None = None  # labelled; then dev and vault come from here, and ``path`` is train only
    guard: str | None = None  # labelled; a suite that must not get worse
    checker: str = "auto"  # auto, exact, number, choice, any, regex, or path/to/file.py:function
    guard_checker: str = "auto"  # the guard's own: it is of another kind
    pattern: str | None = None  # for the checker regex
    answer_pattern: str | None = None  # finds the gold answer in the answer field (group 1, else all; last match)

    @field_validator("answer_pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> _Options:
        if self.holdout and self.dev + self.vault == 0:
            raise ValueError("the holdout becomes dev and vault, but their shares are 0: set for example "
                             "train=0.4 dev=0.2 vault=0.4")  # fmt: skip
        if self.guard_checker != "auto" and not self.guard:
            raise ValueError("guard_checker is for the file of the guard, and there is none: set guard too")
        return self


class Jsonl:
    """The source ``jsonl``: see the module's first lines and _rows.py for the layouts that are read."""

    Options = _Options

    def __init__(self, options: _Options) -> None:
        self.options = options

    def load(self, seed: int) -> TaskSet:
        """Raises DataError (file, line, counts) and RecipeError (checker); see tasks/base.py."""
        return self.arrange(self.read(), seed)

    def read(self) -> Files:
        """The files of the recipe, row by row."""
        o = self.options
        pattern = re.compile(o.answer_pattern) if o.answer_pattern else None
        read = [read_questions(Path(p), pattern) if p else None for p in (o.path, o.holdout, o.guard)]
        assert read[0] is not None
        return Files(read[0], read[1], read[2])

    def arrange(self, files: Files, seed: int) -> TaskSet:
        """What was read, split and checked."""
        o = self.options
        main = self.checker(files)
        checkers, guard = {main.name: main}, list[Task]()
        notes = [f.summary for f in (files.questions, files.holdout, files.guard) if f is not None]
        notes.append(f"checker: {main.name}, {_how(o.checker if o.pattern is None else 'regex', main)}")
        if files.guard is not None:
            own = self._guard_checker(files.guard)
            guard = to_tasks(files.guard, own, labelled=True, option="tasks.guard_checker")
            checkers[own.name] = own
            notes.append(f"checker of the guard: {own.name}, {_how(o.guard_checker, own)}")
        pool = Pool(
            tasks=to_tasks(files.questions, main, option="tasks.checker"),
            holdout=to_tasks(files.holdout, main, labelled=True, option="tasks.checker") if files.holdout else None,
            guard=guard,
            checkers=checkers,
            notes=tuple(notes),
        )
        return assemble(pool, o.shares, seed, limit=o.limit)

    def suite(self) -> TaskSet:
        """The whole file as one labelled suite, in its ``dev``: for whoever wants to be judged on it."""
        files = self.read()
        main = self.checker(files)
        tasks = to_tasks(files.questions, main, labelled=True, option="--checker")
        return TaskSet((), tuple({t.id: t for t in tasks}.values()), (), {}, {main.name: main})

    def _guard_checker(self, guard: Questions) -> Checker:
        """The recipe's, or the one that the guard's own answers fit; ``pattern`` goes with "regex" here too."""
        o = self.options
        if o.guard_checker == "auto":
            return checker(guess(guard.golds))
        return checker(o.guard_checker, o.pattern if o.guard_checker == "regex" else None)

    def checker(self, files: Files) -> Checker:
        """The recipe's checker, or the one that all gold answers fit."""
        o = self.options
        if o.checker != "auto" or o.pattern is not None:
            return checker("regex" if o.checker == "auto" else o.checker, o.pattern)
        golds = [*files.questions.golds, *(files.holdout.golds if files.holdout else [])]
        return checker(guess(golds))


def _how(option: str, chosen: Checker) -> str:
    if option != "auto":
        return "as the recipe says"
    return "as there is no answer to go by" if chosen.name == "any" else "guessed from the answers"
