"""Forgetting: what earlier rounds could do, and the base before them, that the candidate cannot.

Two kinds: suites that are asked directly (F = best earlier share of right answers less the share now, Chaudhry et al.
2018, arXiv 1801.10112; by a paired test against that best round), and a sample of what each accepted round taught, by
its log-probability (SEAL saw earlier passages fade as edits add up, Zweiger et al. 2025, arXiv 2506.10943).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pydantic import Field

from selftaught.audits import _forgetting as formulas
from selftaught.audits.base import (
    Audit,
    AuditOptions,
    Lab,
    Opinion,
    found,
    mean,
    series,
    series_groups,
    share,
    with_series,
)
from selftaught.paired import Groups, gain, no_loss, sign_flip, units
from selftaught.power import fewest_units, guard_items
from selftaught.types import Checkpoint, Metric, Report

TAUGHT = "taught in "


class ForgettingOptions(AuditOptions):
    margin: float = Field(default=0.03, gt=0, lt=1)  # of right answers, against the best earlier round
    text_margin: float = Field(default=0.2, gt=0)  # nats per token, of what an accepted round taught
    alpha: float = Field(default=0.05, gt=0, lt=1)  # that no more is lost; and, shared out, that something is


@dataclass(frozen=True)
class Loss:
    """Of a suite, against its best earlier round. ``ruled_out``: p-value of a loss of the margin or more. ``shown``:
    that of no loss at all, the smallest over the earlier rounds, times their number. ``short``: more items are needed.
    """

    value: float
    ruled_out: float
    shown: float
    short: bool


class Forgetting(Audit):
    Options = ForgettingOptions
    name = "forgetting"
    version = 1

    options: ForgettingOptions

    def measure(self, lab: Lab, checkpoint: Checkpoint, *, base: bool) -> Report:
        metrics: dict[str, Metric] = {}
        kept: dict[str, list[float]] = {}
        groups: dict[str, Groups] = {}
        for suite, answered in lab.answered(checkpoint).items():
            if answered.report.unit == "share" and answered.report.scores:
                kept[suite], groups[suite] = [*answered.report.scores], answered.report.groups
                metrics[suite] = share(kept[suite])
        for place, texts in lab.taught.items() if not base else ():
            if texts:
                rows = lab.score(checkpoint, [(*p, *c) for p, c in texts])
                kept[TAUGHT + place] = [fmean(row[-len(c) :]) for row, (_, c) in zip(rows, texts, strict=True)]
                metrics[TAUGHT + place] = mean(kept[TAUGHT + place])
        return with_series(found(self.name, checkpoint, metrics), kept, groups)

    def judge(self, base: Report, past: Sequence[Report], now: Report) -> Opinion:
        lost: dict[str, Loss] = {}
        more: dict[str, Metric] = {}
        for name in now.metrics:
            after, groups = series(now, name), series_groups(now, name)
            history = [row for r in (base, *past) if len(row := series(r, name)) == len(after)]
            if not history:
                continue
            best = max(history, key=fmean)
            worse, better = (replace(now, scores=tuple(row), groups=tuple(groups)) for row in (after, best))
            more[f"{name}: forgotten"] = gain(worse, better)
            lost[name] = self._lost(name, history, best, after, groups)
            if not name.startswith(TAUGHT):
                each = formulas.forgotten(history, after).items
                more[f"{name}: forgotten, item by item"] = Metric(each, len(after), each, each)
        if not lost:
            return Opinion("inconclusive", "nothing was asked that an earlier model had been asked", (), more)
        return self._opinion(lost, more)

    def _lost(
        self,
        name: str,
        history: Sequence[Sequence[float]],
        best: Sequence[float],
        after: Sequence[float],
        groups: Groups,
    ) -> Loss:
        o = self.options
        shown = min(sign_flip(after, before, groups) for before in history) * len(history)
        if name.startswith(TAUGHT):
            out, need = sign_flip(best, [a + o.text_margin for a in after], groups), fewest_units(o.alpha)
        else:
            out, need = no_loss(best, after, groups, o.margin), guard_items(o.margin, o.alpha)
        return Loss(fmean(best) - fmean(after), out, shown, units(groups) < need)

    def _opinion(self, lost: Mapping[str, Loss], more: Mapping[str, Metric]) -> Opinion:
        """Passed where a loss of its margin is ruled out on every suite, which needs no correction for their number;
        failed where it is not on one that is shown to have lost something, which does."""
        alpha = self.options.alpha
        worst = max(lost, key=lambda name: lost[name].value)
        unit = "nats per token" if worst.startswith(TAUGHT) else "points"
        value = lost[worst].value * (1 if worst.startswith(TAUGHT) else 100)
        said = f"most on {worst}: {value:+.2f} {unit} less than in its best earlier round"
        left = [name for name, loss in lost.items() if loss.ruled_out > alpha]
        if not left:
            return Opinion("passed", f"{said}; a loss of its margin is ruled out everywhere", (), more)
        if shown := [name for name in left if lost[name].shown * len(lost) <= alpha]:
            why = f"{said}; a loss is shown, and one of its margin not ruled out, on {', '.join(shown)}"
            return Opinion("failed", why, (), more)
        if few := [name for name in left if lost[name].short]:
            return Opinion("inconclusive", f"{said}; too few items on {', '.join(few)}", (), more)
        return Opinion("inconclusive", f"{said}; a loss of its margin is not ruled out on {', '.join(left)}", (), more)
