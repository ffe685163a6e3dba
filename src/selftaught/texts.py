"""Texts of a file; and those whose likelihood guards a round: what any model is held to, with no question or label.

*replay*: the base's own unprompted text, which says what it knew when the run began (its loss on the candidate is, up
to the base's own entropy, the divergence of the two). *text*: real text from a file of the user's; where there is none,
dev's documents, and where those are learned, or there are none, dev's questions as they are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selftaught.engines.base import Tokens
from selftaught.methods.base import Method
from selftaught.pieces import opening
from selftaught.plain import read
from selftaught.types import Rollout, Task

TEXT_GUARDS = ("replay", "text")
Texts = tuple[Task, ...]  # each with its text as the only message, form "document"
Sequences = list[tuple[Task, tuple[int, ...]]]


def read_texts(path: str | None, key: str, most: int | None = None) -> Texts:
    """The first ``most`` different texts of a file, as plain.py reads it. Raises DataError."""
    if path is None or most == 0:
        return ()
    texts = dict.fromkeys(read(Path(path), key))
    return tuple(Task(({"role": "user", "content": text},), split="text", form="document") for text in texts)[:most]


def as_sequences(texts: Sequence[Task], tokens: Tokens) -> Sequences:
    """Documents as ids, cut to the context."""
    return [(t, tokens.encode(t.question)[: tokens.context]) for t in texts]


def questions_as_sequences(tasks: Sequence[Task], method: Method, tokens: Tokens) -> Sequences:
    """Held-out questions as the model is asked them."""
    asked = [(t, method.ask(t)) for t in tasks]
    return [(t, tokens.encode(tokens.render(a.prompt, a.form))[: tokens.context]) for t, a in asked]


def held_out(
    real: Sequence[Task], documents: Sequence[Task], dev: Sequence[Task], method: Method, tokens: Tokens, most: int
) -> Sequences:
    """The guard *text* as ids: ``real`` where there is any, else dev's ``documents``, else dev as it is asked."""
    if real or documents:
        return as_sequences(real or documents[:most], tokens)
    return questions_as_sequences(dev[:most], method, tokens)


def replay_as_sequences(rows: Sequence[Rollout]) -> Sequences:
    """Whole unprompted texts, each a task of its own, by what it says; a text that was drawn twice counts once."""
    whole = {r.text: r for r in rows if r.error is None and r.text.strip()}
    prompts = ({"role": "user", "content": text} for text in whole)
    tasks = [Task((p,), split="replay", form="document") for p in prompts]
    return [(t, r.prompt_ids + r.completion_ids) for t, r in zip(tasks, whole.values(), strict=True)]


def can_write_unprompted(tokens: Tokens) -> bool:
    """Whether there is a token to begin with."""
    return bool(opening(tokens))
