"""A checkpoint's answers on one suite, greedily, as a Report with an interval and every item's score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from selftaught.gate import wilson
from selftaught.tasks.base import TaskSet
from selftaught.types import Checkpoint, Item, Metric, Report, Rollout, Task


def report(
    suite: str, split: str, checkpoint: Checkpoint, tasks: Sequence[Task], rollouts: Sequence[Rollout], source: TaskSet
) -> Report:
    """One rollout per task, in task order. A truncated answer is wrong; ``finished`` says how many were not."""
    scores = tuple(float(r.error is None and source.check(t, r.text)[1]) for t, r in zip(tasks, rollouts, strict=True))
    finished = [float(r.error is None) for r in rollouts]
    return Report(
        kind="evaluation",
        name=suite,
        subject=checkpoint.digest,
        split=split,
        metrics={"accuracy": proportion(scores), "finished": proportion(finished)},
        scores=scores,
        items=tuple(t.id for t in tasks),
        groups=tuple(t.group for t in tasks),
    )


def likelihood(
    suite: str, checkpoint: Checkpoint, texts: Sequence[Task], logprobs: Sequence[Sequence[float]]
) -> Report:
    """Mean log-probability per token (nats) of each text, ``logprobs`` one list per text, in order."""
    scores = tuple(sum(row) / len(row) for row in logprobs)
    return Report(
        kind="evaluation",
        name=suite,
        subject=checkpoint.digest,
        split=suite,
        metrics={"loglik": mean(scores)},
        scores=scores,
        items=tuple(t.id for t in texts),
        groups=tuple(t.group for t in texts),
        unit="nats",
    )


def mean(values: Sequence[float]) -> Metric:
    """With the normal 95 % interval."""
    n = len(values)
    middle = sum(values) / n
    half = 1.96 * math.sqrt(sum((v - middle) ** 2 for v in values) / max(1, n - 1) / n)
    return Metric(middle, n, middle - half, middle + half)


def items(tasks: Sequence[Task], rollouts: Sequence[Rollout], found: Report) -> list[Item]:
    """Every item of a report with what was asked, expected and answered."""
    return [
        Item(t.id, t.question, t.group, t.answer, r.answer, score, r.error)
        for t, r, score in zip(tasks, rollouts, found.scores, strict=True)
    ]


def proportion(values: Sequence[float]) -> Metric:
    n = len(values)
    low, high = wilson(sum(values), n)
    return Metric(sum(values) / n if n else 0.0, n, low, high)
