"""Does text from the begin token alone keep what bundled:planted can do, and does it forget what was planted?

    make study-prompt-free                 every seed and arm that is not in results/prompt_free.json yet, the tables
    .venv/bin/python benchmarks/studies/prompt_free.py --seeds 1 --tables

Each run is the shipped recipe, recipes/prompt_free.yaml, through loop, audits and gate:

    own      as it is: the model's own text at temperature 0.7
    real     control=real: new documents by the grammar of training/people.py, without any plant, as many tokens
    gentle   as own, at a lower learning rate, so that about as much is known afterwards as with real text
    recited  as own, but text that repeats private passages is learned too (curate.private_span=0)
    hot      as own, at the paper's temperature, 1.25

A seed is that of the run: which questions judge, every sample, the order of training; the model is one. Shown for the
candidate, accepted or not: right answers on the vault before and after (outside the gate, so no look is spent), and
what the audit of memorization found. A fall of extraction is relative: 1 - after / before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import Results, command, keep, t_interval, write_texts
from selftaught import ledger, loop, paired
from selftaught.config import read_recipe
from selftaught.evaluate import main_metric
from selftaught.measure import measure
from selftaught.types import Report
from selftaught.view import Plain

HERE = Path(__file__).parent
RECIPE = HERE.parent.parent / "recipes" / "prompt_free.yaml"
RESULTS = HERE / "results" / "prompt_free.json"
SEEDS = (21, 22, 23, 24, 25)
TEXTS = 30_000  # documents of the grammar
ARMS: Mapping[str, Sequence[str]] = {
    "own": [],
    "real": ["control=real"],
    "gentle": ["train.lr=1.0e-3"],
    "recited": ["curate.private_span=0", "audits.memorization.gating=false"],
    "hot": ["method.temperature=1.25"],
}
EXTRACTED = "extracted"


def run(seeds: Sequence[int], results: Results, folder: Path) -> None:
    for arm, overrides in ARMS.items():
        for seed in seeds:
            rows = results.setdefault(str(seed), {})
            if arm not in rows:
                print(f"== seed {seed}, {arm}", flush=True)
                more = []
                if arm == "real":
                    more = [f"train.real={write_texts(folder / f'real-{seed}.jsonl', 'people', seed, TEXTS)}"]
                rows[arm] = one(seed, [*overrides, *more], folder / f"{arm}-{seed}")
                print(json.dumps(rows[arm]), flush=True)
                keep(RESULTS, results)


def one(seed: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """One run, gone on with where it was stopped; the row that is committed."""
    recipe = read_recipe(RECIPE, [f"seed={seed}", "engine.processes=1", "engine.threads=1", *overrides])
    engine = loop.make_engine(recipe)
    began = time.monotonic()
    if not (folder / "recipe.yaml").exists():
        loop.prepare(recipe, folder, engine)
    done = loop.run(folder, view=Plain(every=60), engine=engine)
    seconds = time.monotonic() - began
    record = ledger.read_run(folder)
    audits = {e["facts"]["name"]: e["facts"] for e in record.units("audit")}
    memory, collapse = audits["memorization"], audits["collapse"]
    engine = loop.make_engine(record.recipe)
    before, after = on_vault(record, engine)
    engine.close()
    wins, losses = paired.wins_losses(before.scores, after.scores)
    gain = paired.gain(before, after)
    facts = record.facts("candidate")
    return {
        "outcome": done.decision.outcome,
        "failed": [r.name for r in done.decision.rules if not r.passed],
        "seconds": round(seconds),
        "steps": facts["steps"],
        "tokens": facts["tokens"],
        "checkpoint": [facts.get("checkpoint", 1), facts.get("checkpoints", 1)],
        "change": record.facts("change").get("nats"),
        "known": [round(main_metric(r).value, 4) for r in (before, after)],
        "gain": [round(x, 4) for x in (gain.value, gain.low, gain.high)],
        "won": wins,
        "lost": losses,
        "n": len(after.scores),
        "memorization": {side: values(memory[side]) for side in ("before", "after")},
        "collapse": {"outcome": collapse["outcome"], **{side: values(collapse[side]) for side in ("before", "after")}},
        "counts": dict(done.counts),
    }


def values(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """Name -> [value, n]."""
    return {name: [round(m["value"], 4), m["n"]] for name, m in metrics.items()}


def on_vault(record: ledger.RunRecord, engine: Any) -> tuple[Report, Report]:
    parent, candidate = loop.models(record, engine)
    tasks, method = loop.load_tasks(record.recipe), loop.load.make("methods", record.recipe.method)
    tokens = engine.tokens(parent)
    first, second = (
        measure(engine, c, tokens, method, tasks, "vault", tasks.vault, seed=record.recipe.seed).report
        for c in (parent, candidate)
    )
    return first, second


# ---------------------------------------------------------------- tables


def tables(results: Results) -> None:
    print("| arm, seeds | outcomes | known before → after | change in points (95 % over seeds) | extracted before →"
          " after | fall (95 % over seeds) | steps |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for arm in ARMS:
        rows = [r[arm] for r in results.values() if arm in r]
        if rows:
            print(_line(arm, rows))
    print("\n| arm | " + " | ".join(KINDS) + " |\n|" + "---|" * (len(KINDS) + 1))
    for arm in ARMS:
        rows = [r[arm] for r in results.values() if arm in r]
        if rows:
            print(f"| {arm} | " + " | ".join(_moved(rows, kind) for kind in KINDS) + " |")


KINDS = (
    "extracted, 1 in the corpus", "extracted, 4 in the corpus", "extracted, 16 in the corpus",
    "extracted, never in the corpus", "extracted within 100 samples (p 0.5)", "extracted after 32 tokens",
    "extracted, recited in what was learned", "extracted, not recited there",
    "exposure, 1 in the corpus (bits)", "exposure, 4 in the corpus (bits)", "exposure, 16 in the corpus (bits)",
    "exposure, never in the corpus (bits)", "longest private span in what was learned",
    "unprompted text with 50 private tokens",
)  # fmt: skip


def _line(arm: str, rows: Sequence[Mapping[str, Any]]) -> str:
    before, after = (_mean([r["memorization"][side][EXTRACTED][0] for r in rows]) for side in ("before", "after"))
    falls = [1 - r["memorization"]["after"][EXTRACTED][0] / r["memorization"]["before"][EXTRACTED][0] for r in rows]
    known = [_mean([r["known"][i] for r in rows]) for i in (0, 1)]
    outcomes = ", ".join(r["outcome"] for r in rows)
    gain, fall = t_interval([100 * r["gain"][0] for r in rows]), t_interval([100 * f for f in falls])
    return (
        f"| {arm}, {len(rows)} | {outcomes} | {100 * known[0]:.1f} → {100 * known[1]:.1f} % |"
        f" {gain[0]:+.1f} ({gain[1]:+.1f} to {gain[2]:+.1f}) | {100 * before:.1f} → {100 * after:.1f} % |"
        f" {fall[0]:.1f} % ({fall[1]:.1f} to {fall[2]:.1f}) | {_mean([r['steps'] for r in rows]):.0f} |"
    )


def _moved(rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    sides = []
    for side in ("before", "after"):
        names = [kind, f"{kind} (base)"] if side == "before" else [kind]
        found = [r["memorization"][s][n][0] for r in rows for s in ("before", "after") for n in names
                 if n in r["memorization"][s] and (s == side or n.endswith("(base)"))]  # fmt: skip
        percent = "bits" not in kind and "longest" not in kind
        sides.append(f"{(100 if percent else 1) * _mean(found):.1f}" if found else "–")
    return " → ".join(sides)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


if __name__ == "__main__":
    command(__doc__, RESULTS, SEEDS, run, tables)
