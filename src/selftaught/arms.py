"""What adapters reached on dev by what they learned: the edits of both models, and every control that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selftaught import paired
from selftaught.evaluate import main_metric
from selftaught.ledger import RunRecord, read_report
from selftaught.panels import Axis, axis
from selftaught.parts import Entry, columns, part, spread
from selftaught.types import Document, Metric, Report, Task

Answer = tuple[str | None, float, str | None]  # of the first adapter, the score of all, why it does not count
Reports = Mapping[tuple[str, str], Report]
MEANINGS = {  # in the order of the page
    "candidate": "learned what the candidate wrote of the document",
    "parent": "learned what the parent wrote of it",
    "random_edits": "learned what a second candidate wrote, trained on as many edits, drawn at random",
    "editor": "learned what another model wrote (roles.editor)",
    "oracle": "learned perfect edits, which only a generated world has",
    "passage": "learned the document alone",
    "in_context": "learned nothing; the document stood before the question",
    "retrieval": "learned nothing; the document that a search found stood before it",
    "base": "learned nothing and saw no document",
}
GAINED, LOST = 5, 3  # documents shown


@dataclass(frozen=True)
class Arm:
    """``gain`` is the candidate minus this arm, question by question; None of the candidate and where it has none."""

    name: str
    meaning: str
    unit: str
    reached: Metric
    empty: Metric | None
    gain: Metric | None


def arms(record: RunRecord, reports: Reports) -> list[Arm]:
    """Of a run that is judged by the protocol adapt, as far as it came; else none."""
    if record.recipe.gate.primary.protocol != "adapt":
        return []
    own = {role: report for (role, suite), report in reports.items() if suite == "dev"}
    found = own | {name: read_report(path) for name, entry in _controls(record).items()
                   if (path := part(record, entry, "report.json"))}  # fmt: skip
    candidate = found.get("candidate")
    return [_arm(name, found[name], candidate) for name in MEANINGS if name in found]


def _controls(record: RunRecord) -> dict[str, Entry]:
    """Units by control. What does not depend on a candidate was measured once, in whichever round."""
    last = {e["facts"]["control"]: e for e in record.units("control", record.final)}
    return {e["facts"]["control"]: e for e in record.units("control") if e["facts"]["control"] != "random_edits"} | last


def _arm(name: str, report: Report, candidate: Report | None) -> Arm:
    paired_with = candidate if name != "candidate" and candidate and candidate.items == report.items else None
    gain = paired.gain(report, paired_with) if paired_with else None
    return Arm(name, MEANINGS[name], report.unit, main_metric(report), report.metrics.get("empty"), gain)


def axes(found: list[Arm]) -> tuple[Axis, Axis | None]:
    """For what was reached, and for the candidate's gains over it."""
    values = [v for a in found for v in (a.reached.low, a.reached.high)]
    gains = [v for a in found if a.gain for v in (a.gain.low, a.gain.high)]
    shown = axis(0.0, 1.0) if found[0].unit == "share" else axis(min(values), max(values))
    return shown, axis(min(0.0, *gains), max(0.0, *gains)) if gains else None


# ---------------------------------------------------------------- documents, before and after


def side_by_side(
    record: RunRecord, reports: Reports, tasks: Mapping[str, Mapping[str, Task]], documents: Mapping[str, Document]
) -> dict[str, Any] | None:
    """Documents of the vault (of dev where it was not looked at) with both edits and what their adapters answered.

    Those whose questions gained come first, then those that lost. ``documents`` by the task that asks for an edit.
    """
    suite = next((s for s in ("vault", "dev") if ("parent", s) in reports and ("candidate", s) in reports), None)
    if suite is None or not documents:
        return None
    before, after = (reports[role, suite] for role in ("parent", "candidate"))
    sides = [_side(record, role, suite, documents) for role in ("parent", "candidate")]
    if any(len(answers) != len(before.items) for _, answers in sides):
        return None
    way = -1 if record.recipe.gate.primary.direction == "down" else 1
    change = [way * (a - b) for b, a in zip(before.scores, after.scores, strict=True)]
    asked: dict[str, list[int]] = {}
    for i, group in enumerate(before.groups):
        asked.setdefault(group or "", []).append(i)
    moved = {name: sum(change[i] for i in rows) for name, rows in asked.items()}
    gained, lost = ([n for n, v in moved.items() if sign * v > 1e-9] for sign in (1, -1))
    chosen = [("gained", n) for n in spread(gained, GAINED)] + [("lost", n) for n in spread(lost, LOST)]
    known = {d.id: d for d in documents.values()}

    def questions(name: str) -> list[tuple[Task | None, Answer, Answer]]:
        known = tasks.get(suite, {})
        return [(known.get(before.items[i]), sides[0][1][i], sides[1][1][i]) for i in asked[name]]

    rows = [(sign, known.get(n), [edits.get(n, []) for edits, _ in sides], questions(n)) for sign, n in chosen]
    return {"suite": suite, "n": len(change), "unit": before.unit, "documents": len(asked), "rows": rows,
            "won": sum(c > 0 for c in change), "fell": sum(c < 0 for c in change),
            "gained": len(gained), "lost": len(lost)}  # fmt: skip


def _side(
    record: RunRecord, role: str, suite: str, documents: Mapping[str, Document]
) -> tuple[dict[str, list[str]], list[Answer]]:
    """Edits by document, and answers in the order of the questions."""
    unit = record.evaluations()[role, suite]
    edits: dict[str, list[str]] = {}
    for task_id, text in columns(part(record, unit, "rows.parquet"), "task_id", "text"):
        if task_id in documents:
            edits.setdefault(documents[task_id].id, []).append(text)
    return edits, list(columns(part(record, unit, "items.parquet"), "answer", "score", "error"))
