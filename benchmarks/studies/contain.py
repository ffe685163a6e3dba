"""Does bundled:people know 200 documents by heart after one update, and do its own notes of them help?

    make study-contain                       whatever is not in results/contain.json yet, then the tables

SEAL's second setting (arXiv 2506.10943, section 4.1): one update on all documents at once, then questions about those
very documents without them, in wordings that no text uses. Each arm runs recipes/continued_pretraining.yaml once per
seed, with settings chosen for it alone in a world that is not judged (GRID). Arms:

    passages, full           the passages alone, all weights
    passages, LoRA           the same, an adapter of rank 32 on all linear layers
    own edits, full          the passages and five notes of each, written by the model itself
    own edits, LoRA

Right answers are over the questions of dev and vault, 200 documents. "known" is what the model knew before: people that
it was trained on. Intervals are two-level bootstraps over seeds, and over documents within them (common.py).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import Results, by_passage, command, keep, percent
from selftaught import ledger, loop
from selftaught.config import read_recipe
from selftaught.evaluate import answers
from selftaught.rollout import rollout
from selftaught.types import Sampling, Task
from selftaught.view import Plain

HERE = Path(__file__).parent
RECIPE = HERE.parent.parent / "recipes" / "continued_pretraining.yaml"
RESULTS = HERE / "results" / "contain.json"
SEEDS = (1, 2, 3)
SETTINGS_SEED = 1000
LORA = ["train.kind=lora", "train.lora_rank=32", "train.lora_alpha=64"]
ARMS = {
    "passages, full": ["method.edits=0"],
    "passages, LoRA": ["method.edits=0", *LORA],
    "own edits, full": [],
    "own edits, LoRA": LORA,
}
GRID = {  # learning rate, epochs; the passages alone are a fifth of the text, so they get more of them
    "passages, full": [(5e-4, 16), (5e-4, 48), (1e-3, 48)],
    "passages, LoRA": [(2e-3, 16), (2e-3, 48), (4e-3, 48)],
    "own edits, full": [(5e-4, 8), (1e-3, 8)],
    "own edits, LoRA": [(2e-3, 8), (4e-3, 8)],
}


def run_arm(seed: int, arm: str, settings: tuple[float, int], folder: Path) -> dict[str, Any]:
    """One run of the loop, then what its candidate answers. Returns the row that is committed."""
    lr, epochs = settings
    recipe = read_recipe(RECIPE, [f"seed={seed}", *ARMS[arm], f"train.lr={lr:g}", f"train.epochs={epochs}"])
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)  # of a study that was killed
    loop.prepare(recipe, folder)
    done = loop.run(folder, view=Plain(every=30))
    seconds = time.monotonic() - began
    record = ledger.read_run(folder)
    engine, tasks = loop.make_engine(recipe), loop.load_tasks(recipe)
    base = engine.open(recipe.model)
    (unit,) = record.units("candidate")
    learned = ledger.checkpoint(record.path / unit["place"], unit["facts"], base, base)

    def right(checkpoint: Any, asked: Sequence[Task]) -> list[float]:
        sampling = Sampling(max_tokens=16, stop=("\n",))
        rows = rollout(engine, checkpoint, engine.tokens(checkpoint), asked, sampling, tasks.checkers, run_seed=seed)
        return list(answers("vault", checkpoint, asked, rows, tasks).scores)

    asked = (*tasks.dev, *tasks.vault)
    groups = [t.group for t in asked]
    row = {"settings": f"{lr:g} x {epochs}", "outcome": done.decision.outcome, "seconds": round(seconds),
           "tokens": unit["facts"]["tokens"], "steps": unit["facts"]["steps"]}  # fmt: skip
    for name, checkpoint in (("before", base), ("after", learned)):
        row[name] = by_passage(right(checkpoint, asked), groups)
        row[f"known {name}"] = round(float(np.mean(right(checkpoint, tasks.guards["known"]))), 4)
    engine.close()
    return row


def study(seeds: Sequence[int], results: Results, folder: Path) -> None:
    """Run what is missing; results are saved after every run."""

    def have(name: str, arm: str, settings: tuple[float, int]) -> Any:
        rows, key = results.setdefault(name, {}), f"{arm}: {settings[0]:g} x {settings[1]}"
        if key not in rows:
            print(f"== {name}, {key}", flush=True)
            seed = SETTINGS_SEED if name == "settings" else int(name.split()[1])
            rows[key] = run_arm(seed, arm, settings, folder / f"{name}-{arm}".replace(" ", "-").replace(",", ""))
            print(f"== {name}, {key}: {np.mean(rows[key]['after']):.3f}", flush=True)
            keep(RESULTS, results)
        return rows[key]

    best = {arm: max(grid, key=lambda s, a=arm: np.mean(have("settings", a, s)["after"])) for arm, grid in GRID.items()}
    for seed in seeds:
        for arm, settings in best.items():
            have(f"seed {seed}", arm, settings)


def tables(results: Mapping[str, Any]) -> None:
    for name, row in results.get("settings", {}).items():
        after, known = float(np.mean(row["after"])), row["known after"]
        print(f"settings, {name:32}{100 * after:6.1f} right, known {100 * known:.1f}, {row['outcome']}")
    rows = [results[f"seed {s}"] for s in SEEDS if len(results.get(f"seed {s}", ())) == len(ARMS)]
    if not rows:
        return
    found = {arm: [next(v for k, v in r.items() if k.startswith(f"{arm}:")) for r in rows] for arm in ARMS}
    heads = ("settings", "right after", "by seed", "before", "known before", "after", "minutes")
    widths = (14, 20, 18, 8, 14, 7, 9)
    print(f"{'arm':18}" + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True)) + "  outcomes")
    for arm, some in found.items():
        means = [float(np.mean([np.mean(r[key]) for r in some])) for key in ("before", "known before", "known after")]
        minutes = float(np.mean([r["seconds"] for r in some])) / 60
        seeds = " ".join(f"{100 * np.mean(r['after']):5.1f}" for r in some)
        cells = [some[0]["settings"], percent([r["after"] for r in some]), seeds, *(f"{100 * m:.1f}" for m in means)]
        row = "".join(f"{c:>{w}}" for c, w in zip([*cells, f"{minutes:.1f}"], widths, strict=True))
        print(f"{arm:18}{row}  {', '.join(r['outcome'] for r in some)}")
    print()
    for kind in ("full", "LoRA"):
        pairs = [np.subtract(a["after"], b["after"])
                 for a, b in zip(found[f"own edits, {kind}"], found[f"passages, {kind}"], strict=True)]  # fmt: skip
        seeds = " ".join(f"{100 * p.mean():+.1f}" for p in pairs)
        print(f"own edits - passages, {kind}: {percent(pairs, '+')}; by seed {seeds}")


if __name__ == "__main__":
    command(__doc__, RESULTS, SEEDS, study, tables)
