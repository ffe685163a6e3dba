"""Sampling as a round does it, beside ``transformers.generate`` in the same process: tokens per second and ratios.

Questions of the bundled world, several samples each, lengths as the model ends them. ``generate`` runs in batches of as
many rows as the sampler has slots, in the order in which the samples are asked for, and in the order of the lengths that
came out (which nobody knows before: the best that sorting could do). One thread each.

    python benchmarks/sampling.py [--questions 64] [--samples 8] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from selftaught.engines.base import Request
from selftaught.engines.torch_engine import TorchEngine
from selftaught.tasks.world_sums import WorldSums
from selftaught.types import Sampling

OUT = Path(__file__).parent / "results" / "sampling.json"
MOST = 128  # tokens of a sample


def ours(engine: TorchEngine, requests: list[Request]) -> list[int]:
    """Lengths of all samples, in order."""
    found = dict(engine.generate(requests))
    return [len(c.ids) for i in range(len(requests)) for c in found[i]]


def theirs(model: Any, prompts: list[tuple[int, ...]], rows: int) -> int:
    """Tokens that ``generate`` sampled, end tokens included and padding not."""
    end, made = model.generation_config.eos_token_id, 0
    for start in range(0, len(prompts), rows):
        some = prompts[start : start + rows]
        width = max(map(len, some))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in some])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in some])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                                 max_new_tokens=MOST, pad_token_id=0)[:, width:]  # fmt: skip
        over = (out == end).int().cumsum(1)
        made += int((over - (out == end).int() == 0).sum())
    return made


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1))
    checkpoint = engine.open("bundled:sums")
    tokens, rows = engine.tokens(checkpoint), engine._slots(checkpoint)
    tasks = WorldSums(WorldSums.Options(train=given.questions, dev=0, vault=0, guard=0)).load(1).train
    n, sampling = given.samples, Sampling(given.samples, 1.0, max_tokens=MOST)
    requests = [Request(checkpoint, tokens.encode(tokens.render(t.prompt, t.form)), sampling,
                        tuple(range(n * i, n * i + n))) for i, t in enumerate(tasks)]  # fmt: skip
    prompts = [r.prompt_ids for r in requests for _ in range(n)]
    model = engine._model(checkpoint)
    lengths = ours(engine, requests)  # warms up, and says how long samples get
    by_length = [prompts[i] for i in sorted(range(len(prompts)), key=lengths.__getitem__)]
    theirs(model, prompts[:rows], rows)
    speeds: dict[str, list[float]] = {"selftaught": [], "generate": [], "generate, by length": []}
    for repeat in range(given.repeats):
        for name, work in (("selftaught", lambda: sum(ours(engine, requests))),
                           ("generate", lambda: theirs(model, prompts, rows)),
                           ("generate, by length", lambda: theirs(model, by_length, rows))):  # fmt: skip
            made, seconds = timed(work)
            speeds[name].append(made / seconds)
        print(f"repeat {repeat + 1} of {given.repeats}: " + ", ".join(f"{k} {v[-1]:,.0f}" for k, v in speeds.items()))
    result = {
        "model": "bundled:sums", "questions": given.questions, "samples": n, "slots": rows, "dtype": "float32",
        "mean length": round(statistics.mean(lengths), 1), "longest": max(lengths),
        "torch": torch.__version__, "transformers": transformers.__version__,
        "tokens per second": {k: [round(x) for x in v] for k, v in speeds.items()},
        "times generate": {k: [round(a / b, 2) for a, b in zip(speeds["selftaught"], v, strict=True)]
                           for k, v in speeds.items() if k != "selftaught"},
    }  # fmt: skip
    for name, ratios in result["times generate"].items():
        print(f"{statistics.median(ratios):.1f} times {name} (from {min(ratios):.1f} to {max(ratios):.1f})")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
