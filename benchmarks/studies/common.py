"""What several studies share: a results file with a row for each arm of each seed, and intervals over both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DRAWS = 10_000
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


def percent(rows: Sequence[Sequence[float]], sign: str = "") -> str:
    """``two_level`` in words; ``sign`` "+" for differences."""
    mean, low, high = (100 * x for x in two_level(rows))
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
