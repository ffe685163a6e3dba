"""One update: mix the sorts of examples, plan every step, hand the plan to the engine. Method-blind."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from selftaught.config import TrainConfig
from selftaught.engines.base import TuneJob
from selftaught.errors import RecipeError
from selftaught.types import MIXED_IN, Checkpoint, Example, seed_for


def make_job(parent: Checkpoint, examples: Sequence[Example], config: TrainConfig, seed: int) -> TuneJob:
    """The whole update as data: settings settled, every step's batch decided from the seed."""
    if config.lr == "auto" or config.kind == "auto":
        raise RecipeError("train.lr and train.kind are still auto.", hint="loop.prepare settles them; use that.")
    batches = plan(examples, config, seed)
    return TuneJob(
        parent=parent,
        examples=tuple(examples),
        batches=batches,
        kind=config.kind,
        lr=config.lr,
        warmup_steps=round(config.warmup * len(batches)),
        min_lr_share=config.min_lr_share,
        clip=config.clip,
        weight_decay=config.weight_decay,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        seed=seed_for(seed, "train"),
    )


def packed(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """Unprompted texts of one sort joined, in a random order, to sequences of at most ``most`` tokens; 0 leaves all.

    Within a sequence each text but the first begins where the last one ended, after its end token, and sees what stands
    before it (continued pretraining as LLaMA-Factory and others pack it). Loss is on every token but the first text's
    beginning. Whatever answers a prompt stays as it is.
    """
    if not most:
        return list(examples)
    alone = [e for e in examples if len(e.prompt_ids) > 1 or e.weight != 1.0 or e.loss != "nll"]
    left = [e for e in examples if not (len(e.prompt_ids) > 1 or e.weight != 1.0 or e.loss != "nll")]
    random.Random(seed_for(seed, "pack")).shuffle(left)
    return [*alone, *(p for sort in dict.fromkeys(e.source for e in left) for p in _packed(sort, left, most))]


def _packed(sort: str, examples: Sequence[Example], most: int) -> Iterator[Example]:
    row: list[Example] = []
    size = 0
    for example in (e for e in examples if e.source == sort):
        length = len(example.prompt_ids) + len(example.completion_ids)
        if row and size + length > most:
            yield _joined(row)
            row, size = [], 0
        row.append(example)
        size += length
    if row:
        yield _joined(row)


def _joined(row: Sequence[Example]) -> Example:
    first, *others = row
    ids = (*first.completion_ids, *(i for e in others for i in (*e.prompt_ids, *e.completion_ids)))
    text = "\n".join(e.text for e in row)
    return replace(first, completion_ids=ids, text=text, task_id="", parents=tuple(e.id for e in row))


def plan(examples: Sequence[Example], config: TrainConfig, seed: int) -> list[list[int]]:
    """Batches of indices into ``examples``: about ``batch_tokens`` tokens each, for ``steps`` or ``epochs``.

    Each epoch holds every example of the method's once and as many of the others (``MIXED_IN``) as make their share of
    the whole; with ``replay`` 1 it holds replay alone, as many as there are of the method's. Empty when there is
    nothing to learn from.
    """
    lengths = [len(e.prompt_ids) + len(e.completion_ids) for e in examples]
    own = [i for i, e in enumerate(examples) if e.own]
    mixed = {sort: [i for i, e in enumerate(examples) if e.source == sort] for sort in MIXED_IN}
    rng = random.Random(seed_for(seed, "plan"))
    done: list[list[int]] = []
    left = config.epochs
    while (len(done) < config.steps) if config.steps else left > 0:
        batches = list(_batches(_epoch(own, mixed, config.shares, rng), lengths, config.batch_tokens))
        if not batches:
            break
        done += batches[: max(1, round(left * len(batches)))] if left < 1 and not config.steps else batches
        left -= 1
    return done[: config.steps]


def _epoch(
    own: Sequence[int], mixed: Mapping[str, Sequence[int]], shares: Mapping[str, float], rng: random.Random
) -> list[int]:
    if shares["replay"] == 1:
        epoch = _drawn(mixed["replay"], len(own), rng)
    else:
        epoch = list(own)
        left = 1 - sum(shares[sort] for sort, some in mixed.items() if some)
        for sort, some in mixed.items():
            epoch += _drawn(some, round(len(own) * shares[sort] / left), rng)
    rng.shuffle(epoch)
    return epoch


def _drawn(some: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """``count`` of them at random, each as often as any other or once more; none where there are none."""
    drawn: list[int] = []
    while some and len(drawn) < count:
        drawn += rng.sample(some, len(some))
    return drawn[:count]


def _batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Cut a shuffled order into steps. Batches stay mixed: one length a batch trains markedly worse (docs/LOG.md)."""
    batch: list[int] = []
    size = 0
    for i in order:
        if batch and size + lengths[i] > tokens:
            yield batch
            batch, size = [], 0
        batch.append(i)
        size += lengths[i]
    if batch:
        yield batch
