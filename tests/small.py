"""Small runs on the scripted engine, for tests of the method, the stages and the loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selftaught import loop
from selftaught.bench import RunBench
from selftaught.config import Recipe, parse_recipe
from selftaught.engines.base import Completion, Request, never
from selftaught.engines.scripted import Scripted
from selftaught.errors import Stopped
from selftaught.ledger import RunRecord, read_run
from selftaught.methods.self_consistency import SelfConsistency
from selftaught.rows import read_rows
from selftaught.store import Store, file_digest, write_file
from selftaught.tasks._checkers import checker
from selftaught.tasks.base import TaskSet
from selftaught.types import Example, Item, Rollout, Task
from selftaught.view import Silent

RECIPE = """
name: small
model: scripted:0.6
seed: 5
method: {name: self_consistency, samples: 8, temperature: 0.8, max_tokens: 96, min_share: 0.3,
         sample_format: direct, formats: [direct]}
tasks: {name: world_sums, train: 40, dev: 120, vault: 120, guard: 100}
train: {epochs: 1, replay: 0.25, replay_samples: 20}
gate: {text_items: 0}
audits: {collapse: {samples: 13, max_tokens: 8, tokens: 100}}
engine: {name: scripted}
"""
NOT_THE_RUN = ("journal.jsonl", "lock", "number")  # when, by whom, after which: the rest is the same in every such run
CHECKERS = {name: checker(name) for name in ("number", "exact")}


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, "small", overrides)


def prepared(folder: Path, *overrides: str) -> Path:
    """A run folder, ready to run."""
    loop.prepare(recipe(*overrides), folder)
    return folder


def sums(count: int, split: str = "train", start: int = 10) -> tuple[Task, ...]:
    """``start+1``, ``start+1+1``...: questions with their answers, all different."""
    return tuple(
        Task(({"role": "user", "content": f"{start + i}+{i}"},), str(start + 2 * i), "number", split)
        for i in range(count)
    )


def tasks(train: Sequence[Task], dev: Sequence[Task] = (), **guards: tuple[Task, ...]) -> TaskSet:
    return TaskSet(tuple(train), tuple(dev), (), guards, CHECKERS)


def bench(store: Store, source: TaskSet, engine: Any = None, *, model: str = "scripted:0.6", seed: int = 5) -> RunBench:
    engine = engine or Scripted(Scripted.Options())
    return RunBench(store, engine, engine.open(model), source, seed, "round-000", Silent(), never)


def method(**options: Any) -> SelfConsistency:
    plain = {"samples": 8, "temperature": 0.8, "sample_format": "direct", "formats": ["direct"]}
    return SelfConsistency(SelfConsistency.Options.model_validate(plain | options))


def said(task: Task, *answers: str | None) -> list[Rollout]:
    """Rollouts with these answers, in this order; None is one that was cut off."""
    return [
        Rollout(task.id, i, "author", "t", (1,), (i, 2), (-0.1, -0.1), f"so {a}", i, a, None if a else "truncated")
        for i, a in enumerate(answers)
    ]


class Counting(Scripted):
    """The scripted engine, counting the samples that were really drawn."""

    class Options(Scripted.Options):
        pass

    def __init__(self, options: Scripted.Options | None = None) -> None:
        super().__init__(options or Scripted.Options())
        self.calls: list[int] = []

    def generate(self, requests: Sequence[Request], **how: Any) -> Iterator[tuple[int, list[Completion]]]:
        self.calls.append(sum(len(r.seeds) for r in requests))
        yield from super().generate(requests, **how)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


def sum_rows(count: int, *, labelled: int | None = None, start: int = 11) -> list[dict[str, Any]]:
    """``{"question": "What is 11+3?", "answer": "14"}``; from ``labelled`` on without an answer."""
    pairs = [(start + i, 3 + i % 7) for i in range(count)]
    keep = count if labelled is None else labelled
    return [
        {"question": f"What is {a}+{b}?", **({"answer": str(a + b)} if i < keep else {})}
        for i, (a, b) in enumerate(pairs)
    ]


def sort_rows(count: int) -> list[dict[str, Any]]:
    words = [f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{i}" for i in range(count)]
    return [{"question": f"sort z{w} {w}", "answer": f"{w} z{w}"} for w in words]


def bytes_of(folder: Path) -> dict[str, str]:
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in NOT_THE_RUN]
    return {str(p.relative_to(folder)): file_digest(p) for p in paths}


def after(calls: int) -> Callable[[], bool]:
    """A stop token that says stop after so many questions."""
    left = [calls]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop


def one_more(folder: Path) -> Callable[[], bool]:
    """A stop token that says stop once something more is on record."""
    chain = folder / "chain.jsonl"
    before = chain.stat().st_size if chain.exists() else 0
    return lambda: chain.exists() and chain.stat().st_size > before


def kept(record: RunRecord) -> list[Example]:
    return read_rows(record.path / record.units("examples")[-1]["place"] / "kept.parquet", Example)


def items(record: RunRecord, suite: str) -> list[Item]:
    return read_rows(record.path / record.evaluations()["parent", suite]["place"] / "items.parquet", Item)


def run_in_pieces(folder: Path, pieces: Sequence[int]) -> None:
    """Run it, stopped after so many looks at the token again and again, and then to its end."""
    for calls in pieces:
        try:
            loop.run(folder, stop=after(calls))
        except Stopped:
            assert read_run(folder).outcome == "stopped"
    loop.run(folder)
