"""Does the collapse alarm ring where a loop collapses, and is it quiet where nothing happens?

    make study-collapse                    every seed and arm that is not in results/collapse.json yet, then the tables

Loops of two rounds on bundled:planted, whose gate takes nearly whatever comes (a loss of half, alpha 0.99, no guard):
the audit of collapse alone can stop them; it is a rule of the gate, with its shipped limits:

    replace     each round learns 1,500 texts that the last model wrote at temperature 0.5, and nothing else
    accumulate  each round learns the texts of all rounds from the first model on, with half of the examples real text
    again       the same as replace with a learning rate of 1e-9: every model is the base, sampled anew

Real text is new documents by the grammar of training/people.py; that on which loss is measured is held out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import Results, command, keep, write_texts
from selftaught import ledger, loop
from selftaught.config import Recipe, parse_recipe
from selftaught.view import Plain

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "collapse.json"
SEEDS = range(1, 11)
RARE = "loss on rare tokens of real text"
RECIPE = """
name: collapse
model: bundled:planted
rounds: 2
patience: 2
method: {name: prompt_free, samples: 1500, tokens: null, temperature: 0.5, max_tokens: 160, min_tokens: 2,
         cut_off: false, answer_tokens: 16}
tasks: {name: world_planted, dev: 20, vault: 20, known: 0, reading: 0}
curate: {duplicate_jaccard: 1.0, max_repetition: 1.0}
train: {kind: full, lr: 1.0e-3, epochs: 3, batch_tokens: 4096}
gate: {alpha: 0.99, looks: 1, guards: [], text_items: 300, primary: {margin: 0.5}}
audits: {collapse: {gating: true}, memorization: {skip: another study's question}}
engine: {name: torch_engine, processes: 1, threads: 1}
"""
ARMS: Mapping[str, Sequence[str]] = {
    "replace": [],
    "accumulate": ["train.start=base", "train.real_share=0.5"],
    "again": ["train.lr=1e-9"],
}


def run(seeds: Sequence[int], results: Results, folder: Path) -> None:
    held = write_texts(folder / "held.jsonl", "people", 1, 300)
    real = write_texts(folder / "real.jsonl", "people", 2, 3000)
    for seed in seeds:
        for arm, overrides in ARMS.items():
            rows = results.setdefault(str(seed), {})
            if arm not in rows:
                print(f"== seed {seed}, {arm}", flush=True)
                more = [f"train.real={real}"] if arm == "accumulate" else []
                recipe = parse_recipe(RECIPE, "collapse", [f"seed={seed}", f"gate.text={held}", *overrides, *more])
                rows[arm] = one(recipe, folder / f"{arm}-{seed}")
                print(json.dumps(rows[arm]), flush=True)
                keep(RESULTS, results)


def one(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """A loop, gone on with where it was stopped: outcomes of its rounds, and what the audit measured in each."""
    began = time.monotonic()
    if not (folder / "recipe.yaml").exists():
        loop.prepare(recipe, folder)
    loop.run(folder, view=Plain(every=60))
    record = ledger.read_run(folder)
    audits = [e["facts"] for e in record.units("audit") if e["facts"]["name"] == "collapse"]
    return {
        "seconds": round(time.monotonic() - began),
        "rounds": [r.decision.outcome for r in record.rounds],
        "audit": [a["outcome"] for a in audits],
        "reasons": [a["reason"] for a in audits],
        "base": {name: round(m["value"], 4) for name, m in audits[0]["before"].items()},
        "after": [{name: round(m["value"], 4) for name, m in a["after"].items()} for a in audits],
    }


def tables(results: Results) -> None:
    print("| arm, seeds | alarm by round 2 | outcomes of round 2 | loss on rare tokens: base, 1, 2 | different 3-grams:"
          " base, 1, 2 |\n|---|---|---|---|---|")  # fmt: skip
    for arm in ARMS:
        rows = [r[arm] for r in results.values() if arm in r]
        if rows:
            rang = sum("failed" in r["audit"] for r in rows)
            last = ", ".join(sorted({r["rounds"][-1] for r in rows}))
            print(f"| {arm}, {len(rows)} | {rang} of {len(rows)} | {last} | {_course(rows, RARE, 2)} |"
                  f" {_course(rows, 'different 3-grams', 0)} |")  # fmt: skip
    pairs = [(r["replace"]["after"][-1][RARE], r["accumulate"]["after"][-1][RARE]) for r in results.values()
             if "replace" in r and "accumulate" in r]  # fmt: skip
    below = sum(kept < lost for lost, kept in pairs)
    print(f"\nloss on rare tokens after the last round: accumulate below replace in {below} of {len(pairs)} seeds")


def _course(rows: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    """Means and ranges over seeds, of the base and after each round."""
    base = [r["base"][name] for r in rows]
    after = [[r["after"][i][name] for r in rows if len(r["after"]) > i] for i in (0, 1)]
    return ", ".join(_range(c, digits) for c in (base, *after) if c)


def _range(values: Sequence[float], digits: int) -> str:
    mean, low, high = (f"{v:.{digits}f}" for v in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low}-{high})"


if __name__ == "__main__":
    command(__doc__, RESULTS, SEEDS, run, tables)
