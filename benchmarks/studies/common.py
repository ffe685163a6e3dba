"""What several studies share: a results file with a row for each arm of each seed, intervals over both, and an engine
with which the arms of a seed share their samples.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selftaught.engines.base import Completion, Engine, Request

DRAWS = 10_000
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
Results = dict[str, Any]  # seed (or "settings") -> arm -> row


def command(
    doc: str | None,
    results: Path,
    seeds: Sequence[int],
    run: Callable[[Sequence[int], Results, Path], None],
    tables: Callable[[Results], None],
) -> None:
    """The command line of a study: ``run`` what is missing of some seeds, in a folder, then print ``tables``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--folder", type=Path, default=Path("runs") / f"study-{results.stem}", help="runs and trials")
    parser.add_argument("--tables", action="store_true", help="print what is there, run nothing")
    arguments = parser.parse_args()
    found: Results = json.loads(results.read_text()) if results.exists() else {}
    if not arguments.tables:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        run(arguments.seeds, found, arguments.folder)
    tables(found)


def keep(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes results with a line for each arm of each seed."""
    seeds = []
    for name, rows in results.items():
        arms = ",\n".join(f"{json.dumps(arm)}: {json.dumps(row)}" for arm, row in rows.items())
        seeds.append(f"{json.dumps(name)}: {{\n{arms}\n}}")
    path.write_text("{\n" + ",\n".join(seeds) + "\n}\n")


class Remembering:
    """An engine that samples each request once: the arms of a seed learn from the very same samples."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.seen: dict[Any, list[Completion]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(self, requests: Sequence[Request], **how: Any) -> Iterator[tuple[int, list[Completion]]]:
        keys = [(r.checkpoint.digest, r.prompt_ids, repr(r.sampling), r.seeds) for r in requests]
        missing = [i for i, key in enumerate(keys) if key not in self.seen]
        for i, completions in self.engine.generate([requests[i] for i in missing], **how):
            self.seen[keys[missing[i]]] = completions
        yield from ((i, self.seen[key]) for i, key in enumerate(keys))


def by_passage(scores: Sequence[float], passages: Sequence[str | None]) -> list[float]:
    """The mean score of each passage's questions, in order."""
    found: dict[str | None, list[float]] = {}
    for score, passage in zip(scores, passages, strict=True):
        found.setdefault(passage, []).append(score)
    return [round(float(np.mean(some)), 5) for some in found.values()]


def two_level(rows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % bootstrap over seeds, and over the passages within each row of a seed."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(r) for r in rows]
    draws = []
    for _ in range(DRAWS):
        chosen = [arrays[i] for i in rng.integers(0, len(arrays), len(arrays))]
        draws.append(float(np.mean([r[rng.integers(0, len(r), len(r))].mean() for r in chosen])))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.mean([r.mean() for r in arrays])), float(low), float(high)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of a 95 % t-interval over seeds."""
    n, centre = len(values), sum(values) / len(values)
    if n < 2:
        return centre, -math.inf, math.inf
    deviation = math.sqrt(sum((v - centre) ** 2 for v in values) / (n - 1))
    half = t_975(n - 1) * deviation / math.sqrt(n)
    return centre, centre - half, centre + half


def t_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; from ten degrees on by Fisher's expansion, right to three decimals."""
    if freedom in T_975:
        return T_975[freedom]
    z, n = 1.959964, freedom
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / n ** (i + 1) for i, term in enumerate(terms))


def percent(rows: Sequence[Sequence[float]], sign: str = "") -> str:
    """``two_level`` in words; ``sign`` "+" for differences."""
    mean, low, high = (100 * x for x in two_level(rows))
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


DOCUMENTS = """
import importlib, json, random, sys
document = importlib.import_module(sys.argv[1]).document
rng = random.Random(int(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    drawn = document(rng, 1.0)
    question, answer = drawn if isinstance(drawn, tuple) else drawn[0]
    print(json.dumps({"text": question + answer}))
"""


def write_texts(path: Path, world: str, seed: int, documents: int) -> Path:
    """New documents by the grammar of ``training/WORLD.py``, as the base was trained on, a JSON line for each.

    Of a chat its first turn: the others ask about a passage that stands there. In a process of its own: training/ has
    modules of the same names as this folder.
    """
    with path.open("w") as out:
        arguments = [sys.executable, "-c", DOCUMENTS, world, str(seed), str(documents)]
        subprocess.run(arguments, cwd=Path(__file__).parents[2] / "training", stdout=out, check=True)
    return path
