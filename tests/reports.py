"""Reports with given scores, and pairs of them, for tests of what compares two."""

from __future__ import annotations

from collections.abc import Sequence

from selftaught.types import Report


def report(
    scores: Sequence[float], groups: Sequence[str | None] | None = None, name: str = "questions", unit: str = "share"
) -> Report:
    items = tuple(f"q{i}" for i in range(len(scores)))
    groups = tuple(groups or [None] * len(scores))
    return Report("evaluation", name, "d", "dev", {}, tuple(scores), items, groups, unit)


def pair(wins: int, losses: int, both: int, neither: int) -> tuple[Report, Report]:
    """(parent's report, candidate's report) on wins + losses + both + neither questions."""
    before = [0.0] * wins + [1.0] * losses + [1.0] * both + [0.0] * neither
    after = [1.0] * wins + [0.0] * losses + [1.0] * both + [0.0] * neither
    return report(before), report(after)
