"""Plain text out of a file, text by text: to learn from, to score, or to stand in for what a model writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from selftaught.errors import DataError

NO_TEXT = (".json", ".csv", ".tsv", ".parquet")  # read as questions, but never as text


def read(file: Path, key: str) -> list[str]:
    """Every text of a file: JSON lines with "text", or plain text with blank lines between texts.

    ``key`` is what names the file in a recipe. Raises DataError naming it, and the line that is neither.
    """
    hint = "Give a .txt or .jsonl file."
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
    return found


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
