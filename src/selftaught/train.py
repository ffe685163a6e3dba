"""One update: mix in replay, plan every step, hand the plan to the engine. Method-blind."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from selftaught.config import TrainConfig
from selftaught.engines.base import TuneJob
from selftaught.errors import RecipeError
from selftaught.types import Checkpoint, Example, seed_for


def make_job(
    parent: Checkpoint, examples: Sequence[Example], replay: Sequence[Example], config: TrainConfig, seed: int
) -> TuneJob:
    """The whole update as data: settings settled, every step's batch decided from the seed."""
    if config.lr == "auto" or config.kind == "auto":
        raise RecipeError("train.lr and train.kind are still auto.", hint="loop.prepare settles them; use that.")
    batches = plan(examples, replay, config, seed)
    return TuneJob(
        parent=parent,
        examples=(*examples, *replay),
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


def plan(examples: Sequence[Example], replay: Sequence[Example], config: TrainConfig, seed: int) -> list[list[int]]:
    """Batches of indices into ``examples + replay``: about ``batch_tokens`` tokens each, for ``steps`` or ``epochs``.

    Each epoch holds every example once and replay up to its share; with ``replay`` 1 it holds replay alone, as many as
    there are examples. Empty when there is nothing to learn from.
    """
    lengths = [len(e.prompt_ids) + len(e.completion_ids) for e in (*examples, *replay)]
    rng = random.Random(seed_for(seed, "plan"))
    done: list[list[int]] = []
    left = config.epochs
    while (len(done) < config.steps) if config.steps else left > 0:
        batches = list(_batches(_epoch(len(examples), len(replay), config.replay, rng), lengths, config.batch_tokens))
        if not batches:
            break
        done += batches[: max(1, round(left * len(batches)))] if left < 1 and not config.steps else batches
        left -= 1
    return done[: config.steps]


def _epoch(examples: int, replay: int, share: float, rng: random.Random) -> list[int]:
    own = list(range(examples)) if share < 1 else []
    wanted = round(examples * share / (1 - share)) if share < 1 else examples
    pool: list[int] = []
    while replay and len(pool) < wanted:
        pool += rng.sample(range(examples, examples + replay), replay)
    mixed = own + pool[:wanted]
    rng.shuffle(mixed)
    return mixed


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
