"""Before and after as the report draws it: a row per suite, a panel per unit, axes with round ticks. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from selftaught import paired
from selftaught.evaluate import HOLDOUTS, main_metric
from selftaught.types import Metric, Report


@dataclass(frozen=True)
class Suite:
    """One row of the comparison; ``gain`` and what follows are None unless both models answered the same items."""

    name: str
    guard: bool
    unit: str
    before: Metric | None
    after: Metric | None
    p: str = ""  # as the gate wrote it down
    margin: float | None = None  # of a guard, likewise
    wins: int | None = None  # towards what the recipe calls better
    losses: int | None = None
    gain: float | None = None
    low: float | None = None  # paired 95 % interval of the gain
    high: float | None = None
    grouped: bool = False
    independent: int | None = None  # units that are counted as such: see paired.units


def compare(reports: Mapping[tuple[str, str], Report], rules: Sequence[Any], down: bool = False) -> list[Suite]:
    """Dev, vault, then the guards in the order they were evaluated. ``down``: on the first two, less is better."""
    names = sorted({suite: 0 for _, suite in reports}, key=lambda s: {"dev": 0, "vault": 1}.get(s, 2))
    details = {r.holdout or r.name: r.detail for r in rules}
    return [_suite(n, reports.get(("parent", n)), reports.get(("candidate", n)), details, down) for n in names]


def _suite(name: str, before: Report | None, after: Report | None, details: Mapping[str, str], down: bool) -> Suite:
    guard = name not in HOLDOUTS
    detail = details.get(f"guard: {name}" if guard else name, "")
    p, points = re.search(r"p = ([^,;\s]+)", detail), re.search(r"a loss of ([\d.]+) points", detail)
    margin = float(points[1]) / 100 if points else None
    unit = next(r.unit for r in (before, after) if r)
    row = partial(Suite, name, guard, unit, _metric(before), _metric(after), margin=margin)
    if not before or not after or not before.items or before.items != after.items:
        return row(p[1] if p else "")
    wins, losses = paired.wins_losses(before.scores, after.scores)
    if down and not guard:
        wins, losses = losses, wins
    gain, grouped = paired.gain(before, after), paired.grouped(before.groups)
    plain = unit == "share" and not guard and not grouped
    fallback = f"{paired.mcnemar(wins, losses):.2g}" if plain else ""
    return row(p[1] if p else fallback, wins=wins, losses=losses, gain=gain.value, low=gain.low, high=gain.high,
               grouped=grouped, independent=paired.units(before.groups))  # fmt: skip


def _metric(report: Report | None) -> Metric | None:
    return main_metric(report) if report and report.metrics else None


# ---------------------------------------------------------------- drawing


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float, start: float, end: float) -> float:
        """Where ``value`` lies between the coordinates ``start`` and ``end``."""
        return round(start + (value - self.low) / (self.high - self.low) * (end - start), 1)


def axis(low: float, high: float, count: int = 5) -> Axis:
    """An axis that covers low..high, with about ``count`` round ticks (1, 2 or 5 times a power of ten)."""
    if high - low < 1e-9:
        low, high = low - abs(low) / 2 - 0.01, high + abs(high) / 2 + 0.01
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


@dataclass(frozen=True)
class Panel:
    """The suites of one unit, with an axis for their values and one for their gains (None where nothing is paired)."""

    unit: str
    suites: tuple[Suite, ...]
    values: Axis
    gains: Axis | None


def panels(suites: Sequence[Suite]) -> list[Panel]:
    """One for each unit, in the order of the suites."""
    return [_panel(unit, [s for s in suites if s.unit == unit]) for unit in dict.fromkeys(s.unit for s in suites)]


def _panel(unit: str, suites: Sequence[Suite]) -> Panel:
    values = [v for s in suites for m in (s.before, s.after) if m for v in (m.low, m.high)]
    shown = axis(0.0, 1.0) if unit == "share" or not values else axis(min(values), max(values))
    gains = [v for s in suites for v in (s.gain, s.low, s.high, s.margin and -s.margin) if v is not None]
    drawn = any(s.gain is not None for s in suites)
    return Panel(unit, tuple(suites), shown, axis(min(0.0, *gains), max(0.0, *gains)) if drawn else None)
