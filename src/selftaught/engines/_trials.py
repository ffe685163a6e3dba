"""Throw-away adapters of one parent, in one process: the parent itself, the packed path where it fits, or any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from selftaught.engines import _many, _stacked
from selftaught.engines._ask import Asker
from selftaught.engines._batches import Part
from selftaught.engines.base import Notice, StopToken, TrialJob, Trialled, Tuned, quiet

MIN_JOBS = 8  # from so many on worker processes pay
BATCH = 32  # jobs of a batch: what dies with a worker, and what is handed over at once


def plan(jobs: Sequence[TrialJob], workers: int) -> list[list[Part]]:
    """Batches for worker processes, the longest jobs first, at least two for each worker where there are enough."""
    order = sorted(range(len(jobs)), key=lambda i: -sum(map(len, jobs[i].job.batches)))
    size = max(1, min(BATCH, len(jobs) // (2 * workers)))
    return [[Part(i, 0, 1) for i in order[at : at + size]] for at in range(0, len(jobs), size)]


def run(
    model: Any,
    tokens: Any,
    jobs: Sequence[TrialJob],
    *,
    bf16: bool,
    slots: int,
    kernels: str,
    free: int,
    stop: StopToken,
    notice: Notice,
) -> Iterator[tuple[int, Trialled]]:
    """(index, result) of each job. ``model``: their parent, its own adapter merged. ``free``: bytes to fill.

    ``bf16``: matrix products of training in bfloat16. A job without batches is put to the parent as any request is.
    """
    for trial in jobs:
        _many.check(trial, tokens.context)
    asker = Asker(tokens, slots=slots, free=free, notice=notice)
    plain = [i for i, trial in enumerate(jobs) if not trial.job.batches]
    for i, found in zip(plain, asker.ask(model, [jobs[i] for i in plain], kernels=kernels, stop=stop), strict=True):
        yield i, Trialled(Tuned((), 0), *found)
    others = [i for i, trial in enumerate(jobs) if trial.job.batches]
    some = [jobs[i] for i in others]
    if some and _many.fits(model):
        trained = _many.run(model, tokens, some, bf16=bf16, stop=stop, progress=quiet, notice=notice)
    else:
        trained = _stacked.run(model, asker, some, bf16=bf16, free=free, stop=stop, notice=notice)
    for k, result in trained:
        yield others[k], result
