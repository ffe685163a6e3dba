"""The work of benchmarks/inner.py: random models as folders, jobs of real lengths, parts of them, sums over them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timing
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from selftaught.engines.base import TuneJob
from selftaught.types import Checkpoint, Example

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LENGTHS = "seal_edit_lengths.json"
EPOCHS = 10
CONTEXT = 2048


@contextmanager
def model_folder(size: str) -> Iterator[Path]:
    """A random model in the standard format. Its matrices keep the size of what goes through them, so that attention
    and MLP matter; it has no end token, so that every completion is as long as it may be."""
    model = timing.llama(size, CONTEXT)
    model.generation_config.eos_token_id = model.config.eos_token_id = model.config.bos_token_id = None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    words = {"<unk>": 0} | {f"w{i}": i for i in range(1, timing.SHAPES[size][-1])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), unk_token="<unk>")
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield Path(folder)


# ---------------------------------------------------------------- jobs


def lengths() -> list[list[int]]:
    """Tokens of each training sequence of each of the 250 self-edits that were released with SEAL."""
    path = Path(os.environ.get("SELFTAUGHT_DATA", DATA)) / LENGTHS
    if not path.is_file():
        raise SystemExit(f"There is no {path}. Set SELFTAUGHT_DATA to the folder that holds {LENGTHS}.")
    return list(json.loads(path.read_text())["edits"])


def real(parent: Checkpoint, vocabulary: int) -> list[TuneJob]:
    """One job per edit: random tokens of the real lengths, ten epochs, one sequence per step, shuffled every epoch."""
    return [job(parent, vocabulary, i, some, rank=32, size=1, epochs=EPOCHS) for i, some in enumerate(lengths())]


def dense(parent: Checkpoint, vocabulary: int) -> list[TuneJob]:
    """32 adapters, four steps each of 16 sequences of 64 tokens, none of them twice."""
    return [job(parent, vocabulary, i, [64] * 64, rank=16, size=16, epochs=1) for i in range(32)]


def brief(parent: Checkpoint, vocabulary: int) -> list[TuneJob]:
    """32 adapters, each one long step away from nothing on 8 tokens: hardly any work, and answers of their own."""
    made = [job(parent, vocabulary, i, [8], rank=32, size=1, epochs=1) for i in range(32)]
    return [replace(one, lr=0.02) for one in made]


def job(
    parent: Checkpoint, vocabulary: int, index: int, lengths: Sequence[int], *, rank: int, size: int, epochs: int
) -> TuneJob:
    g = np.random.default_rng((1, index))
    rows = [tuple(g.integers(1, vocabulary, max(2, n)).tolist()) for n in lengths]
    examples = [Example(row[:1], row[1:], "") for row in rows]  # the first token has nothing to be predicted from
    order = np.concatenate([g.permutation(len(rows)) for _ in range(epochs)]).tolist()
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    return TuneJob(parent, examples, batches, kind="lora", lr=1e-3, warmup_steps=0, min_lr_share=1.0, clip=1.0,
                   weight_decay=0.0, lora_rank=rank, lora_alpha=2 * rank, seed=index,
                   lora_targets=("q_proj", "v_proj"))  # fmt: skip


def questions(
    vocabulary: int, adapters: int = 32, each: int = 4, least: int = 32, most: int = 32
) -> list[list[tuple[int, ...]]]:
    """Random prompts of ``least`` to ``most`` tokens."""
    g = np.random.default_rng(2)
    sizes = g.integers(least, most + 1, (adapters, each)).tolist()
    return [[tuple(g.integers(1, vocabulary, n).tolist()) for n in some] for some in sizes]


def ragged(vocabulary: int) -> list[list[tuple[int, ...]]]:
    return questions(vocabulary, each=5, least=20, most=60)


# ---------------------------------------------------------------- parts and sums


def strata(jobs: Sequence[TuneJob], count: int) -> list[int]:
    """Indices of jobs that stand for all: the middle one of each of ``count`` equal parts, by number of steps."""
    order = sorted(range(len(jobs)), key=lambda i: len(jobs[i].batches))
    return [order[(2 * k + 1) * len(jobs) // (2 * count)] for k in range(count)]


def cut(job: TuneJob, steps: int) -> TuneJob:
    return replace(job, batches=job.batches[:steps])


def epochs(job: TuneJob, count: int) -> TuneJob:
    """The first ``count`` epochs of a job with a sequence per step."""
    return cut(job, count * len(job.examples))


def steps(jobs: Sequence[TuneJob]) -> int:
    return sum(len(job.batches) for job in jobs)


def tokens(jobs: Sequence[TuneJob]) -> int:
    return sum(len(j.examples[i].completion_ids) + 1 for j in jobs for batch in j.batches for i in batch)
