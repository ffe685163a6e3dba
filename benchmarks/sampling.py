"""Sampling beside transformers' ``generate`` and ``generate_batch``: same model, prompts, lengths, process and thread.

Cases: ``group`` is what a round does: several samples of each prompt, lengths log-normal (mean 63, most 256 tokens; of
the larger model 46 and 192), known to nobody before. ``fixed`` is 64 tokens behind 32 for 1, 16, 64 and 256 rows.
Peers run at the best of the settings listed in ``peers``, found by one trial each before anything is measured; then all
take turns. "sorted" means that rows were put in the order of their lengths first, which only an oracle can do. Speeds
are tokens per CPU second of the process, so that other work on the machine counts for less. ``selftaught`` gives
log-probabilities of its samples as well; peers do not.

    make bench-sampling              prints a table and writes benchmarks/results/sampling.json
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, for the thread that generate_batch starts too

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation import ContinuousBatchingConfig

from selftaught.engines import _batches, _folders, _load, _sample
from selftaught.engines._memory import Room
from selftaught.engines._native import available
from selftaught.engines._pool import SAMPLES
from selftaught.engines.base import Request
from selftaught.types import Checkpoint, Sampling

OUT = timing.RESULTS / "sampling.json"
PROMPT, FREE = 64, GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)


@dataclass
class Work:
    """Rows to sample: prompts of one length, and how many tokens each row gets."""

    prompts: list[tuple[int, ...]]
    lengths: list[int]
    slots: int = 64

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


def group(vocabulary: int, prompts: int, samples: int, mean: int, most: int) -> Work:
    g = np.random.default_rng(1)
    drawn = np.exp(0.8 * g.standard_normal(prompts * samples))
    lengths = np.clip((drawn / drawn.mean() * mean).astype(int), 4, most).tolist()
    asked = [tuple(g.integers(3, vocabulary, PROMPT).tolist()) for _ in range(prompts)]
    return Work([p for p in asked for _ in range(samples)], lengths)


def fixed(vocabulary: int, rows: int) -> Work:
    g = np.random.default_rng(2)
    return Work([tuple(g.integers(3, vocabulary, 32).tolist()) for _ in range(rows)], [64] * rows, slots=rows)


# ---------------------------------------------------------------- who takes part

Sampler = Callable[[Any, Work], None]


class Tokens:
    """No end token, so that every row gets the length it is given."""

    context, eos = 1024, None


def ours(kernels: bool) -> Sampler:
    def run(model: Any, work: Work) -> None:
        asked = [Request(Checkpoint("m", "m"), p, Sampling(1, 1.0, max_tokens=n), (i,))
                 for i, (p, n) in enumerate(zip(work.prompts, work.lengths, strict=True))]  # fmt: skip
        parts = _batches.plan(asked, work.slots)
        made = _sample.run(model, Tokens(), asked, parts, Room(*SAMPLES, lambda *a, **k: None), most=work.slots,
                           kernels=available() if kernels else "")  # fmt: skip
        found = {part.request: len(some[0].ids) for part, some in made}
        assert [found[i] for i in range(len(asked))] == work.lengths

    return run


class AtLength(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, before: int, lengths: list[int]) -> None:
        self.before, self.lengths = before, torch.tensor(lengths)

    def __call__(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        return ids.shape[1] - self.before >= self.lengths


def generate(rows: int, by_length: bool) -> Sampler:
    def run(model: Any, work: Work) -> None:
        order = (
            sorted(range(len(work.lengths)), key=work.lengths.__getitem__) if by_length else range(len(work.lengths))
        )
        for start in range(0, len(order), rows):
            some = list(order)[start : start + rows]
            ids, lengths = torch.tensor([work.prompts[i] for i in some]), [work.lengths[i] for i in some]
            stop = StoppingCriteriaList([AtLength(ids.shape[1], lengths)])
            model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=FREE, stopping_criteria=stop,
                           max_new_tokens=max(lengths))  # fmt: skip

    return run


def generate_batch(page: int, rows: int) -> Sampler:
    def run(model: Any, work: Work) -> None:
        before = model.config._attn_implementation  # which it replaces
        longest = max(len(p) + n for p, n in zip(work.prompts, work.lengths, strict=True))
        pages = -(-longest // page) + 1
        settings = ContinuousBatchingConfig(page_size=page, num_blocks=rows * pages, max_batch_tokens=max(rows, 512),
                                            max_requests_per_batch=rows)  # fmt: skip
        try:
            with model.continuous_batching_context_manager(
                generation_config=FREE, continuous_batching_config=settings, block=True, timeout=5
            ) as manager:
                for p, n in zip(work.prompts, work.lengths, strict=True):
                    manager.add_request(list(p), max_new_tokens=n, eos_token_id=-1)
                left = len(work.prompts)
                while left:
                    found = manager.get_result(timeout=60)
                    assert found is not None and found.error is None, found
                    left -= found.is_finished()
        finally:
            model.set_attn_implementation(before)

    return run


def peers(case: str) -> dict[str, dict[str, Sampler]]:
    """Per peer its settings; dtype stands in front."""
    both = ("float32", "bfloat16")
    sizes = (64, 256) if case == "group" else (256,)
    found = {
        "selftaught, kernels": {"float32": ours(True)},
        "selftaught, torch": {"float32": ours(False)},
        "generate": {f"{d}, {n} rows": generate(n, False) for d in both for n in sizes},
    }
    if case == "group":
        found["generate, sorted"] = {f"{d}, {n} rows": generate(n, True) for d in both for n in sizes}
        found["generate_batch"] = {f"{d}, pages of {p}, 64 rows": generate_batch(p, 64) for d in both for p in (16, 32)}
    return found


# ---------------------------------------------------------------- measuring


@dataclass
class Bench:
    """One case on one model: what each peer settled on, and its speeds in tokens per second."""

    case: str
    size: str
    repeats: int
    settings: dict[str, str] = field(default_factory=dict)
    speeds: dict[str, list[float]] = field(default_factory=dict)
    megabytes: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        work = workload(self.case, self.size)
        models = {d: load(self.size, d) for d in ("float32", "bfloat16")}
        for name, settings in peers(self.case).items():
            tried = {s: speed(sampler, models[s.partition(",")[0]], work) for s, sampler in settings.items()}
            self.settings[name] = max(tried, key=tried.__getitem__)
            print(f"  {name}: " + "; ".join(f"{s} {v:,.0f}" for s, v in tried.items()), flush=True)
        for _ in range(self.repeats):
            for name, settings in peers(self.case).items():
                setting = self.settings[name]
                found = speed(settings[setting], models[setting.partition(",")[0]], work)
                self.speeds.setdefault(name, []).append(found)
        self.weigh()

    def weigh(self) -> None:
        for name in self.settings:
            self.megabytes[name] = timing.memory(__file__, self.case, self.size, name, self.settings[name])

    def table(self) -> list[str]:
        lines = [f"{self.case}, {self.size}: tokens per CPU second, median of {self.repeats} (least to most); memory"]
        for name, speeds in self.speeds.items():
            ratios = [f"{self.ratio(mine, name):.1f} ({low:.1f}-{high:.1f})"
                      for mine in ("selftaught, kernels", "selftaught, torch") if not name.startswith("selftaught")
                      for low, high in [self.between(mine, name)]]  # fmt: skip
            said = f"kernels and torch are {' and '.join(ratios)} times it" if ratios else ""
            lines.append(f"  {name:20} {timing.spread(speeds):>22}"
                         f" {self.megabytes[name]:6,} MB  {said}  [{self.settings[name]}]")  # fmt: skip
        return lines

    def ratio(self, mine: str, theirs: str) -> float:
        return statistics.median(self.ratios(mine, theirs))

    def between(self, mine: str, theirs: str) -> tuple[float, float]:
        return min(self.ratios(mine, theirs)), max(self.ratios(mine, theirs))

    def ratios(self, mine: str, theirs: str) -> list[float]:
        return [a / b for a, b in zip(self.speeds[mine], self.speeds[theirs], strict=True)]

    def said(self) -> dict[str, Any]:
        return {
            "case": self.case, "model": self.size, "settings": self.settings, "peak memory in MB": self.megabytes,
            "tokens per second": {k: [round(x) for x in v] for k, v in self.speeds.items()},
            "times": {f"{mine} / {k}": round(self.ratio(mine, k), 2) for k in self.speeds
                      for mine in ("selftaught, kernels", "selftaught, torch") if not k.startswith("selftaught")},
        }  # fmt: skip


def workload(case: str, size: str) -> Work:
    vocabulary = 337 if size == "bundled" else timing.SHAPES[size][-1]
    if case != "group":
        return fixed(int(vocabulary), int(case.removeprefix("fixed-")))
    return group(337, 32, 16, 63, 256) if size == "bundled" else group(int(vocabulary), 16, 8, 46, 192)


def load(size: str, dtype: str) -> Any:
    if size == "bundled":
        model = _load.load_model(_folders.open_checkpoint("bundled:sums"), dtype, "cpu")
    else:
        model = timing.llama(size).to(getattr(torch, dtype)).requires_grad_(False)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


@torch.no_grad()
def speed(sampler: Sampler, model: Any, work: Work) -> float:
    """Tokens per CPU second."""
    return work.tokens / timing.seconds(lambda: sampler(model, work))


def alone(case: str, size: str, name: str, setting: str) -> None:
    speed(peers(case)[name][setting], load(size, setting.partition(",")[0]), workload(case, size))
    timing.say_peak()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["group", "fixed-1", "fixed-16", "fixed-64", "fixed-256"])
    parser.add_argument("--models", nargs="+", default=["bundled", "10M"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.alone:
        return alone(*json.loads(given.alone))
    lines = []
    for size in given.models:
        for case in given.cases:
            print(f"{case}, {size}", flush=True)
            bench = Bench(case, size, given.repeats)
            bench.run()
            timing.keep(given.out, bench.said())
            lines += bench.table()
    print("\n".join(lines))
    return None


if __name__ == "__main__":
    main()
