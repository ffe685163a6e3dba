"""Forgetting: what earlier rounds could do, and the base before them, that the candidate cannot.

Two kinds: suites that are asked directly (F = best earlier share of right answers less the share now, Chaudhry et al.
2018, arXiv 1801.10112; by a paired test against that best round), and a sample of what each accepted round taught, by
its log-probability (SEAL saw earlier passages fade as edits add up, Zweiger et al. 2025, arXiv 2506.10943).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from pydantic import Field

from selftaught.audits import _forgetting as formulas
from selftaught.audits.base import AuditOptions, Lab, Opinion, found, mean, series, share, with_series
from selftaught.paired import no_loss
from selftaught.power import guard_items
from selftaught.types import Checkpoint, Metric, Report

TAUGHT = "taught in "


class ForgettingOptions(AuditOptions):
    margin: float = Field(default=0.03, gt=0, lt=1)  # of right answers, against the best earlier round
    text_margin: float = Field(default=0.2, gt=0)  # nats per token, of what an accepted round taught
    alpha: float = Field(default=0.05, gt=0, lt=1)  # of each suite, shared out over them (Holm)


class Forgetting:
    Options = ForgettingOptions
    name = "forgetting"
    version = 1

    def __init__(self, options: ForgettingOptions) -> None:
        self.options = options

    def needless(self, lab: Lab) -> str:
        return ""

    def measure(self, lab: Lab, checkpoint: Checkpoint, *, base: bool) -> Report:
        metrics: dict[str, Metric] = {}
        kept: dict[str, list[float]] = {}
        for suite, answered in lab.answered(checkpoint).items():
            if answered.report.unit == "share" and answered.report.scores:
                kept[suite] = [*answered.report.scores]
                metrics[suite] = share(kept[suite])
        for place, texts in lab.taught.items() if not base else ():
            if texts:
                rows = lab.score(checkpoint, [(*p, *c) for p, c in texts])
                kept[TAUGHT + place] = [fmean(row[-len(c) :]) for row, (_, c) in zip(rows, texts, strict=True)]
                metrics[TAUGHT + place] = mean(kept[TAUGHT + place])
        return with_series(found(self.name, checkpoint, metrics), kept)

    def judge(self, base: Report, past: Sequence[Report], now: Report) -> Opinion:
        earlier = [base, *past]
        lost: dict[str, tuple[float, float]] = {}  # suite -> (lost against the best earlier round, p of margin or more)
        more: dict[str, Metric] = {}
        few = []
        for name in now.metrics:
            after = series(now, name)
            history = [row for r in earlier if len(row := series(r, name)) == len(after)]
            if not history:
                continue
            best = max(history, key=fmean)
            margin = self.options.text_margin if name.startswith(TAUGHT) else self.options.margin
            change = fmean(best) - fmean(after)
            lost[name] = (change, self._p(name, best, after, margin))
            more[f"{name}: forgotten"] = Metric(change, len(after), *_interval(best, after))
            if not name.startswith(TAUGHT):
                each = formulas.forgotten(history, after).items
                more[f"{name}: forgotten, item by item"] = Metric(each, len(after), each, each)
                if len(after) < guard_items(self.options.margin, self.options.alpha):
                    few.append(name)
        if not lost:
            return Opinion("inconclusive", "nothing was asked that an earlier model had been asked", (), more)
        return self._opinion(lost, few, more)

    def _p(self, name: str, best: Sequence[float], after: Sequence[float], margin: float) -> float:
        if not name.startswith(TAUGHT):
            return no_loss(best, after, [None] * len(after), margin)
        low, _ = _interval(best, after)
        return 0.0 if _interval(best, after)[1] < margin else 1.0 if low >= margin else 0.5

    def _opinion(self, lost: dict[str, tuple[float, float]], few: Sequence[str], more: dict[str, Metric]) -> Opinion:
        worst = max(lost, key=lambda name: lost[name][0])
        unit = "nats per token" if worst.startswith(TAUGHT) else "points"
        value = lost[worst][0] * (1 if worst.startswith(TAUGHT) else 100)
        said = f"most on {worst}: {value:+.2f} {unit} less than in its best earlier round"
        if few:
            return Opinion("inconclusive", f"{said}; too few items on {', '.join(few)}", (), more)
        ranked = sorted(p for _, p in lost.values())
        held = all(p <= self.options.alpha for p in ranked)  # every loss has to be ruled out: no correction is needed
        if held:
            return Opinion("passed", f"{said}; a loss of its margin is ruled out everywhere", (), more)
        open_ = [n for n, (_, p) in lost.items() if p > self.options.alpha]
        shown = [n for n in open_ if more[f"{n}: forgotten"].low > 0]  # there is a loss, as far as an interval can say
        said += f"; a loss of its margin is not ruled out on {', '.join(shown or open_)}"
        return Opinion("failed" if shown else "inconclusive", said, (), more)


def _interval(best: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    change = mean([b - a for b, a in zip(best, after, strict=True)])
    return change.low, change.high
