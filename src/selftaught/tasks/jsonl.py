"""A user's own questions from a file: JSON lines, a JSON list, CSV, TSV or parquet. Answers are optional.

One file is enough: its labelled questions are split into train, dev and vault, and unlabelled ones are trained on.
Labels of train tasks stay on the tasks; the bench hides them from the method.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator

from selftaught.tasks._checkers import checker, guess
from selftaught.tasks._rows import Questions, read_questions, to_tasks
from selftaught.tasks._split import Pool, Shares, assemble
from selftaught.tasks.base import Checker, TaskSet


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
    checker: str = "auto"  # auto, exact, number, choice, regex, or path/to/file.py:function
    pattern: str | None = None  # for checker: regex
    answer_pattern: str | None = None  # finds the gold answer in the answer field (group 1, else all; last match)

    @field_validator("answer_pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


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
        guard = main if files.guard is None or o.checker != "auto" else checker(guess(files.guard.golds))
        how = "guessed from the answers" if o.checker == "auto" else "as the recipe says"
        notes = [f.summary for f in (files.questions, files.holdout, files.guard) if f is not None]
        pool = Pool(
            tasks=to_tasks(files.questions, main),
            holdout=to_tasks(files.holdout, main, labelled=True) if files.holdout else None,
            guard=to_tasks(files.guard, guard, labelled=True) if files.guard else (),
            checkers={c.name: c for c in (main, guard)},
            notes=(*notes, f"checker: {main.name}, {how}"),
        )
        return assemble(pool, o.shares, seed, limit=o.limit)

    def checker(self, files: Files) -> Checker:
        """The recipe's checker, or the one that all gold answers fit."""
        o = self.options
        if o.checker != "auto" or o.pattern is not None:
            return checker("regex" if o.checker == "auto" else o.checker, o.pattern)
        golds = [*files.questions.golds, *(files.holdout.golds if files.holdout else [])]
        return checker(guess(golds))
