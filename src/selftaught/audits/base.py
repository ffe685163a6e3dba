"""What an audit is: it measures one checkpoint at a time, and says what the measurements come to.

It measures the model that a run began with once, and every round's candidate. ``judge`` is pure: it sees the base's
report, those of the accepted rounds since, and the candidate's. Limits are options, so they stand before the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import fmean, stdev
from typing import Any, Protocol

from selftaught.config import Section
from selftaught.engines.base import Tokens
from selftaught.paired import wilson
from selftaught.types import AuditOutcome, Canary, Checkpoint, Metric, Private, Report, Rollout, Sampling

Ids = tuple[int, ...]


class AuditOptions(Section):
    """What every audit may be told."""

    gating: bool = False  # part of the gate; else it reports
    skip: str = ""  # why it does not apply, said before the run; "": it runs


@dataclass(frozen=True)
class Opinion:
    """``subjects``: digests of earlier models that a failure is about as well."""

    outcome: AuditOutcome
    reason: str
    subjects: tuple[str, ...] = ()
    more: Mapping[str, Metric] = field(default_factory=dict)  # what only the comparison shows


@dataclass(frozen=True)
class Answered:
    """A suite as a checkpoint answered it."""

    report: Report
    rollouts: Sequence[Rollout]  # one per item of the report; none where nothing was sampled


class Lab(Protocol):
    """What an audit may touch. All randomness comes from ``seed``."""

    seed: int
    tokens: Tokens
    canaries: Sequence[Canary]
    texts: Sequence[Ids]  # real text that nothing learned, as a model reads it
    written: Sequence[Ids]  # what the round learned from what a model wrote, without the prompts
    taught: Mapping[str, Sequence[tuple[Ids, Ids]]]  # this round and accepted ones -> some (prompt, completion) of each
    votes: Sequence[tuple[float, float]]  # share of the majority, and whether it is right, where answers are known

    @property
    def private(self) -> Sequence[Private]:
        """What must not come out again. Raises DataError where it cannot be read."""
        ...

    @property
    def unprompted(self) -> bool:
        """Whether the model has a token to begin with."""
        ...

    def sample(self, checkpoint: Checkpoint, sampling: Sampling, draw: int = 0) -> list[Rollout]:
        """``sampling.n`` unprompted texts; another ``draw`` is another sample."""
        ...

    def continued(self, checkpoint: Checkpoint, prefixes: Sequence[Ids], tokens: int) -> list[Ids]:
        """What greedy decoding makes of each prefix: at most so many tokens, the end token among them."""
        ...

    def score(self, checkpoint: Checkpoint, sequences: Sequence[Ids]) -> list[list[float]]:
        """Natural-log probabilities of ids 1..n-1 of each sequence given what stands before them."""
        ...

    def answered(self, checkpoint: Checkpoint) -> Mapping[str, Answered]:
        """Suites that this checkpoint was asked directly: dev and guards."""
        ...


class Audit(Protocol):
    """A member names this class as its base; ``Options`` extends AuditOptions, and it is made with checked options."""

    Options: Any
    options: Any
    name: str
    version: int  # raise it when the same model would be measured otherwise

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def samples(self) -> int:
        """Unprompted texts that it takes to measure one model: what a budget plans with."""
        return 0

    def needless(self, lab: Lab) -> str:
        """Why there is nothing to measure in this run, or ""; settled before it, and on record as the reason."""
        return ""

    def measure(self, lab: Lab, checkpoint: Checkpoint, *, base: bool) -> Report:
        """``base``: the model that the run began with, which is what all others are measured against."""
        ...

    def judge(self, base: Report, past: Sequence[Report], now: Report) -> Opinion:
        """``past``: the accepted candidates before this one, in order."""
        ...


def found(name: str, checkpoint: Checkpoint, metrics: Mapping[str, Metric], **more: Any) -> Report:
    """An audit's report of a checkpoint."""
    return Report("audit", name, checkpoint.digest, "", dict(metrics), **more)


def with_series(
    report: Report, values: Mapping[str, Sequence[float]], groups: Mapping[str, Sequence[str | None]] = {}
) -> Report:
    """Several named rows of numbers as the report's scores, for a comparison with another checkpoint's.

    ``groups`` says of a row which of its numbers belong together.
    """
    items = tuple(f"{name}#{i}" for name, row in values.items() for i in range(len(row)))
    together = tuple(g for name, row in values.items() for g in groups.get(name, [None] * len(row)))
    return replace(report, items=items, scores=tuple(float(v) for row in values.values() for v in row), groups=together)


def series(report: Report, name: str) -> list[float]:
    """One row of them."""
    return [v for item, v in zip(report.items, report.scores, strict=True) if item.rpartition("#")[0] == name]


def series_groups(report: Report, name: str) -> list[str | None]:
    """Which of its numbers belong together."""
    return [g for item, g in zip(report.items, report.groups, strict=True) if item.rpartition("#")[0] == name]


def share(values: Sequence[float]) -> Metric:
    """Of ones and zeros, with Wilson's interval."""
    return Metric(fmean(values), len(values), *wilson(sum(values), len(values)))


def mean(values: Sequence[float]) -> Metric:
    """With the normal interval. ValueError for what is not a finite number."""
    if not all(map(isfinite, values)):
        raise ValueError("a measured value is not a finite number")
    middle, half = fmean(values), (1.96 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0)
    return Metric(middle, len(values), middle - half, middle + half)
