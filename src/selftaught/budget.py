"""Size a run to ``budget.minutes``: measure the pace here on a few of its own questions, then shrink.

The pace is wall time and differs from day to day; what is decided from it (two shares) is written into the recipe
before the run, so that the run itself stays reproducible.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from selftaught import load
from selftaught.config import Recipe
from selftaught.engines.base import Engine, StopToken, never
from selftaught.errors import NonFiniteError, RecipeError
from selftaught.rollout import rollout
from selftaught.tasks.base import TaskSet
from selftaught.train import make_job
from selftaught.types import Checkpoint, Example, Rollout, Task

T = TypeVar("T")

PROBE_QUESTIONS = 32
SAFETY = 0.8  # plan for this share of the budget: paces vary
MIN_QUESTIONS = 20
SMALLEST_SHARE = 0.001


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine: to start, per sample, per judged answer, per trained token; and tokens per example.

    ``real`` is the tokens of an example of real text, where the recipe has some; ``audited`` how many samples audits
    take in a round.
    """

    start: float
    sample: float
    answer: float
    token: float
    length: float
    real: float = 0.0
    audited: float = 0.0


def fit(
    recipe: Recipe,
    engine: Engine,
    tasks: TaskSet,
    real: float = 0.0,
    stop: StopToken = never,
    audited: float = 0.0,
) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with ``budget.train_share`` and ``budget.holdout_share`` set, and what was decided in words.

    ``real`` is the tokens of a piece of the recipe's real text, on average; ``audited`` the samples that audits take in
    a round.
    Raises RecipeError when not even a small run fits, and Stopped.
    """
    if recipe.budget.minutes is None:
        return recipe, ()
    if not tasks.train:
        raise RecipeError(
            "budget.minutes is planned by training questions, and there are none.",
            hint="Set budget.holdout_share and tasks.limit by hand.",
        )
    most = load.make("methods", recipe.method).most()
    train, holdout = shares(
        recipe, tasks, replace(measure(recipe, engine, tasks, stop), real=real, audited=audited), most
    )
    budget = recipe.budget.model_copy(
        update={
            "train_share": _share(recipe.budget.train_share * train),
            "holdout_share": _share(recipe.budget.holdout_share * holdout),
        }
    )
    note = (
        f"budget: {recipe.budget.minutes:g} minutes allow {train:.0%} of the training questions "
        f"and {holdout:.0%} of the held-out ones"
    )
    return recipe.model_copy(update={"budget": budget}), (note,)


def _share(value: float) -> float:
    return max(SMALLEST_SHARE, round(value, 3))


def shares(recipe: Recipe, tasks: TaskSet, pace: Pace, most: tuple[int, int]) -> tuple[float, float]:
    """(train share, holdout share) of ``tasks``: judging may take at most half, learning gets the rest.

    ``most`` is (samples, examples) per question. Raises RecipeError with the minutes that would do.
    """
    seconds = SAFETY * 60 * (recipe.budget.minutes or 0) / recipe.rounds - pace.start
    judged = 2 * (
        recipe.gate.text_items + len(tasks.dev) + len(tasks.vault) + sum(len(g) for g in tasks.guards.values())
    )
    judging = judged * pace.answer
    fixed, each = _learning(recipe, pace, *most)
    needed = fixed + each * min(MIN_QUESTIONS, len(tasks.train))
    holdout = min(1.0, 0.5 * seconds / judging) if judging else 1.0
    left = seconds - holdout * judging
    if seconds <= 0 or left < needed:
        least = (pace.start + min(needed + judging, 2 * needed)) / 60 / SAFETY
        raise RecipeError(
            f"budget.minutes={recipe.budget.minutes:g} is too short for this model here.",
            hint=f"Give {math.ceil(least)} or more, or lower method.samples, method.max_tokens or train.epochs.",
        )
    return min(1.0, (left - fixed) / (each * len(tasks.train))) if each else 1.0, holdout


def _learning(recipe: Recipe, pace: Pace, samples: int, examples: int) -> tuple[float, float]:
    """Seconds that sampling and training take whatever the questions, and seconds per question."""
    train = recipe.train
    fixed = (pace.audited + (train.replay_samples if train.replay else 0)) * pace.sample
    if train.steps:
        return fixed + train.steps * train.batch_tokens * pace.token, samples * pace.sample
    real, own = train.shares["real"], 1 - sum(train.shares.values())
    length = (real * pace.real + (1 - real) * pace.length) / own if own else pace.length  # replay alone takes as much
    return fixed, samples * pace.sample + examples * train.epochs * length * pace.token


def measure(recipe: Recipe, engine: Engine, tasks: TaskSet, stop: StopToken = never) -> Pace:
    """Run a small piece of each kind of work and time it; the first call of each warms up and counts as start."""
    method = load.make("methods", recipe.method)
    parent = engine.open(recipe.model)
    tokens = engine.tokens(parent)
    some = [method.ask(t) for t in tasks.train[:PROBE_QUESTIONS]]

    def draw(n: int, temperature: float) -> list[Rollout]:
        sampling = replace(method.sampling(), n=n, temperature=temperature)
        return rollout(engine, parent, tokens, some, sampling, tasks.checkers, run_seed=recipe.seed, stop=stop)

    n = method.sampling().n
    start, rows = timed(lambda: draw(n, method.sampling().temperature))
    sampling, rows = timed(lambda: draw(n, method.sampling().temperature))
    answering, _ = timed(lambda: draw(1, 0.0))
    token, length = _time_training(recipe, engine, parent, rows, stop)
    return Pace(start, sampling / len(rows), answering / len(some), token, length)


def _time_training(
    recipe: Recipe, engine: Engine, parent: Checkpoint, rows: list[Rollout], stop: StopToken
) -> tuple[float, float]:
    """(seconds per token, tokens per example) of an epoch over the probe's samples; a failed update counts too."""
    examples = [Example(r.prompt_ids, r.completion_ids, r.text, r.task_id) for r in rows if r.completion_ids]
    if not examples:
        return 0.0, 0.0
    config = recipe.train.model_copy(update={"epochs": 1.0, "steps": None, "replay": 0.0})
    job = make_job(parent, examples, config, recipe.seed)

    def update() -> None:
        with tempfile.TemporaryDirectory() as folder, suppress(NonFiniteError):
            engine.tune(job, Path(folder), stop=stop)

    tokens = sum(len(e.prompt_ids) + len(e.completion_ids) for e in examples)
    return timed(update)[0] / tokens, tokens / len(examples)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def trim(tasks: TaskSet, recipe: Recipe) -> TaskSet:
    """The first shares of every suite. Suites are in hash order or drawn at random, so a prefix is a fair sample.

    Of questions about documents the first documents stay, each with all its questions: an adapter is one of a document.
    """

    def first(suite: tuple[Task, ...], share: float) -> tuple[Task, ...]:
        groups = tuple(dict.fromkeys(t.group for t in suite))
        if not all(name in tasks.documents for name in groups):
            return head(suite, share)
        kept = {*head(groups, share)}
        return tuple(t for t in suite if t.group in kept)

    train, holdout = recipe.budget.train_share, recipe.budget.holdout_share
    return replace(
        tasks,
        train=first(tasks.train, train),
        dev=first(tasks.dev, holdout),
        vault=first(tasks.vault, holdout),
        guards={name: first(suite, holdout) for name, suite in tasks.guards.items()},
    )


def head(items: tuple[T, ...], share: float) -> tuple[T, ...]:
    return items[: max(1, round(share * len(items)))] if items else ()
