"""Questions on which the parent and the candidate of a run differ, for the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selftaught.ledger import RunRecord
from selftaught.rows import read_rows
from selftaught.types import Item, Rollout, Task


@dataclass(frozen=True)
class Pair:
    """A question that the parent got wrong and the candidate right.

    ``before`` and ``after`` are what they said; with the protocol adapt, what an adapter of each answered.
    """

    question: str
    answer: str
    before: str
    after: str


@dataclass(frozen=True)
class Flips:
    """The items of one suite on which parent and candidate differ: ``won`` by the candidate, ``lost`` by it."""

    suite: str
    items: tuple[str, ...]
    won: tuple[int, ...]
    lost: tuple[int, ...]


def flips(record: RunRecord) -> Flips | None:
    """Of the vault, or of dev where the vault was not looked at or nothing was won on it."""
    reports = record.reports()
    for suite in ("vault", "dev"):
        before, after = reports.get(("parent", suite)), reports.get(("candidate", suite))
        if before is None or after is None or before.unit != "share":
            continue
        both = list(enumerate(zip(before.scores, after.scores, strict=True)))
        found = Flips(
            suite, before.items, tuple(i for i, (b, a) in both if b < a), tuple(i for i, (b, a) in both if a < b)
        )
        if found.won:
            return found
    return None


def pairs(record: RunRecord, most: int = 3) -> list[Pair]:
    """The first questions that the parent got wrong and the candidate right."""
    found = flips(record)
    if found is None:
        return []
    tasks = {t.id: t for t in read_rows(record.path / "tasks" / f"{found.suite}.parquet", Task)}
    before, after = (_said(record, role, found.suite) for role in ("parent", "candidate"))
    asked = [tasks[item] for item in found.items]
    changed = [i for i in found.won if before[i] != after[i]]  # of several adapters, the first may say the same
    return [Pair(asked[i].question, asked[i].answer or "", before[i], after[i]) for i in changed[:most]]


def _said(record: RunRecord, role: str, suite: str) -> Sequence[str]:
    """What was said to each question of a suite; of adapters, the first one's answer."""
    folder = record.path / record.evaluations()[role, suite]["place"]
    if record.recipe.gate.primary.protocol == "adapt":
        return [item.answer or "" for item in read_rows(folder / "items.parquet", Item)]
    return [r.text for r in read_rows(folder / "rows.parquet", Rollout)]
