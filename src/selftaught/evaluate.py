"""A checkpoint's answers on one suite as a Report, with an interval and every item's score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from selftaught.engines.base import StopToken, never
from selftaught.errors import NonFiniteError
from selftaught.paired import Groups, by_unit, grouped, mean_and_error, units, wilson
from selftaught.stopping import heeding
from selftaught.tasks.base import CORRECT_SCORE, TaskSet
from selftaught.types import Checkpoint, Item, Metric, Report, Rollout, Task

UNIT_OF = {"accuracy": "share", "score": "score", "loglik": "nats"}  # of a metric's scores, item by item
METRIC_OF = {unit: metric for metric, unit in UNIT_OF.items()}
HOLDOUTS = ("dev", "vault")  # the suites that the claim is about


def answers(
    suite: str,
    checkpoint: Checkpoint,
    tasks: Sequence[Task],
    rollouts: Sequence[Rollout],
    source: TaskSet,
    metric: str = "accuracy",
    stop: StopToken = never,
) -> Report:
    """One rollout per task, in task order. A truncated answer is not right; ``finished`` says how many were whole.

    ``metric`` "score" takes what the checker's function says of each text, cut off or not.
    """
    pairs = heeding(stop, zip(tasks, rollouts, strict=True))  # a grade may be a user's function
    grades = [source.grade(t, r.text)[1] for t, r in pairs]
    finished = [float(r.error is None) for r in rollouts]
    right = [float(f and g >= CORRECT_SCORE) for f, g in zip(finished, grades, strict=True)]
    groups = [t.group for t in tasks]
    metrics = {"accuracy": proportion(right, groups), "finished": proportion(finished, groups)}
    if metric == "score":
        return report_of(suite, checkpoint, tasks, grades, "score", metrics | {"score": mean(grades, groups)})
    return report_of(suite, checkpoint, tasks, right, "share", metrics)


def likelihood(
    suite: str, checkpoint: Checkpoint, texts: Sequence[Task], logprobs: Sequence[Sequence[float]]
) -> Report:
    """Mean log-probability per token (nats) of each text, ``logprobs`` one list per text, in order.

    Raises NonFiniteError where a model cannot say: of NaN or infinity there is no mean and no test.
    """
    scores = [sum(row) / len(row) for row in logprobs]
    if lost := sum(not math.isfinite(s) for s in scores):
        raise NonFiniteError(
            f"{suite}: the probability of {lost} of {len(scores)} texts is not a finite number.",
            hint="The weights are too large for their numbers; lower train.lr.",
        )
    return report_of(suite, checkpoint, texts, scores, "nats", {"loglik": mean(scores, [t.group for t in texts])})


def report_of(
    suite: str,
    checkpoint: Checkpoint,
    tasks: Sequence[Task],
    scores: Sequence[float],
    unit: str,
    metrics: dict[str, Metric],
) -> Report:
    """A score per task, in task order, with the metrics they make."""
    return Report(
        kind="evaluation",
        name=suite,
        subject=checkpoint.digest,
        split=suite,
        metrics=metrics,
        scores=tuple(scores),
        items=tuple(t.id for t in tasks),
        groups=tuple(t.group for t in tasks),
        unit=unit,
    )


def main_metric(report: Report) -> Metric:
    """The metric that the report's scores make."""
    return report.metrics[METRIC_OF[report.unit]]


def mean(values: Sequence[float], groups: Groups = ()) -> Metric:
    """With the normal 95 % interval over what is independent: groups, and items without one."""
    middle, error = _mean_and_error(values, groups)
    return Metric(middle, len(values), middle - 1.96 * error, middle + 1.96 * error)


def _mean_and_error(values: Sequence[float], groups: Groups) -> tuple[float, float]:
    groups = groups or (None,) * len(values)
    middle, error = mean_and_error(*by_unit((0.0,) * len(values), values, groups))
    return middle, error * math.sqrt(units(groups) / max(1, units(groups) - 1))


def items(tasks: Sequence[Task], rollouts: Sequence[Rollout], found: Report) -> list[Item]:
    """Every item of a report with what was asked, expected and answered."""
    return [
        Item(t.id, t.question, t.group, t.answer, r.answer, score, r.error)
        for t, r, score in zip(tasks, rollouts, found.scores, strict=True)
    ]


def unasked(tasks: Sequence[Task], found: Report) -> list[Item]:
    """The same where nothing was sampled: texts, or gold answers, whose probability was read."""
    return [
        Item(t.id, t.question, t.group, t.answer, None, score)
        for t, score in zip(tasks, found.scores, strict=True)
    ]  # fmt: skip


def proportion(values: Sequence[float], groups: Groups = ()) -> Metric:
    """With Wilson's interval; of items in groups, for as many single items as would vary as they do."""
    n = len(values)
    share, alike = sum(values) / n if n else 0.0, float(n)
    if grouped(groups):
        error, spread = _mean_and_error(values, groups)[1], share * (1 - share)
        alike = min(n, spread / error**2 if error else n) if spread else units(groups)
    low, high = wilson(share * alike, alike)
    return Metric(share, n, low, high)
