"""Calibration: does a model know what it knows? Self-training is known to make models surer than they are right.

The confidence of an answer is the probability that the model gave the whole of it, as it was decoded greedily: of a
worked solution that is less than the probability of its result, which other workings reach as well. Beside it the vote:
how far the share of the majority is from how often the majority is right, where training questions have answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from selftaught.audits import _calibration as formulas
from selftaught.audits.base import Audit, AuditOptions, Lab, Opinion, found, mean, share, with_series
from selftaught.types import Checkpoint, Metric, Report, seed_for

FEWEST = 100  # answers below which nothing is said
ERROR, CONFIDENCE, RIGHT = "expected calibration error", "mean confidence", "right"


class CalibrationOptions(AuditOptions):
    bins: int = Field(default=15, ge=2)
    rise: float = Field(default=0.1, gt=0, lt=1)  # of the error over the base's: more fails


class Calibration(Audit):
    Options = CalibrationOptions
    name = "calibration"
    version = 1

    options: CalibrationOptions

    def measure(self, lab: Lab, checkpoint: Checkpoint, *, base: bool) -> Report:
        said, right, groups = [], [], []
        for answered in lab.answered(checkpoint).values():
            if answered.rollouts and answered.report.unit == "share":
                rows = lab.score(checkpoint, [(*r.prompt_ids, *r.completion_ids) for r in answered.rollouts])
                kept = zip(answered.rollouts, rows, answered.report.scores, answered.report.groups, strict=True)
                for r, row, score, group in kept:
                    if r.completion_ids:
                        said.append(min(math.exp(sum(row[-len(r.completion_ids) :])), 1.0))  # NaN stays, and is refused
                        right.append(score)
                        groups.append(group)
        metrics: dict[str, Metric] = {}
        if said:
            metrics = self._errors(said, right, groups, seed_for(lab.seed, "audit calibration"))
        if lab.votes:
            shares, winners = zip(*lab.votes, strict=True)
            value = formulas.ece(shares, winners, self.options.bins)
            ends = formulas.ece_interval(shares, winners, [None] * len(shares), lab.seed, self.options.bins)
            metrics["expected calibration error of the vote"] = Metric(value, len(shares), *ends)
        return with_series(found(self.name, checkpoint, metrics), {CONFIDENCE: said, RIGHT: right})

    def _errors(
        self, said: Sequence[float], right: Sequence[float], groups: Sequence[str | None], seed: int
    ) -> dict[str, Metric]:
        o, n = self.options, len(said)
        ends = formulas.ece_interval(said, right, groups, seed, o.bins)
        debiased = formulas.ece_debiased(said, right, seed, o.bins)
        squares = [(s - r) ** 2 for s, r in zip(said, right, strict=True)]
        return {
            ERROR: Metric(formulas.ece(said, right, o.bins), n, *ends),
            f"{ERROR}, less chance": Metric(debiased, n, debiased, debiased),
            "Brier score": mean(squares),
            CONFIDENCE: mean(said),
            RIGHT: share(right),
        }

    def judge(self, base: Report, past: Sequence[Report], now: Report) -> Opinion:
        before, after = base.metrics.get(ERROR), now.metrics.get(ERROR)
        if before is None or after is None:
            return Opinion("inconclusive", "no answer was sampled on a labelled suite")
        said = f"error {before.value:.3f} before, {after.value:.3f} [{after.low:.3f}, {after.high:.3f}] after"
        sure = now.metrics[CONFIDENCE].value - now.metrics[RIGHT].value
        said += f"; {abs(100 * sure):.0f} points {'surer than' if sure > 0 else 'less sure than'} right"
        if after.n < FEWEST:
            return Opinion("inconclusive", f"{said}; {after.n} answers, and {FEWEST} are needed to know")
        limit = before.value + self.options.rise
        if after.high <= limit:
            return Opinion("passed", said)
        said += f"; at most {limit:.3f} was declared"
        if sure <= 0:  # what a worked answer's other workings explain as well
            return Opinion("inconclusive", f"{said}, and a result may be reached in more ways than the one given")
        return Opinion("failed", said) if after.low > limit else Opinion("inconclusive", said)
