"""What a model answers to the prompts of a trial, and how likely it finds the golds, as everywhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from selftaught.engines import _batches, _sample, _score
from selftaught.engines._memory import SAMPLES, Room
from selftaught.engines.base import Completion, Notice, Request, StopToken, TrialJob

Reply = tuple[tuple[Completion, ...], tuple[tuple[float, ...], ...]]  # completions and logprobs, as in Trialled


class Asker:
    """``slots``: rows that are sampled at once, if there is room for them in ``free`` bytes."""

    def __init__(self, tokens: Any, *, slots: int, free: int, notice: Notice) -> None:
        self.tokens, self.slots, self.free = tokens, slots, free
        self.room, self.room_to_score = Room(*SAMPLES, notice), Room("scores", SAMPLES[1], notice)

    def ask(self, model: Any, trials: Sequence[TrialJob], *, stop: StopToken) -> list[Reply]:
        """(completions, log-probabilities of the golds) for each of ``trials``, all of one model."""
        answers = self._answers(model, trials, stop)
        scores = self._scores(model, trials, stop)
        return [*zip(answers, scores, strict=True)]

    def _answers(self, model: Any, trials: Sequence[TrialJob], stop: StopToken) -> list[tuple[Completion, ...]]:
        requests = [
            Request(t.job.parent, tuple(prompt), t.sampling, (seed,))
            for t in trials
            for prompt, seed in zip(t.prompts, t.seeds, strict=True)
        ]
        cost = _batches.cost(model.config)
        most = _batches.seats(requests, self.tokens.context, cost, self.free, self.slots)
        plan = _batches.plan(requests, most)
        found = _sample.run(model, self.tokens, requests, plan, self.room, most=most, kernels="", stop=stop)
        ready = {part.request: completions[0] for part, completions in found}
        answers = iter([ready[i] for i in range(len(requests))])
        return [tuple(next(answers) for _ in t.prompts) for t in trials]

    def _scores(self, model: Any, trials: Sequence[TrialJob], stop: StopToken) -> list[tuple[tuple[float, ...], ...]]:
        pairs = [(p, g) for t in trials if t.golds for p, g in zip(t.prompts, t.golds, strict=True)]
        found = _score.score(model, [(*p, *g) for p, g in pairs], self.room_to_score, stop=stop)
        scores = iter([tuple(s[len(p) - 1 :]) for (p, _), s in zip(pairs, found, strict=True)])
        return [tuple(next(scores) for _ in t.golds) for t in trials]


def finite(asked: Reply) -> bool:
    return all(math.isfinite(score) for scores in asked[1] for score in scores)
