"""Rows to questions: the layouts people already have (prompt, question, messages, alpaca), and gold answers.

A question is ``prompt`` (text, or messages), ``question``, ``messages`` (the last assistant turn is the answer) or
alpaca's ``instruction`` + ``input``. The answer is the first of ANSWER_FIELDS that is there; none, null or "" means
that the question has no answer. In a solution in GSM8K's format, the gold answer is what follows the last "####".
Names of fields are read in any case ("Answer"); columns that are not read are named in the summary of the file.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.config import did_you_mean
from selftaught.errors import DataError
from selftaught.tasks._checkers import MARKER, last_answer
from selftaught.tasks._read import EXAMPLE, read_rows
from selftaught.tasks.base import Checker
from selftaught.types import Message, Task, digest

QUESTION_FIELDS = ("prompt", "question", "messages", "instruction")
ANSWER_FIELDS = ("answer", "completion", "output", "response", "label", "target")
TEXT_FIELDS = ("passage", "document", "context")  # a text that the question is about, or a mere name for it
GROUP_FIELDS = ("group", *TEXT_FIELDS)
KNOWN = (*QUESTION_FIELDS, "input", *ANSWER_FIELDS, *GROUP_FIELDS)
PASSAGE_FIELDS = ("questions", "qas", "paragraphs", "data")  # of which tasks/passages.py reads documents
ROLES = ("system", "user", "assistant")
MAX_GROUP = 64  # characters; a longer group (the text of a passage) is named by its digest
MAX_NAMES = 8  # columns named in a summary


@dataclass(frozen=True)
class Question:
    """One row, read: ``shape`` names the fields that were used, ``source`` is "file:line"."""

    prompt: tuple[Message, ...]
    gold: str | None
    group: str | None
    shape: str
    source: str


@dataclass(frozen=True)
class Questions:
    """A file, read: its ``format`` ("JSON lines", "CSV", ...), questions in file order, and columns ``unused``."""

    path: Path
    format: str
    items: tuple[Question, ...]
    unused: tuple[str, ...] = ()

    @property
    def golds(self) -> list[str]:
        return [q.gold for q in self.items if q.gold is not None]

    @property
    def shapes(self) -> dict[str, int]:
        """How many rows have which fields, most frequent first."""
        return dict(Counter(q.shape for q in self.items).most_common())

    @property
    def summary(self) -> str:
        """ "q.jsonl: 500 rows, 120 with an answer (JSON lines; question + answer); columns not used: choices, id" """
        more = f" and {len(self.unused) - MAX_NAMES} more" if len(self.unused) > MAX_NAMES else ""
        unused = f"; columns not used: {', '.join(self.unused[:MAX_NAMES])}{more}" if self.unused else ""
        return (f"{self.path.name}: {len(self.items)} rows, {len(self.golds)} with an answer "
                f"({self.format}; {', '.join(self.shapes)}){unused}")  # fmt: skip


def read_questions(path: Path, answer_pattern: re.Pattern[str] | None = None) -> Questions:
    """Every row of a file as a Question. Raises DataError with file, line and counts at the first that is not one."""
    path = path.expanduser()
    kind, rows = read_rows(path)
    items: list[Question] = []
    used: set[str] = set()
    filled: dict[str, None] = {}  # names of columns in which something stands, in their order
    for row in rows:
        try:
            data = _named(row.data)
            question, fields = _question(data, f"{path.name}:{row.line}", answer_pattern)
        except _BadRow as error:
            raise DataError(
                f"{path}, line {row.line}: {error}. {len(items)} good rows before it, {len(rows)} rows in all.",
                hint=error.advice,
            ) from error
        items.append(question)
        used.update(fields)
        filled |= dict.fromkeys(name for name, value in data.items() if value not in (None, ""))
    return Questions(path, kind, tuple(items), tuple(name for name in filled if name not in used))


class _BadRow(Exception):
    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


def _named(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with the names of known fields in lower case; other names stay as they are."""
    named: dict[str, Any] = {}
    for name, value in data.items():
        field = name.lower() if name.lower() in KNOWN else name
        if field in named:
            raise _BadRow(f"the key {field!r} stands twice, up to case", "Rename one of the two.")
        named[field] = value
    return named


def _question(
    data: Mapping[str, Any], source: str, answer_pattern: re.Pattern[str] | None
) -> tuple[Question, set[str]]:
    """A row as a question, and the names of the fields that were used."""
    field = next((f for f in QUESTION_FIELDS if data.get(f) is not None), None)
    if field is None:
        raise _no_question(data)
    prompt, spoken = _prompt(data, field)
    text_field = next((f for f in TEXT_FIELDS if _is_text(data.get(f))), None)
    if text_field:
        prompt = _with_text(prompt, data[text_field].strip())
    answer_field = next((f for f in ANSWER_FIELDS if data.get(f) is not None), None)
    answer = _answer(data[answer_field], answer_field) if answer_field else spoken
    gold = _gold(answer, answer_pattern) if answer and answer.strip() else None
    group_field = next((f for f in GROUP_FIELDS if data.get(f) not in (None, "")), None)
    group = _group(data[group_field], group_field) if group_field else None
    shown = [f for f in (text_field, field, answer_field) if f]
    used = {*shown, group_field or "", "input" if field == "instruction" else ""}
    return Question(prompt, gold, group, " + ".join(shown), source), used


def _no_question(data: Mapping[str, Any]) -> _BadRow:
    keys = [str(k) for k in data]
    if any(k in data for k in PASSAGE_FIELDS):
        return _BadRow(f"a passage with its questions; the keys are {', '.join(keys)}", "Set tasks.name=passages.")
    guesses = (did_you_mean(k, QUESTION_FIELDS) for k in keys if k not in (*ANSWER_FIELDS, *GROUP_FIELDS))
    guess = next((g for g in guesses if "did you mean" in g), "")
    if any(f in data for f in QUESTION_FIELDS):
        guess = ", but it is empty"
    return _BadRow(
        f"no question; the keys are {', '.join(keys) or 'none'}{guess}",
        f"A question stands under one of {', '.join(QUESTION_FIELDS)}; rename the key. Example: {EXAMPLE}",
    )


# ---------------------------------------------------------------- prompts


def _prompt(data: Mapping[str, Any], field: str) -> tuple[tuple[Message, ...], str | None]:
    """(messages that end with the user's turn, the assistant's answer after it if there is one)."""
    value = data[field]
    if field == "messages" or (field == "prompt" and isinstance(value, list)):
        return _messages(value, field)
    text = _text(value, field)
    if field == "instruction" and data.get("input") not in (None, ""):
        text = f"{text}\n\n{_text(data['input'], 'input')}"
    return ({"role": "user", "content": text},), None


def _is_text(value: Any) -> bool:
    """Whether a passage is the text itself, not a mere name for it."""
    return isinstance(value, str) and len(value.strip()) > MAX_GROUP


def _with_text(prompt: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """``prompt`` with the passage before its last turn, unless it is in the prompt already."""
    if any(text in turn["content"] for turn in prompt):
        return prompt
    *before, last = prompt
    return (*before, {"role": last["role"], "content": f"{text}\n\n{last['content']}"})


def _messages(value: Any, field: str) -> tuple[tuple[Message, ...], str | None]:
    if not isinstance(value, list) or not value:
        raise _BadRow(f"{field!r} is not a list of messages", _MESSAGES)
    turns = [_message(turn, field) for turn in value]
    spoken = str(turns.pop()["content"]) if turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] != "user":
        raise _BadRow(f"{field!r} has no question: no user turn before the answer", _MESSAGES)
    return tuple(turns), spoken


_MESSAGES = 'Write "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'


def _message(turn: Any, field: str) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
        raise _BadRow(f"a turn of {field!r} is not a role ({', '.join(ROLES)}) with a text as content", _MESSAGES)
    return {"role": turn["role"], "content": turn["content"]}


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _BadRow(f"{field!r} is a {type(value).__name__}, not text", f"Example: {EXAMPLE}")
    if not value.strip():
        raise _BadRow(f"{field!r} is empty", "Write the question there, or delete the row.")
    return value


# ---------------------------------------------------------------- answers and groups


def _answer(value: Any, field: str) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict) and "content" in value[-1]:
        value = value[-1]["content"]  # a completion in chat format
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        raise _BadRow(f"{field!r} is {value}", "Write a finite number, or leave the answer out.")
    if not isinstance(value, str | int | float):
        raise _BadRow(f"{field!r} is a {type(value).__name__}, not text or a number", f"Example: {EXAMPLE}")
    return str(value)


def _gold(answer: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        gold = answer.rpartition(MARKER)[2].strip()
        if not gold:
            raise _BadRow(f"nothing follows {MARKER!r} in the answer", "Write the final answer after it.")
        return gold
    found = last_answer(pattern, answer)
    if not found:
        raise _BadRow(
            f"tasks.answer_pattern finds no answer in {answer[:80]!r}",
            "Mend the pattern, or the row, or drop the option.",
        )
    return found


def _group(value: Any, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _BadRow(
            f"{field!r} is a {type(value).__name__}, not text or a whole number",
            "Put a text or the name of a group there, or rename the key.",
        )
    text = str(value)
    return text if len(text) <= MAX_GROUP else digest("group", text)[:16]


# ---------------------------------------------------------------- tasks


def to_tasks(questions: Questions, checker: Checker, *, labelled: bool = False, option: str = "") -> list[Task]:
    """Tasks in file order. Raises DataError where ``checker`` finds no answer in a gold answer, or, if they must be
    ``labelled``, where there is none. ``option`` is the key of the recipe that chooses the checker, if there is one.
    """
    choose = f", or choose another checker: {option}=exact" if option else ""
    tasks = []
    for item in questions.items:
        place = f"{questions.path.parent / item.source}"
        if item.gold is None and labelled:
            raise DataError(
                f"{place}: no answer, but every row of this file is held out and must have one "
                f"({len(questions.golds)} of {len(questions.items)} have).",
                hint=f"Add one under {', '.join(ANSWER_FIELDS)}, or move the row to tasks.path.",
            )
        if item.gold is not None and checker.score is None and checker.parse(item.gold) is None:
            raise DataError(
                f"{place}: the checker {checker.name!r} finds no answer in the gold answer {item.gold[:80]!r}.",
                hint=f"Mend the answer{choose}.",
            )
        tasks.append(Task(item.prompt, item.gold, checker.name, group=item.group, source=item.source))
    return tasks
