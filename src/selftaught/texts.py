"""Texts of a file; and those whose likelihood guards a round: what any model is held to, with no question or label.

*replay*: the base's own unprompted text, which says what it knew when the run began (its loss on the candidate is, up
to the base's own entropy, the divergence of the two). *text*: real text from a file of the user's; where there is none,
dev's documents, and where those are learned, or there are none, dev's questions as they are asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selftaught.engines.base import Tokens
from selftaught.errors import DataError
from selftaught.methods.base import Method
from selftaught.pieces import opening
from selftaught.types import Rollout, Task

TEXT_GUARDS = ("replay", "text")
NO_TEXT = (".json", ".csv", ".tsv", ".parquet")  # read as questions, but never as text
Texts = tuple[Task, ...]  # each with its text as the only message, form "document"
Sequences = list[tuple[Task, tuple[int, ...]]]


def read_texts(path: str | None, key: str, most: int | None = None) -> Texts:
    """The first ``most`` texts of a file: JSON lines with "text", or plain text with blank lines between texts.

    ``key`` is what names the file in a recipe. Raises DataError naming it, and the line that is neither.
    """
    if path is None or most == 0:
        return ()
    file, hint = Path(path), "Give a .txt or .jsonl file."
    if (kind := file.suffix.lower()) in NO_TEXT:
        raise DataError(f"{key}: {file} is a {kind} file, not text.", hint=hint)
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key}: {file} cannot be read: {error}.", hint=hint) from error
    if kind == ".jsonl":
        lines = enumerate(content.split("\n"), start=1)  # not splitlines: JSON may hold other ends of a line
        found = [_text(f"{key}: {file}, line {number}", line) for number, line in lines if line.strip()]
    else:
        found = [" ".join(part.split()) for part in re.split(r"\n[^\S\n]*\n", content) if part.strip()]
    if not found:
        raise DataError(f"{key}: {file} holds no text.", hint=f"Leave {key} out, or put some text there.")
    texts = dict.fromkeys(found)
    return tuple(Task(({"role": "user", "content": text},), split="text", form="document") for text in texts)[:most]


def _text(where: str, line: str) -> str:
    try:
        text: Any = json.loads(line)["text"]
        if isinstance(text, str) and text.strip():
            text.encode()
            return text
    except UnicodeEncodeError as error:  # before ValueError, which it is
        raise DataError(f"{where}: half of a surrogate pair stands alone.", hint="Write the file as UTF-8.") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"{where}: no text.", hint='A line is {"text": "..."}; or give a .txt file.')


def as_sequences(texts: Sequence[Task], tokens: Tokens) -> Sequences:
    """Documents as ids, cut to the context."""
    return [(t, tokens.encode(t.question)[: tokens.context]) for t in texts]


def questions_as_sequences(tasks: Sequence[Task], method: Method, tokens: Tokens) -> Sequences:
    """Held-out questions as the model is asked them."""
    asked = [(t, method.ask(t)) for t in tasks]
    return [(t, tokens.encode(tokens.render(a.prompt, a.form))[: tokens.context]) for t, a in asked]


def replay_as_sequences(rows: Sequence[Rollout]) -> Sequences:
    """Whole unprompted texts, each a task of its own, by what it says; a text that was drawn twice counts once."""
    whole = {r.text: r for r in rows if r.error is None and r.text.strip()}
    prompts = ({"role": "user", "content": text} for text in whole)
    tasks = [Task((p,), split="replay", form="document") for p in prompts]
    return [(t, r.prompt_ids + r.completion_ids) for t, r in zip(tasks, whole.values(), strict=True)]


def can_write_unprompted(tokens: Tokens) -> bool:
    """Whether there is a token to begin with."""
    return bool(opening(tokens))
