"""GSM8K as published (Cobbe et al. 2021): ``{"question", "answer"}`` per line, the gold number after "####".

``path`` is the folder with train.jsonl and test.jsonl (train is trained on, test becomes dev and vault), or one such
file, which is split like any file of questions.
"""

from __future__ import annotations

import re
from pathlib import Path

from selftaught.errors import DataError
from selftaught.tasks._checkers import checker
from selftaught.tasks._read import read_rows
from selftaught.tasks._rows import Question, Questions, to_tasks
from selftaught.tasks._split import Pool, Shares, assemble
from selftaught.tasks.base import TaskSet

_OFFICIAL = re.compile(r"#### (\-?[0-9\.\,]+)")  # openai/grade-school-math, grade_school_math/dataset.py


def gold(answer: str) -> str | None:
    """The gold answer of a published solution, exactly as the official code reads it; None if there is none."""
    found = _OFFICIAL.search(answer)
    return found[1].strip().replace(",", "") if found else None


class _Options(Shares):
    path: str


class Gsm8k:
    """The source ``gsm8k``; answers are compared as numbers."""

    Options = _Options

    def __init__(self, options: _Options) -> None:
        self.options = options

    def load(self, seed: int) -> TaskSet:
        """Raises DataError naming the line that is not in GSM8K's format."""
        train, test = _files(Path(self.options.path).expanduser())
        number = checker("number")
        files = [_read(path) for path in (train, test) if path is not None]
        tasks = [to_tasks(f, number, labelled=True) for f in files]
        pool = Pool(
            tasks=tasks[0],
            holdout=tasks[1] if test else None,
            guard=(),
            checkers={number.name: number},
            notes=tuple(f.summary for f in files),
        )
        return assemble(pool, self.options.shares, seed, limit=self.options.limit)


def _files(path: Path) -> tuple[Path, Path | None]:
    if not path.is_dir():
        return path, None
    for name in ("train.jsonl", "test.jsonl"):
        if not (path / name).is_file():
            here = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise DataError(
                f"{path} has no {name}; it holds {here}.",
                hint="Put GSM8K's train.jsonl and test.jsonl there, or name one file: tasks.path=FILE.",
            )
    return path / "train.jsonl", path / "test.jsonl"


def _read(path: Path) -> Questions:
    kind, rows = read_rows(path)
    items: list[Question] = []
    for row in rows:
        question, answer = row.data.get("question"), row.data.get("answer")
        found = gold(answer) if isinstance(answer, str) else None
        if not isinstance(question, str) or found is None:
            raise DataError(
                f"{path}, line {row.line}: not a GSM8K row (the keys are {', '.join(row.data)}). "
                f"{len(items)} good rows before it, {len(rows)} rows in all.",
                hint='A row is {"question": text, "answer": "... #### 18"}; for other layouts set tasks.name=jsonl.',
            )
        prompt = ({"role": "user", "content": question},)
        items.append(Question(prompt, found, None, "question + answer", f"{path.name}:{row.line}"))
    return Questions(path, kind, tuple(items))
