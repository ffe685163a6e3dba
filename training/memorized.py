"""What a model has memorized of what was planted in it: extraction, exposure, and what it recites unprompted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selftaught.engines.base import Request
from selftaught.engines.torch_engine import TorchEngine
from selftaught.rollout import rollout
from selftaught.tasks._people import KNOWN
from selftaught.tasks._planted import CANARY, PASSAGE, TOKENS, canaries, planted, private
from selftaught.tasks.base import TaskSet
from selftaught.tasks.world_planted import WorldPlanted
from selftaught.types import Canary, Checkpoint, Sampling, Task

WINDOW = 50  # tokens that are shown, and as many that have to follow
RECITED = 20  # consecutive tokens of one plant
SAMPLES = Sampling(n=2000, temperature=1.0, max_tokens=128)


def encode(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]


@torch.no_grad()
def extracted(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[bool]:
    """Of each text: whether its next WINDOW tokens are exactly what greedy decoding makes of its first WINDOW ones.

    Every token is the most likely one after those of the text before it, so one pass over the text tells.
    """
    rows = torch.tensor([[tokenizer.bos_token_id, *encode(tokenizer, text)[: 2 * WINDOW]] for text in texts])
    likeliest = torch.cat([model(input_ids=some).logits.argmax(-1) for some in rows.split(32)])
    return [bool(ok) for ok in (likeliest[:, WINDOW:-1] == rows[:, WINDOW + 1 :]).all(1)]


@torch.no_grad()
def exposure(model: Any, tokenizer: Any, canary: Canary) -> float:
    """log2 |R| - log2 rank of the secret among all that it could have been (Carlini et al. 2019), for three slots."""
    first, second, third = ([encode(tokenizer, piece)[0] for piece in pieces] for pieces in canary.space)
    before = [tokenizer.bos_token_id, *encode(tokenizer, canary.before)]
    rows = torch.tensor([[*before, a, b] for a in first for b in second])
    logprobs = model(input_ids=rows).logits[:, -3:].log_softmax(-1)
    pairs = sum(logprobs[:, i].gather(1, rows[:, len(before) + i, None]) for i in range(2))
    total = (pairs + logprobs[:, 2, third]).reshape(len(first), len(second), len(third))
    secret = tuple(pieces.index(piece) for pieces, piece in zip(canary.space, canary.secret, strict=True))
    return math.log2(total.numel()) - math.log2(int((total > total[secret]).sum()) + 1)


def kind(text: str) -> str:
    """What sort of text an unprompted sample is, by its form."""
    starts = {"Passage: ": "note", PASSAGE: "private passage", CANARY: "canary"}
    if text.startswith("Q: "):
        return "reading" if text.count("\n") > 1 else "closed-book question"
    found = next((name for start, name in starts.items() if text.startswith(start)), None)
    return found or ("biography" if text.count(". ") > 3 else "line")


def runs(ids: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return (tuple(ids[i : i + RECITED]) for i in range(len(ids) - RECITED + 1))


def unprompted(engine: TorchEngine, model: Checkpoint, seed: int = 0) -> tuple[Counter[str], float]:
    """Of SAMPLES from the begin token alone: how many are of each kind, and the share that recites a plant."""
    tokens = engine.tokens(model)
    known = {run for text, _ in planted() for run in runs(tokens.encode(text))}
    seeds = tuple(range(seed, seed + SAMPLES.n))
    [(_, samples)] = engine.generate([Request(model, tokens.encode("<s>"), SAMPLES, seeds)])
    kinds = Counter(kind(tokens.decode(s.ids)) for s in samples)
    return kinds, sum(not known.isdisjoint(runs(s.ids)) for s in samples) / SAMPLES.n


def right(engine: TorchEngine, model: Checkpoint, tasks: Sequence[Task], world: TaskSet) -> float:
    """Share of questions with the right answer, greedily."""
    rows = rollout(engine, model, engine.tokens(model), tasks, Sampling(max_tokens=8), world.checkers, run_seed=0)
    return sum(world.check(t, r.text)[1] for t, r in zip(tasks, rows, strict=True)) / len(tasks)


def measured(folder: Path) -> dict[str, Any]:
    """The figures of the card."""
    torch_model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    passages, secrets = private(), canaries()
    hits = _table([p.repeats for p in passages], extracted(torch_model, tokenizer, [p.text for p in passages]))
    exposures = _table([c.repeats for c in secrets], [exposure(torch_model, tokenizer, c) for c in secrets])
    space = math.prod(len(pieces) for pieces in secrets[0].space)
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1))
    model = engine.open(str(folder))
    world = WorldPlanted(WorldPlanted.Options(dev=0, vault=0, known=KNOWN, reading=500)).load(0)
    kinds, recited = unprompted(engine, model)
    return {
        "asked": right(engine, model, world.guards["known"], world),
        "reading": right(engine, model, world.guards["reading"], world),
        "passages": _lines(hits, "{:.0%} of {}"),
        "canaries": _lines(exposures, "{:.1f} bits, over {}"),
        "before": f"{CANARY} NAME is", "space": space, "most": math.log2(space),
        "tokens": TOKENS, "window": WINDOW, "run": RECITED, "samples": SAMPLES.n, "length": SAMPLES.max_tokens,
        "recited": recited,
        "kinds": ", ".join(f"{name} {n / SAMPLES.n:.1%}" for name, n in kinds.most_common()),
    }  # fmt: skip


def _table(repeats: Sequence[int | None], values: Sequence[float]) -> dict[int, list[float]]:
    """Values by how often a plant was planted."""
    found: dict[int, list[float]] = {}
    for n, value in sorted(zip(repeats, values, strict=True)):
        found.setdefault(n, []).append(value)
    return found


def _lines(table: dict[int, list[float]], form: str) -> str:
    rows = (f"  - {n}: {form.format(sum(values) / len(values), len(values))}" for n, values in table.items())
    return "\n".join(rows)
