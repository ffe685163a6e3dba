"""Files to passages with their questions: SQuAD as published, grouped or flat, and text or Markdown in a folder.

- published (Rajpurkar et al. 2016, 2018): ``{"data": [{title, paragraphs: [{context, qas: [{question, answers}]}]}]}``;
- grouped: a list or lines of ``{title, context, questions: [{question, answer}]}``;
- flat: rows of ``{title, context, question, answers}``, as data sets on the Hub have it;
- texts: one document per .txt or .md file.

A document may have no questions. One that has none and is long is cut at paragraph borders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.errors import DataError
from selftaught.tasks._read import read_object, read_rows, read_text

TEXT_SUFFIXES = (".txt", ".md", ".markdown")
TEXT_FIELDS = ("context", "passage", "document", "text")
QUESTION_FIELDS = ("questions", "qas")
EXAMPLE = '{"title": "Tea", "context": "...", "questions": [{"question": "...", "answer": "..."}]}'
BORDERS = ((r"\n[^\S\n]*\n", "\n\n"), (r"(?<=[.!?])\s+", " "), (r"\s+", " "))  # paragraphs, sentences, words

Place = tuple[tuple[str, int], ...]  # ("item", 3), ("paragraph", 2), ("question", 5)


@dataclass(frozen=True)
class Asked:
    """A question; any of ``answers`` is right. ``source`` is "file:3.2.5", unique in a file."""

    question: str
    answers: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Passage:
    """``impossible`` counts questions said to have no answer. ``whole`` is the text that a part was cut from."""

    text: str
    title: str
    asked: tuple[Asked, ...] = ()
    impossible: int = 0
    whole: str = ""


@dataclass(frozen=True)
class Reading:
    """A file or folder, read: its ``format`` ("SQuAD", "JSON lines", "3 text files") and passages in their order."""

    path: Path
    format: str
    items: tuple[Passage, ...]
    notes: tuple[str, ...] = ()


class _BadEntry(Exception):
    def __init__(self, place: Place, message: str, advice: str = f"An entry is {EXAMPLE}") -> None:
        super().__init__(message)
        self.place, self.advice = place, advice


def read_passages(path: Path, max_words: int) -> Reading:
    """Every passage of a file or folder, in order. Raises DataError with file, entry and counts."""
    path = path.expanduser()
    if path.is_dir() or path.suffix.lower() in TEXT_SUFFIXES:
        return _read_texts(path, max_words)
    whole = read_object(path)
    if whole is not None:
        kind, entries = "SQuAD", [((("article", n),), a) for n, a in enumerate(_articles(path, whole), start=1)]
    else:
        kind, rows = read_rows(path)
        word = "item" if kind in ("JSON list", "parquet") else "line"
        entries = [(((word, row.line),), row.data) for row in rows]
    items: list[Passage] = []
    try:
        for place, entry in entries:
            for passage in _passages(entry, "", place, path.name):
                items += [passage] if passage.asked else cut_passage(passage, max_words)
    except _BadEntry as error:
        where = ", ".join(f"{word} {number}" for word, number in error.place)
        raise DataError(
            f"{path}, {where}: {error}. {len(items)} good documents before it, {len(entries)} entries in all.",
            hint=error.advice,
        ) from error
    return Reading(path, kind, tuple(items))


# ---------------------------------------------------------------- JSON and tables


def _articles(path: Path, whole: Mapping[str, Any]) -> list[Any]:
    if not isinstance(whole["data"], list) or not whole["data"]:
        raise DataError(
            f"{path}: 'data' is not a list of articles, or it is empty.",
            hint='SQuAD is {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [...]}]}]}.',
        )
    return whole["data"]


def _passages(entry: Any, title: str, place: Place, name: str) -> Iterator[Passage]:
    """The passages of an entry: an article has several. ``name`` is the file's."""
    if not isinstance(entry, Mapping):
        raise _BadEntry(place, f"a {type(entry).__name__}, not a JSON object")
    title = _title(entry.get("title"), place) or title
    if "paragraphs" in entry:
        for number, part in enumerate(_listed(entry["paragraphs"], "paragraphs", place), start=1):
            yield from _passages(part, title, (*place, ("paragraph", number)), name)
        return
    text = _text(entry, place)
    if entry.get("question") is not None:
        asked = [_asked(entry, place, name)]
    else:
        field = next((f for f in QUESTION_FIELDS if entry.get(f) is not None), None)
        listed = enumerate(_listed(entry[field], field, place) if field else (), start=1)
        asked = [_asked(q, (*place, ("question", number)), name) for number, q in listed]
    known = tuple(a for a in asked if a is not None)
    yield Passage(text, title, known, len(asked) - len(known))


def _listed(value: Any, field: str, place: Place) -> list[Any]:
    if not isinstance(value, list):
        raise _BadEntry(place, f"{field!r} is a {type(value).__name__}, not a list")
    return value


def _title(value: Any, place: Place) -> str:
    if value is not None and not isinstance(value, str):
        raise _BadEntry(place, f"'title' is a {type(value).__name__}, not text")
    return (value or "").replace("_", " ").strip()


def _text(entry: Mapping[str, Any], place: Place) -> str:
    field = next((f for f in TEXT_FIELDS if f in entry), None)
    if field is None:
        raise _BadEntry(
            place,
            f"no text; the keys are {', '.join(map(str, entry)) or 'none'}",
            f"The text stands under one of {', '.join(TEXT_FIELDS)}. An entry is {EXAMPLE} "
            "Questions without a text are read by tasks.name=jsonl.",
        )
    value = entry[field]
    if not isinstance(value, str) or not value.strip():
        what = "empty" if isinstance(value, str) else f"a {type(value).__name__}, not text"
        raise _BadEntry(place, f"{field!r} is {what}", "Write the text there, or delete the entry.")
    return value.strip()


def _asked(data: Any, place: Place, name: str) -> Asked | None:
    """None for a question that is said to have no answer, as SQuAD 2.0 has them."""
    if not isinstance(data, Mapping):
        raise _BadEntry(place, f"a {type(data).__name__}, not a JSON object")
    question = data.get("question")
    if not isinstance(question, str) or not question.strip():
        raise _BadEntry(place, f"no question; the keys are {', '.join(map(str, data)) or 'none'}")
    found = data["answers"] if data.get("answers") is not None else data.get("answer")
    nothing = isinstance(found, Mapping) and found.get("text") == []  # as the Hub's copy of SQuAD 2.0 says so
    if data.get("is_impossible") is True or nothing:
        return None
    source = f"{name}:{'.'.join(str(number) for _, number in place)}"
    return Asked(question.strip(), _answers(found, place), source)


def _answers(found: Any, place: Place) -> tuple[str, ...]:
    """Different answers, in order: a text or number, a list of them, of ``{"text"}``, or a list under "text"."""
    if isinstance(found, Mapping):
        found = found.get("text")
    answers = [a.get("text") if isinstance(a, Mapping) else a for a in (found if isinstance(found, list) else [found])]
    for answer in answers or [None]:
        if answer is None or (isinstance(answer, str) and not answer.strip()):
            raise _BadEntry(
                place,
                "a question without an answer",
                'Add one, delete the question, or write "is_impossible": true if the text does not say.',
            )
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise _BadEntry(place, f"an answer is a {type(answer).__name__}, not text or a number")
    return tuple(dict.fromkeys(str(a).strip() for a in answers))


# ---------------------------------------------------------------- texts


def _read_texts(path: Path, max_words: int) -> Reading:
    files, others = ([path], []) if not path.is_dir() else _text_files(path)
    items: list[Passage] = []
    for number, file in enumerate(files):
        text = read_text(file)
        if not text.strip():
            raise DataError(
                f"{file} is empty. {number} good files before it, {len(files)} in all.",
                hint="Put text there, or take the file out of the folder.",
            )
        items += cut_passage(Passage(text.strip(), _heading(file, text)), max_words)
    named = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
    notes = (f"{len(others)} other files in the folder are not read: {named}",) if others else ()
    return Reading(path, f"{len(files)} text file{'' if len(files) == 1 else 's'}", tuple(items), notes)


def _text_files(folder: Path) -> tuple[list[Path], list[str]]:
    """(texts in a folder and below, in order of their paths; names of the other files). What is hidden stays so."""
    inside = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    shown = [p for p in inside if not any(part.startswith(".") for part in p.parts)]
    files = [folder / p for p in shown if p.suffix.lower() in TEXT_SUFFIXES]
    others = [str(p) for p in shown if p.suffix.lower() not in TEXT_SUFFIXES]
    if not files:
        raise DataError(
            f"{folder} has no {' or '.join(TEXT_SUFFIXES[:2])} file; it holds {', '.join(others[:5]) or 'nothing'}.",
            hint="Put texts there, or name one file of passages with questions: tasks.path=FILE.json",
        )
    return files, others


def _heading(file: Path, text: str) -> str:
    """Markdown's first heading, else the file's name."""
    found = re.search(r"^#{1,6}\s+(.+?)[\s#]*$", text, re.MULTILINE) if file.suffix.lower() != ".txt" else None
    return found[1].strip() if found else file.stem.replace("_", " ").strip()


# ---------------------------------------------------------------- long texts


def cut_passage(passage: Passage, most: int) -> list[Passage]:
    """A passage without questions in parts of at most ``most`` words, numbered in their titles."""
    parts = cut(passage.text, most)
    if len(parts) == 1:
        return [passage]
    titles = (f"{passage.title} (part {n} of {len(parts)})".strip() for n in range(1, len(parts) + 1))
    return [Passage(part, title, whole=passage.text) for part, title in zip(parts, titles, strict=True)]


def cut(text: str, most: int, borders: Sequence[tuple[str, str]] = BORDERS) -> list[str]:
    """Parts of at most ``most`` words, cut between paragraphs; one that is longer between sentences, else words."""
    if len(text.split()) <= most:
        return [text]
    (border, joined), *finer = borders
    parts: list[list[str]] = [[]]
    held = 0  # words in the last part
    for piece in filter(str.strip, re.split(border, text)):
        words = len(piece.split())
        fine = [piece] if words <= most else cut(piece, most, finer)
        if held + words > most:
            parts += [[p] for p in fine]
            held = len(fine[-1].split())
        else:
            parts[-1].append(piece)
            held += words
    return [joined.join(part).strip() for part in parts if part]
