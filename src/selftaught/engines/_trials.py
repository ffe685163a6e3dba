"""Throw-away adapters of one parent, in one process: the packed path where it fits, else any model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from selftaught.engines import _many, _stacked
from selftaught.engines._adapters import sites
from selftaught.engines._batches import Part
from selftaught.engines._tune import length
from selftaught.engines.base import Notice, StopToken, TrialJob, Trialled
from selftaught.errors import ModelError

MIN_JOBS = 8  # from so many on worker processes pay
BATCH = 32  # jobs of a batch: what dies with a worker, and what is handed over at once


def plan(jobs: Sequence[TrialJob], mine: Sequence[int], workers: int) -> list[list[Part]]:
    """Batches of ``mine`` for worker processes, longest first; at least two for each worker, of jobs enough."""
    order = sorted(mine, key=lambda i: -sum(map(len, jobs[i].job.batches)))
    size = max(1, min(BATCH, len(mine) // (2 * workers)))
    return [[Part(i, 0, 1) for i in order[at : at + size]] for at in range(0, len(mine), size)]


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
    """(index, result) of each job as they finish. ``model``: their parent, its own adapter merged.

    ``bf16``: matrix products in bfloat16, where Llama-like models are asked as well as where any is trained. The parent
    is asked just as its adapters are, so that one that learned nothing equals it. ``slots``: rows that are sampled at
    once, ``free``: bytes to fill. Raises ModelError for layers that the model does not have, before it begins.
    """
    for targets in {t.job.lora_targets for t in jobs if t.job.batches}:
        sites(model, targets)  # says what is not there before anything is trained
    path = _many if _many.fits(model) else _stacked
    yield from path.run(model, tokens, jobs, bf16=bf16, slots=slots, free=free, stop=stop, notice=notice)


def check(index: int, trial: TrialJob, context: int) -> None:
    """Raises ModelError for a job that no model of this ``context`` can do, ValueError for one that says nothing."""
    job, examples = trial.job, len(trial.job.examples)
    if job.kind != "lora" or job.lora_rank < 1:
        raise ValueError(f"job {index}: a trial is a LoRA adapter of rank 1 at least, not {job.kind} {job.lora_rank}")
    if any(not 0 <= i < examples for batch in job.batches for i in batch):
        raise ValueError(f"job {index}: its batches name examples that are not there; there are {examples}")
    if not len(trial.prompts) == len(trial.seeds) or len(trial.golds) not in (0, len(trial.prompts)):
        raise ValueError(f"job {index}: there is one seed per prompt, and one gold per prompt or none at all")
    if trial.keep is not None and not job.batches:
        raise ValueError(f"job {index}: without batches there is no adapter to keep")
    if unknown := {e.loss for e in job.examples} - {"nll"}:
        raise ModelError(f"Throw-away adapters learn by the loss nll, not by {sorted(unknown)}.", hint="Use train.")
    longest = max(map(length, job.examples), default=0)
    if longest > context:
        raise ModelError(
            f"An example of {longest} tokens is longer than the model's context of {context}.",
            hint="Make examples shorter: curate.max_tokens.",
        )
    longest = max((len(p) + len(g) for p, g in zip(trial.prompts, trial.golds, strict=False)), default=0)
    if longest > context:
        raise ModelError(
            f"A prompt and its answer of {longest} tokens are longer than the model's context of {context}.",
            hint="Shorten the question or its answer, or use a model with a longer context.",
        )
