"""Questions to people, by file: the run writes a queue and waits; verdicts dropped into its inbox let it go on.

    round-000/review/queue.jsonl   what is asked, a committed unit
    inbox/SUBJECT.json             a verdict, one file each, dropped whole; the first one on a subject counts
    inbox/late/                    verdicts that came second: kept, never applied
    round-000/review-answers/      what the run took from the inbox, a committed unit: from here on it is the record

A verdict names the id of what was judged, which is a hash of its content: it cannot be applied to anything else.
Silence is never consent: a run waits until every question has its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selftaught.errors import DataError, IntegrityError, RunError, Waiting
from selftaught.rows import read_rows, write_rows
from selftaught.store import Store, drop, read_chain
from selftaught.types import Question, Verdict, canonical, digest

INBOX = "inbox"
NAME = re.compile(r"[\w.@ -]{1,64}")


@dataclass(frozen=True)
class Imported:
    """What became of the lines of a file: taken, the same as one that is there, second to another, or not asked."""

    taken: int
    same: int
    late: int
    unknown: int
    undecided: int
    missing: int  # questions that are still open


@dataclass(frozen=True)
class Queue:
    """What a run asks people: ``files`` are its queues, ``questions`` those without a verdict."""

    run: str
    files: tuple[Path, ...]
    questions: tuple[Question, ...]


def ask(store: Store, place: str, questions: Sequence[Question]) -> list[Verdict]:
    """A verdict on every question, in their order. Raises Waiting until all of them are there."""
    if not questions:
        return []
    key = digest([asdict(q) for q in questions])
    asked = store.unit("asked", key, place, lambda out: _write_queue(out, questions))

    def take(out: Path) -> Mapping[str, Any]:
        found = {q.subject: _verdict(store.folder, q.subject) for q in questions}
        missing = sum(v is None for v in found.values())
        if missing:
            raise Waiting(str(asked.folder / "queue.jsonl"), missing)
        verdicts = [v for v in found.values() if v is not None]
        write_rows(out / "verdicts.parquet", Verdict, verdicts)
        return {"by": sorted({v.by for v in verdicts}), "ok": sum(v.ok for v in verdicts), "asked": len(verdicts)}

    unit = store.unit("answers", key, f"{place}-answers", take)
    return read_rows(unit.folder / "verdicts.parquet", Verdict)


def _write_queue(out: Path, questions: Sequence[Question]) -> Mapping[str, Any]:
    lines = [canonical(asdict(q) | {"ok": None, "reason": "", "value": None}) + b"\n" for q in questions]
    (out / "queue.jsonl").write_bytes(b"".join(lines))
    return {"asked": len(questions), "kind": questions[0].kind}


def _verdict(folder: Path, subject: str) -> Verdict | None:
    path = folder / INBOX / f"{subject}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _checked(data, subject)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is not a verdict: {error}.", hint="Remove it and import the verdict again: selftaught review"
        ) from error


def _checked(data: Any, subject: str) -> Verdict:
    """Raises ValueError for what is no verdict on ``subject``."""
    if not isinstance(data, dict) or data.get("subject") != subject:
        raise ValueError("it names another subject")
    by, ok, reason, value = data.get("by"), data.get("ok"), data.get("reason", ""), data.get("value")
    if not isinstance(by, str) or not isinstance(ok, bool) or not isinstance(reason, str):
        raise ValueError('it needs "by", "ok" (true or false) and "reason"')
    if value is not None and not isinstance(value, str):
        raise ValueError('"value" is text')
    return Verdict(subject, by, ok, reason, value)


# ---------------------------------------------------------------- from the other side: who answers


def open_questions(folder: Path) -> dict[str, Question]:
    """Subject -> question, of every queue of a run that has no verdict in the inbox yet."""
    chain = read_chain(folder) if (folder / "chain.jsonl").exists() else []
    answered = {e["place"] for e in chain if e["kind"] == "answers"}
    found: dict[str, Question] = {}
    for entry in chain:
        if entry["kind"] == "asked" and f"{entry['place']}-answers" not in answered:
            for line in (folder / entry["place"] / "queue.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                found[row["subject"]] = Question(*(row[k] for k in ("subject", "kind", "question", "text", "why")))
    return {s: q for s, q in found.items() if not (folder / INBOX / f"{s}.json").exists()}


def queue(folder: Path) -> Queue:
    """The open questions of a run, and the files in which they stand."""
    chain = read_chain(folder) if (folder / "chain.jsonl").exists() else []
    files = tuple(folder / e["place"] / "queue.jsonl" for e in chain if e["kind"] == "asked")
    return Queue(folder.name, files, tuple(open_questions(folder).values()))


def import_verdicts(folder: Path, file: Path, by: str) -> Imported:
    """Drop the verdicts of a file (the queue, filled in) into a run's inbox. ``ok`` null means: not decided yet.

    Raises DataError naming the first line that is no verdict, before any is taken; RunError for a name that is none.
    """
    if not NAME.fullmatch(by):
        raise RunError(f"{by!r} is not a name.", hint="Letters, digits, spaces, dots, @ and -, at most 64: --by ana")
    rows = _read(file, by)
    decided = [r for r in rows if r["ok"] is not None]
    counts = {"taken": 0, "same": 0, "late": 0, "unknown": 0}
    asked = open_questions(folder)
    for row in decided:
        counts[_drop(folder, row, asked)] += 1
    return Imported(**counts, undecided=len(rows) - len(decided), missing=len(open_questions(folder)))


def _drop(folder: Path, row: Mapping[str, Any], asked: Mapping[str, Question]) -> str:
    """Put one verdict into the inbox; the word for what became of it."""
    subject, data = row["subject"], canonical(row) + b"\n"
    path = folder / INBOX / f"{subject}.json"
    if subject not in asked and not path.exists():
        return "unknown"
    if drop(path, data):
        return "taken"
    if path.read_bytes() == data:
        return "same"
    drop(folder / INBOX / "late" / f"{subject}-{digest(row)[:8]}.json", data)
    return "late"


def _read(file: Path, by: str) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.", hint="Give the queue with its verdicts.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            subject = data["subject"]
            if not re.fullmatch(r"[0-9a-f]{16}", subject):
                raise ValueError(f"{subject!r} is not an id")
            row = {k: data.get(k) for k in ("ok", "value")} | {"subject": subject, "reason": data.get("reason") or ""}
            row["by"] = f"human:{by}"
            if row["value"] is not None and row["ok"] is None:
                row["ok"] = True  # an answer needs no further word
            _checked(row | {"ok": bool(row["ok"])} if row["ok"] is None else row, subject)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{file}, line {number}: not a verdict ({error}); nothing was taken.",
                hint='A verdict is a line of the queue with "ok": true or false, and "reason" if you have one.',
            ) from error
        rows.append(row)
    return rows
