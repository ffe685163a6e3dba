"""Private texts, which must not come out of a model again, and canaries, as a recipe's ``private`` names them.

A text file is one text, as it stands. JSON lines hold a text each, ``{"text": "...", "repeats": 4}``, or a canary,
``{"before": "The code is", "secret": [" 4", " 7"], "space": [[" 1", ...], [" 1", ...]]}``; ``repeats`` may be left out.
A folder is all such files in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from selftaught.errors import DataError
from selftaught.types import Canary, Private, as_json, digest

TEXT, LINES = (".txt", ".md"), ".jsonl"
HINT = 'Give .txt or .md files, or JSON lines: {"text": "..."}. A canary has before, secret and space.'


@dataclass(frozen=True)
class Sources:
    """What a run's model is known to have read and must not give away."""

    texts: tuple[Private, ...] = ()
    canaries: tuple[Canary, ...] = ()

    @property
    def digest(self) -> str:
        return digest([as_json(t) for t in self.texts], [as_json(c) for c in self.canaries])


def read_private(path: str) -> Sources:
    """Everything in a file or folder. Raises DataError naming the file, and the line, that cannot be read."""
    root = Path(path)
    if not root.exists():
        raise DataError(f"private: {root} is not there.", hint=HINT)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if _readable(p) and p.is_file())
    found = [item for file in files for item in _items(file)]
    if not found:
        raise DataError(f"private: {root} holds no text.", hint=HINT)
    texts = dict.fromkeys(item for item in found if isinstance(item, Private))
    return Sources(tuple(texts), tuple(item for item in found if isinstance(item, Canary)))


def _items(file: Path) -> Iterator[Private | Canary]:
    if not _readable(file):
        raise DataError(f"private: {file} is no text.", hint=HINT)
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"private: {file} cannot be read: {error}.", hint=HINT) from error
    if file.suffix.lower() in TEXT:
        if content.strip():
            yield Private(content.strip())
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _item(line, f"private: {file}, line {number}")


def _readable(file: Path) -> bool:
    return file.suffix.lower() in (*TEXT, LINES)


def _item(line: str, where: str) -> Private | Canary:
    try:
        row: Any = json.loads(line)
        repeats = row.get("repeats")
        if not (repeats is None or (type(repeats) is int and repeats >= 0)):
            raise ValueError("repeats is no count")
        if "text" in row:
            return Private(_word(row["text"]), repeats)
        canary = Canary(
            _word(row["before"]),
            tuple(map(_word, row["secret"])),
            tuple(tuple(map(_word, slot)) for slot in row["space"]),
            repeats,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: neither a text nor a canary ({error}).", hint=HINT) from error
    fits = len(canary.secret) == len(canary.space) and all(
        piece in slot for piece, slot in zip(canary.secret, canary.space, strict=True)
    )
    if not fits or prod(len(set(slot)) for slot in canary.space) < 2:
        raise DataError(f"{where}: every piece of the secret has to stand in its slot of the space.", hint=HINT)
    return canary


def _word(text: Any) -> str:
    if not isinstance(text, str) or not text:
        raise ValueError(f"{text!r} is no text")
    text.encode("utf-8")
    return text
