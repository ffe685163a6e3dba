"""What audits said of the candidates of a run, and what they measured as curves over its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selftaught.auditing import BROKE, read_audited
from selftaught.audits.base import Audit, Opinion
from selftaught.ledger import GOOD, RunRecord
from selftaught.panels import Axis, axis
from selftaught.types import Audited, Metric, Report, Round
from selftaught.visible import printable

MAIN = {  # what stands first, and on a card
    "collapse": ("loss on real text", "loss on rare tokens of real text", "different 2-grams"),
    "memorization": ("extracted", "extracted, never in the corpus", "exposure (bits)"),
    "calibration": ("expected calibration error", "mean confidence", "right"),
}
Row = tuple[str, Metric | None, Metric | None]


@dataclass(frozen=True)
class Point:
    """A measure of one round's candidate; rounds count from 1."""

    round: int
    metric: Metric
    accepted: bool


@dataclass(frozen=True)
class Curve:
    """One measure of an audit: of the model that the run began with, and of every candidate that had it."""

    name: str
    base: Metric | None
    points: tuple[Point, ...]
    rounds: int  # of the run
    y: Axis

    @property
    def line(self) -> list[tuple[int, float]]:
        """(round, value) of the base, as round 0, and of the accepted models: none where a run had one round."""
        found = [(0, self.base.value)] if self.base else []
        found += [(p.round, p.metric.value) for p in self.points if p.accepted]
        return found if self.rounds > 1 and len(found) > 1 else []


@dataclass(frozen=True)
class Sheet:
    """An audit as a report shows it: of the round that says what came of a run (of the last one while it is on)."""

    audit: Audited
    round: int
    rows: list[Row]
    outcomes: list[tuple[int, str]]  # of every round
    curves: list[Curve]


def sheets(record: RunRecord) -> list[Sheet]:
    """One for each audit; none where nothing was audited."""
    done = record.final if record.over else next(reversed(record.rounds), None)
    every = [(r.index + 1, a) for r in record.rounds for a in audits(record, r)]
    drawn = curves(record)
    return [
        Sheet(a, done.index + 1 if done else 0, in_order(a), [(n, o.outcome) for n, o in every if o.name == a.name],
              drawn[a.name])
        for a in audits(record, done)
    ]  # fmt: skip


def as_said(audit: Audit, candidate: str, opinion: Opinion, before: Report | None, after: Report | None) -> Audited:
    """An opinion as a round records it: what could not be measured decides, whether the recipe wanted it to or not."""
    decides = audit.options.gating or opinion.reason.startswith(BROKE)
    subjects = (candidate, *opinion.subjects) if opinion.outcome == "failed" else ()
    measured = {**after.metrics, **opinion.more} if after else {}
    return Audited(audit.name, audit.version, opinion.outcome, opinion.reason, decides, subjects,
                   dict(before.metrics) if before else {}, measured)  # fmt: skip


def audits(record: RunRecord, done: Round | None) -> list[Audited]:
    """What audits said of a round's candidate. One that is, bit for bit, an earlier round's is not measured again."""
    if done is None or done.candidate is None:
        return []
    same = [r for r in record.rounds if r.candidate == done.candidate and r.index <= done.index]
    said = {e["facts"]["name"]: e["facts"] for r in same for e in record.units("audit", r)}
    return [read_audited(facts) for facts in said.values()]


def line(audit: Audited) -> tuple[str, str, str]:
    """(name, outcome, why) in short."""
    return audit.name, audit.outcome + (" (decides)" if audit.decides else ""), printable(audit.reason)


def audits_by_round(record: RunRecord) -> list[dict[str, Any]]:
    """All that audits said and measured, as plain values; rounds count from 1."""
    return [{"round": done.index + 1, **asdict(audit)} for done in record.rounds for audit in audits(record, done)]


def in_order(audit: Audited) -> list[Row]:
    """(name, before, after) of every measure, the main ones first."""
    first = MAIN.get(audit.name, ())
    names = {**audit.before, **audit.after}
    ranked = [*(n for n in first if n in names), *sorted(names.keys() - set(first))]
    return [(name, audit.before.get(name), audit.after.get(name)) for name in ranked]


def main(audit: Audited) -> list[Row]:
    """The measures that say most: those named above, or the first three that both models have."""
    named = MAIN.get(audit.name)
    rows = [row for row in in_order(audit) if (row[0] in named if named else row[1] and row[2])]
    return rows[:3]


def curves(record: RunRecord) -> dict[str, list[Curve]]:
    """Audit -> the curves of its measures over the rounds, the main ones first."""
    found: dict[str, dict[str, list[Point]]] = {}
    bases: dict[str, dict[str, Metric]] = {}
    ranks: dict[str, dict[str, None]] = {}
    for done in record.rounds:
        for audit in audits(record, done):
            bases.setdefault(audit.name, {}).update(audit.before)
            points = found.setdefault(audit.name, {})
            for name, metric in audit.after.items():
                points.setdefault(name, []).append(Point(done.index + 1, metric, done.decision.outcome in GOOD))
            ranks.setdefault(audit.name, {}).update(dict.fromkeys(name for name, _, _ in in_order(audit)))
    rounds = len(record.rounds)
    return {
        audit: [_curve(name, bases[audit].get(name), found[audit].get(name, []), rounds) for name in names]
        for audit, names in ranks.items()
    }


def _curve(name: str, base: Metric | None, points: Sequence[Point], rounds: int) -> Curve:
    metrics = [*([base] if base else []), *(p.metric for p in points)]
    low, high = min(min(m.low, m.value) for m in metrics), max(max(m.high, m.value) for m in metrics)
    return Curve(name, base, tuple(points), rounds, axis(low, high, 3))
