"""What a self-written text says, one statement after the other, each to be held against the document it is about."""

from __future__ import annotations

import re

LONG = 25  # words; a longer line is taken sentence by sentence

_NUMBERING = re.compile(r"\s*(?:[-*•·–]\s+|\(?\d{1,3}[.):]\s+|\(\d{1,3}\)\s*|(?:[ivx]{1,4}|[a-z])\)\s+)*")
_ASKS = re.compile(r"(?:question|q)\s*\d*\s*:\s*", re.IGNORECASE)
_ANSWERS = re.compile(r"(?:answer|a)\s*\d*\s*:\s*", re.IGNORECASE)
_ANSWERED = re.compile(rf"\s(?={_ANSWERS.pattern})", re.IGNORECASE)  # in the line of its question
_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_NO_END = re.compile(r"\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|ca|approx)\.$")


def statements(text: str) -> list[str]:
    """The statements of a text, in order: its lines, long ones by sentences, without bullets and numbers.

    A question and its answer, in the same line or the next, are one: "Question: ... Answer: ...". Headings, lines that
    end with a colon and lines without a word state nothing.
    """
    found: list[str] = []
    asked = ""  # and not answered yet
    for line in _lines(text):
        question, answer = _ASKS.match(line), _ANSWERS.match(line)
        if answer and asked:
            found.append(f"Question: {asked} Answer: {line[answer.end() :]}")
            asked = ""
            continue
        found += [asked] if asked else []
        asked = line[question.end() :] if question else ""
        if not question and not line.endswith(":"):
            found += sentences(line) if len(line.split()) > LONG else [line]
    return [*found, asked] if asked else found


def _lines(text: str) -> list[str]:
    """Lines without bullets, numbers and emphasis; an answer in the line of its question becomes a line of its own."""
    found: list[str] = []
    for line in text.splitlines():
        said = _NUMBERING.sub("", line.replace("**", "").replace("__", ""), count=1).strip()
        found += _ANSWERED.split(said, maxsplit=1) if _ASKS.match(said) else [said]
    return [line for line in found if re.search(r"\w", line) and not line.startswith("#")]


def sentences(line: str) -> list[str]:
    """Sentences of a line; an initial or a title such as "Dr." ends none."""
    parts, start = [], 0
    for end in _END.finditer(line):
        if not _NO_END.search(line[start : end.start() + 1]):
            parts.append(line[start : end.end()].strip())
            start = end.end()
    return [*parts, line[start:].strip()]
