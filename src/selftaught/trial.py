"""Throw-away adapters: each learns a few examples on top of a checkpoint and is asked questions, many at once.

The bench's trials and the suites that are judged by ``adapt`` come through here. What an adapter said is kept as it
comes, so that a killed run repeats no finished trial; the file is no part of the chain, which has what became of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from selftaught.config import TrialConfig
from selftaught.engines.base import Completion, StopToken, Tokens, TrialJob, Trialled, Tries, TuneJob, never
from selftaught.errors import IntegrityError, RecipeError
from selftaught.methods.base import Method, Trial, answering
from selftaught.opinions import Opinions
from selftaught.roles import Role
from selftaught.rollout import TRUNCATED, UNFINISHED
from selftaught.store import append_line, mend, read_lines
from selftaught.tasks.base import CORRECT_SCORE, TaskSet
from selftaught.types import Checkpoint, Task, Tried, as_json, digest, seed_for
from selftaught.view import Silent, View

NAME = "trials.jsonl"
NO_ROOM = "question longer than the context"
HINT = "Restore the file, or remove it: what is in no finished unit is tried again."
LOST = -20.0  # nats per token: what counts where there is no log-probability, below every real one


@dataclass
class Tryer:
    """Runs trials of one run. ``path`` is where finished ones are kept; None keeps none."""

    engine: Tries
    tokens: Tokens
    method: Method
    source: TaskSet
    config: TrialConfig
    seed: int
    path: Path | None = None
    judge: Role | None = None
    view: View = field(default_factory=Silent)
    stop: StopToken = never

    def __post_init__(self) -> None:
        self.opinions = Opinions(self.source, self.judge, self.seed, self.stop)
        self._known: dict[str, tuple[Tried, ...]] = {}
        if self.path is not None:
            mend(self.path)
            self._known = read_trials(self.path)

    @property
    def key(self) -> str:
        """Names what a trial's outcome depends on, besides the trial and the checkpoint."""
        return digest(self.seed, self.config.model_dump(mode="json"), repr(answering(self.method)))

    def run(self, checkpoint: Checkpoint, trials: Sequence[Trial]) -> list[tuple[Tried, ...]]:
        """What each trial's adapter said to its questions, in order. A trial that stands twice is run once."""
        return self._judged(trials, self._run(checkpoint, trials))

    def _judged(self, trials: Sequence[Trial], said: list[tuple[Tried, ...]]) -> list[tuple[Tried, ...]]:
        """Answers that their checker doubts, as the judge has them, where there is one."""
        if self.judge is None:
            return said
        pairs = [(q, r) for t, rows in zip(trials, said, strict=True) for q, r in zip(t.questions, rows, strict=True)]
        given = [(q, r, r.answer) for q, r in pairs if r.error is None and r.answer is not None]
        asked = [(q, r) for q, r, answer in given if self.source.doubted(q, answer)]
        found = self.opinions.settled([(q, r.text.strip()) for q, r in asked])
        new = {id(r): replace(r, right=float(yes)) for (_, r), yes in zip(asked, found, strict=True) if yes is not None}
        return [tuple(new.get(id(r), r) for r in rows) for rows in said]

    def _run(self, checkpoint: Checkpoint, trials: Sequence[Trial]) -> list[tuple[Tried, ...]]:
        keys = [digest(checkpoint.digest, self.key, t.id) for t in trials]
        new = {key: t for key, t in zip(keys, trials, strict=True) if key not in self._known}
        if not hasattr(self.engine, "trials"):
            raise RecipeError("This engine trains no throw-away adapters.", hint="Take engine.name=torch_engine.")
        jobs = [self._job(checkpoint, trial) for trial in new.values()]
        names = list(new)
        for index, done in self.engine.trials(jobs, stop=self.stop, progress=self.view.progress):
            self._keep(names[index], tuple(self._said(new[names[index]], done)))
        found = [self._known[key] for key in keys]
        for trial, rows in zip(trials, found, strict=True):
            if [(r.trial, r.task_id) for r in rows] != [(trial.id, q.id) for q in trial.questions]:
                raise IntegrityError(
                    f"{self.path}: a trial with answers to other questions than it was asked.", hint=HINT
                )
        return found

    def _keep(self, key: str, rows: tuple[Tried, ...]) -> None:
        self._known[key] = rows
        if self.path is not None:
            append_line(self.path, as_line(key, rows))

    def _job(self, checkpoint: Checkpoint, trial: Trial) -> TrialJob:
        asked = [pair for t in trial.questions if (pair := self._fitting(t))]
        return TrialJob(
            job=tuning(checkpoint, trial, self.config, self.seed),
            prompts=[prompt for prompt, _ in asked],
            sampling=answering(self.method),
            seeds=[0] * len(asked),  # greedy
            golds=[gold for _, gold in asked],
        )

    def _fitting(self, task: Task) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Prompt and gold answer of a question, if there is room for them."""
        prompt, gold = with_gold(task, self.method, self.tokens)
        return (prompt, gold) if len(prompt) + len(gold) <= self.tokens.context else None

    def _said(self, trial: Trial, done: Trialled) -> list[Tried]:
        if done.error is not None:
            return [Tried(trial.id, t.id, None, "", 0.0, LOST, done.error) for t in trial.questions]
        said = zip(done.completions, done.logprobs, strict=True)
        rows = []
        for task in trial.questions:
            pair = self._fitting(task)
            rows.append(
                self._graded(trial, task, pair[0], *next(said))
                if pair
                else Tried(trial.id, task.id, None, "", 0.0, LOST, NO_ROOM)
            )
        return rows

    def _graded(
        self, trial: Trial, task: Task, prompt: tuple[int, ...], completion: Completion, logprobs: Sequence[float]
    ) -> Tried:
        text = self.tokens.decode(completion.ids)
        said = self.tokens.said(prompt, text)
        cut = completion.error or (TRUNCATED if completion.finish == "length" else UNFINISHED if said is None else None)
        answer, score = self.source.grade(task, (said or "").strip())
        right = float(cut is None and score >= CORRECT_SCORE)
        return Tried(trial.id, task.id, answer, text, right, fmean(logprobs) if logprobs else LOST, cut)


def tuning(parent: Checkpoint, trial: Trial, config: TrialConfig, seed: int) -> TuneJob:
    """The adapter of a trial: ``epochs`` over its examples, each in an order of its own, ``batch`` of them in a step.

    Adapters of one ``trial.seed`` begin with the same weights, whatever they learn: what they differ in is the text.
    """
    rng = random.Random(seed_for(seed, "order", trial.seed, trial.id))
    batches: list[list[int]] = []
    for _ in range(config.epochs if trial.examples else 0):
        order = rng.sample(range(len(trial.examples)), len(trial.examples))
        batches += [order[i : i + config.batch] for i in range(0, len(order), config.batch)]
    return TuneJob(
        parent=parent,
        examples=trial.examples,
        batches=batches,
        kind="lora",
        lr=config.lr,
        warmup_steps=0,
        min_lr_share=config.min_lr_share,
        clip=config.clip,
        weight_decay=config.weight_decay,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        seed=seed_for(seed, "adapter", trial.seed),
        lora_targets=config.lora_targets,
    )


def with_gold(task: Task, method: Method, tokens: Tokens) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of a question as it is asked, and of its gold answer behind it."""
    asked = method.ask(task)
    prompt = tokens.render(asked.prompt, asked.form)
    return tokens.encode(prompt), tokens.encode_completion(tokens.lead(prompt) + (task.answer or ""))


def as_line(key: str, rows: Sequence[Tried]) -> dict[str, Any]:
    """A finished trial as it is kept. ``digest`` shows that a line was changed, though not that it was made anew."""
    said = [as_json(r) for r in rows]
    return {"trial": key, "rows": said, "digest": digest(key, said)}


def read_trials(path: Path) -> dict[str, tuple[Tried, ...]]:
    """Finished trials, before a judge said anything. Raises IntegrityError for a line that is not as it was written."""
    found = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            key, rows = str(line["trial"]), tuple(Tried(**row) for row in line["rows"])
            same = line == as_line(key, rows)
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"{path}, line {number}: not a trial.", hint=HINT) from error
        if not same:
            raise IntegrityError(f"{path}, line {number}: not as it was written.", hint=HINT)
        found[key] = rows
    return found
