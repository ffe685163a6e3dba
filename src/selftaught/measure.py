"""One checkpoint on one suite, by the metric of the recipe's claim: asked greedily, or read off its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from selftaught.adapt import Writer, adapt
from selftaught.engines.base import Engine, Progress, StopToken, Tokens, never, quiet
from selftaught.errors import ModelError
from selftaught.evaluate import answers, items, likelihood, unasked
from selftaught.methods.base import Method, answering
from selftaught.rollout import LOOK, rollout
from selftaught.stopping import heeding
from selftaught.tasks.base import TaskSet
from selftaught.trial import Tryer, with_gold
from selftaught.types import Checkpoint, Item, Report, Rollout, Task


@dataclass(frozen=True)
class Measured:
    """``rollouts`` are empty where nothing was sampled, and edits of the documents where adapters were asked."""

    report: Report
    items: list[Item]
    rollouts: list[Rollout]


def measure(
    engine: Engine,
    checkpoint: Checkpoint,
    tokens: Tokens,
    method: Method,
    source: TaskSet,
    suite: str,
    tasks: Sequence[Task],
    metric: str = "accuracy",
    *,
    seed: int,
    tryer: Tryer | None = None,
    stop: StopToken = never,
    progress: Progress = quiet,
) -> Measured:
    """``metric`` as in ``gate.primary``; with a ``tryer``, of adapters that learn what the checkpoint writes: adapt.py.

    Raises ModelError where a question with its gold answer does not fit.
    """
    if tryer is not None:
        adapted = adapt(tryer, checkpoint, suite, tasks, metric, seed, Writer(engine, checkpoint, tokens))
        return Measured(adapted.report, adapted.items, adapted.edits)
    if metric == "loglik":
        found = likelihood(suite, checkpoint, tasks, _of_gold(engine, checkpoint, tokens, method, tasks, stop))
        return Measured(found, unasked(tasks, found), [])
    asked = [method.ask(t) for t in tasks]
    rows = rollout(
        engine,
        checkpoint,
        tokens,
        asked,
        answering(method),
        source.checkers,
        run_seed=seed,
        stop=stop,
        progress=progress,
    )
    spoken = [replace(r, text=tokens.said(r.prompt_ids, r.text) or "") for r in rows]  # thoughts are not graded
    found = answers(suite, checkpoint, tasks, spoken, source, metric, stop)
    return Measured(found, items(tasks, rows, found), rows)


def check_room(tokens: Tokens, method: Method, tasks: Sequence[Task], stop: StopToken = never) -> None:
    """Raises ModelError for a question that does not fit into the context with its gold answer."""
    for task in heeding(stop, tasks, LOOK):
        _with_gold(task, method, tokens)


def _of_gold(
    engine: Engine, checkpoint: Checkpoint, tokens: Tokens, method: Method, tasks: Sequence[Task], stop: StopToken
) -> list[list[float]]:
    """Log-probabilities of each gold answer's tokens, the end token among them, after its question as it is asked."""
    both = [_with_gold(t, method, tokens) for t in heeding(stop, tasks, LOOK)]
    scored = engine.score(checkpoint, [ids for ids, _ in both], stop=stop)
    return [row[-length:] for row, (_, length) in zip(scored, both, strict=True)]


def _with_gold(task: Task, method: Method, tokens: Tokens) -> tuple[tuple[int, ...], int]:
    """Ids of a question with its gold answer, and how many of them are the answer's."""
    prompt, gold = with_gold(task, method, tokens)
    ids = (*prompt, *gold)
    if len(ids) > tokens.context:
        raise ModelError(
            f"A question with its gold answer takes {len(ids)} tokens of a context of {tokens.context}:"
            f" {task.question[:80]!r}.",
            hint="Take it out, or measure gate.primary.metric=accuracy.",
        )
    return ids, len(gold)
