"""Many throw-away adapters of one model, trained and asked together: the fast path, for Llama-like models.

Results are the same, bit for bit on a CPU, whatever other jobs there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from selftaught.engines._adapters import Adapters, sites
from selftaught.engines._asked import Asked, Prompt
from selftaught.engines._batches import Part, cost, kind, seats
from selftaught.engines._cache import STEP
from selftaught.engines._lean import Lean
from selftaught.engines._memory import Room, free_bytes, keep_freed
from selftaught.engines._packed import Cell, Frozen, Packed
from selftaught.engines._sample import decoder, sample
from selftaught.engines._steps import train
from selftaught.engines._tune import length, padded
from selftaught.engines.base import Completion, Notice, Progress, Request, StopToken, TrialJob, Trialled
from selftaught.errors import ModelError, Stopped
from selftaught.store import chunks
from selftaught.types import Example

TABLE_SHARE = 0.25  # of free memory, for a table of adapters,
CACHE_SHARE = 0.25  # and for keys and values
TRIALS = 64  # adapters that are asked at once,
SLOTS = 256  # and their answers
READ_TOKENS = 2048  # of texts that are scored at once, padding included

SILENT = "Training left the numbers: the logits of this adapter hold NaN or infinite values."
_frozen: WeakKeyDictionary[Any, dict[torch.dtype, Frozen]] = WeakKeyDictionary()


def fits(model: Any) -> bool:
    """Whether the model is one for this path: Llama-like, with the same logits here as through its own forward."""
    return isinstance(decoder(model), Lean)


def run(
    model: Any,
    tokens: Any,
    jobs: Sequence[TrialJob],
    *,
    bf16: bool,
    stop: StopToken,
    progress: Progress,
    notice: Notice,
) -> Iterator[tuple[int, Trialled]]:
    """Train and ask the adapters of ``jobs``, whose common parent is ``model``; (index, result) as they finish.

    ``bf16``: products with the model's own weights in bfloat16, else in float32. Raises ModelError for a job that this
    path cannot do.
    """
    for trial in jobs:
        check(trial, tokens.context)
    keep_freed()
    done = 0
    for some in _tables(model, jobs):
        trials = [jobs[i] for i in some]
        targets = next((t.job.lora_targets for t in trials if t.job.batches), ())
        table = Adapters(sites(model, targets), [t.job for t in trials], model.device)
        ask = _Ask(Packed(_base(model, bf16), table), model, tokens, trials, stop, notice)
        finished = train(ask.packed, stop=stop, notice=notice)
        while ready := list(islice(finished, TRIALS)):
            for row, result in ask.results(ready):
                done += 1
                progress(done, len(jobs), "jobs")
                yield some[row], result


def check(trial: TrialJob, context: int) -> None:
    """Raises ModelError for a job that cannot be done."""
    longest = max(map(length, trial.job.examples), default=0)
    if longest > context:
        raise ModelError(
            f"An example of {longest} tokens is longer than the model's context of {context}.",
            hint="Make examples shorter: curate.max_tokens.",
        )
    if unknown := {e.loss for e in trial.job.examples} - {"nll"}:
        raise ModelError(f"Throw-away adapters learn by the loss nll, not by {sorted(unknown)}.", hint="Use train.")


def _base(model: Any, bf16: bool) -> Frozen:
    """The model's weights for products, made once."""
    known, dtype = _frozen.setdefault(model, {}), torch.bfloat16 if bf16 else torch.float32
    if dtype not in known:
        found = decoder(model)
        assert isinstance(found, Lean)
        known[dtype] = Frozen(found, dtype)
    return known[dtype]


def _tables(model: Any, jobs: Sequence[TrialJob]) -> Iterator[list[int]]:
    """Jobs of one rank and layers, no more than have room. Those without steps go with any."""
    kinds: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for i, trial in enumerate(jobs):
        if trial.job.batches:
            kinds.setdefault((trial.job.lora_rank, trial.job.lora_targets), []).append(i)
    idle = [i for i, trial in enumerate(jobs) if not trial.job.batches]
    for (rank, targets), some in (kinds or {(1, ()): []}).items():
        size = 3 * 4 * rank * sum(site.inputs + site.outputs for site in sites(model, targets))
        fit = max(1, int(TABLE_SHARE * free_bytes(model.device.type)) // size)
        yield from map(list, chunks([*idle, *some], fit))
        idle = []


class _Ask:
    """What is asked of the adapters of a table once they are trained."""

    def __init__(
        self, packed: Packed, model: Any, tokens: Any, trials: Sequence[TrialJob], stop: StopToken, notice: Notice
    ) -> None:
        self.packed, self.model, self.tokens, self.trials, self.stop = packed, model, tokens, trials, stop
        self.decoder = Asked(packed)
        self.samples = Room("answers", "Lower max_tokens.", notice)
        self.scores = Room("scores", "Shorten the answers.", notice)

    def results(self, rows: Sequence[int]) -> Iterator[tuple[int, Trialled]]:
        """What came of trained ``rows``. Those that left the numbers are not asked."""
        adapters = self.packed.adapters
        sound = [k for k in rows if adapters.courses[k].error is None]
        golds, answers = self._golds(sound), self._answers(sound)
        for k in rows:
            course, keep = adapters.courses[k], self.trials[k].keep
            if course.error or k not in answers or not np.isfinite([p for gold in golds[k] for p in gold]).all():
                yield k, Trialled(course.tuned(), error=course.error or SILENT)
                continue
            if keep is not None:
                adapters.export(k, keep)
            yield k, Trialled(course.tuned(), tuple(answers[k]), tuple(golds[k]))

    def _golds(self, rows: Sequence[int]) -> dict[int, list[tuple[float, ...]]]:
        """Log-probabilities of the golds of ``rows``, each read at the width of its own length."""
        asked = [(k, q) for k in rows for q in range(len(self.trials[k].golds))]
        cells = []
        for k, q in asked:
            example = Example(self.trials[k].prompts[q], self.trials[k].golds[q], "")
            cells.append(Cell(k, (example,), (1, padded(len(example.prompt_ids) + len(example.completion_ids)))))
        found: dict[int, tuple[float, ...]] = {}
        order = sorted(range(len(cells)), key=lambda i: -cells[i].tokens)
        while order:
            if self.stop():
                raise Stopped
            fit = max(1, READ_TOKENS // cells[order[0]].tokens)
            some, order = order[:fit], order[fit:]
            scores = self.scores.run(self.packed.logprobs, [cells[i] for i in some], cells[some[0]].tokens)
            found.update(zip(some, map(tuple, scores), strict=True))
        result: dict[int, list[tuple[float, ...]]] = {k: [] for k in rows}
        for i, (k, _) in enumerate(asked):
            result[k].append(found[i])
        return result

    def _answers(self, rows: Sequence[int]) -> dict[int, list[Completion]]:
        """A completion for each prompt of ``rows``; a row whose logits are no numbers is left out."""
        try:
            return self._sampled(rows)
        except ModelError:
            halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :]) if len(rows) > 1 else ()
            return {k: found for half in halves for k, found in self._answers(half).items()}

    def _sampled(self, rows: Sequence[int]) -> dict[int, list[Completion]]:
        asked = [(k, q) for k in rows for q in range(len(self.trials[k].prompts))]
        asked.sort(key=lambda a: (-(-len(self.trials[a[0]].prompts[a[1]]) // STEP), a))
        requests = [
            Request(t.job.parent, Prompt(t.prompts[q], k), t.sampling, (t.seeds[q],))
            for k, q in asked
            for t in (self.trials[k],)
        ]
        kinds: dict[tuple[str, str], list[Part]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(kind(request), []).append(Part(i, 0, 1))
        found: dict[int, dict[int, Completion]] = {k: {} for k in rows}
        for parts in kinds.values():
            free = int(CACHE_SHARE * free_bytes(self.model.device.type))
            most = seats(
                [requests[p.request] for p in parts], self.tokens.context, cost(self.model.config), free, SLOTS
            )
            for part, (answer,) in sample(
                self.model, self.tokens, requests, parts, self.samples, most=most, by=self.decoder, stop=self.stop
            ):
                k, q = asked[part.request]
                found[k][q] = answer
        return {k: [answer for _, answer in sorted(found[k].items())] for k in rows}
