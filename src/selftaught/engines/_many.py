"""Many throw-away adapters of one model, trained and asked together: the fast path, for Llama-like models.

Results are the same, bit for bit on a CPU, whatever other jobs there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from selftaught.engines._adapters import alike, numbered, table
from selftaught.engines._asked import Asked, Prompt
from selftaught.engines._batches import Part, cost, kind, seats
from selftaught.engines._cache import STEP
from selftaught.engines._lean import Lean
from selftaught.engines._memory import Room, keep_freed
from selftaught.engines._packed import Cell, Frozen, Packed
from selftaught.engines._sample import decoder, sample
from selftaught.engines._steps import train
from selftaught.engines._tune import length, padded
from selftaught.engines.base import Completion, Notice, Request, StopToken, TrialJob, Trialled
from selftaught.errors import NonFiniteLogits, Stopped
from selftaught.types import Example

TABLE_SHARE = 0.25  # of the bytes to fill, for a table of adapters,
CACHE_SHARE = 0.5  # and for keys and values
ROWS = {"cpu": 64, "cuda": 192}  # of a table: enough to fill packs, few enough that some end early
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
    slots: int,
    free: int,
    stop: StopToken,
    notice: Notice,
) -> Iterator[tuple[int, Trialled]]:
    """(index, result) of each of ``jobs`` as they finish; their common parent is ``model``.

    ``bf16``: products with the model's own weights in bfloat16, else in float32, in training and in asking; jobs
    without batches are asked in the same way. ``slots``: rows that are sampled at once; ``free``: bytes to fill.
    """
    keep_freed()
    for some in alike([t.job for t in jobs]):
        yield from _table(model, tokens, jobs, some, bf16, slots, free, stop, numbered(notice, some))


def _base(model: Any, bf16: bool) -> Frozen:
    """The model's weights for products, made once."""
    known, dtype = _frozen.setdefault(model, {}), torch.bfloat16 if bf16 else torch.float32
    if dtype not in known:
        found = decoder(model)
        assert isinstance(found, Lean)
        known[dtype] = Frozen(found, dtype)
    return known[dtype]


def _table(
    model: Any,
    tokens: Any,
    jobs: Sequence[TrialJob],
    some: Sequence[int],
    bf16: bool,
    slots: int,
    free: int,
    stop: StopToken,
    notice: Notice,
) -> Iterator[tuple[int, Trialled]]:
    """Those ``some`` of the jobs that are of one rank and layers. What they need is let go of at the end."""
    trials = [jobs[i] for i in some]
    rows = table(model, [t.job for t in trials], int(TABLE_SHARE * free), ROWS.get(model.device.type, 1))
    ask = _Ask(Packed(_base(model, bf16), rows), model, tokens, trials, slots, int(CACHE_SHARE * free), stop, notice)
    for ended in train(ask.packed, stop=stop, notice=notice):
        for row, result in ask.results(ended):
            yield some[rows.courses[row].number], result


class _Ask:
    """What is asked of the adapters of a table once they are trained."""

    def __init__(
        self,
        packed: Packed,
        model: Any,
        tokens: Any,
        trials: Sequence[TrialJob],
        slots: int,
        free: int,
        stop: StopToken,
        notice: Notice,
    ) -> None:
        self.packed, self.model, self.tokens, self.trials, self.stop = packed, model, tokens, trials, stop
        self.slots, self.free = slots, free
        self.decoder = Asked(packed)
        self.samples = Room("answers", "Lower max_tokens.", notice)
        self.scores = Room("scores", "Shorten the answers.", notice)

    def _trial(self, row: int) -> TrialJob:
        return self.trials[self.packed.adapters.courses[row].number]

    def results(self, rows: Sequence[int]) -> Iterator[tuple[int, Trialled]]:
        """What came of trained ``rows``. Those that left the numbers are not asked."""
        adapters = self.packed.adapters
        sound = [k for k in rows if adapters.courses[k].error is None]
        golds, answers = self._golds(sound), self._answers(sound)
        for k in rows:
            course, keep = adapters.courses[k], self._trial(k).keep
            if course.error or k not in answers or not np.isfinite([p for gold in golds[k] for p in gold]).all():
                yield k, Trialled(course.tuned(), error=course.error or SILENT)
                continue
            if keep is not None:
                adapters.export(k, keep)
            yield k, Trialled(course.tuned(), tuple(answers[k]), tuple(golds[k]))

    def _golds(self, rows: Sequence[int]) -> dict[int, list[tuple[float, ...]]]:
        """Log-probabilities of the golds of ``rows``, each read at the width of its own length."""
        asked = [(k, q) for k in rows for q in range(len(self._trial(k).golds))]
        cells = []
        for k, q in asked:
            example = Example(self._trial(k).prompts[q], self._trial(k).golds[q], "")
            cells.append(Cell(k, (example,), (1, padded(length(example)))))
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
        except NonFiniteLogits:
            halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :]) if len(rows) > 1 else ()
            return {k: found for half in halves for k, found in self._answers(half).items()}

    def _sampled(self, rows: Sequence[int]) -> dict[int, list[Completion]]:
        asked = [(k, q) for k in rows for q in range(len(self._trial(k).prompts))]
        asked.sort(key=lambda a: (-(-len(self._trial(a[0]).prompts[a[1]]) // STEP), a))
        requests = [
            Request(t.job.parent, Prompt(t.prompts[q], k), t.sampling, (t.seeds[q],))
            for k, q in asked
            for t in (self._trial(k),)
        ]
        kinds: dict[tuple[str, str], list[Part]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(kind(request), []).append(Part(i, 0, 1))
        found: dict[int, dict[int, Completion]] = {k: {} for k in rows}
        for parts in kinds.values():
            some = [requests[p.request] for p in parts]
            most = seats(some, self.tokens.context, cost(self.model.config), self.free, self.slots)
            for part, (answer,) in sample(
                self.model, self.tokens, requests, parts, self.samples, most=most, by=self.decoder, stop=self.stop
            ):
                k, q = asked[part.request]
                found[k][q] = answer
        return {k: [answer for _, answer in sorted(found[k].items())] for k in rows}
