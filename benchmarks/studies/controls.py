"""Does the recipe of bundled:sums prove a gain where there is nothing to learn? Three controls through loop and gate.

    make study-controls                    what is not in results/controls.json yet, then the tables
    .venv/bin/python benchmarks/studies/controls.py --seeds 1 2 --controls real --fresh

Each run is the shipped recipe with ``control`` set, so that what it learns is replaced to the same number of tokens:

    random    the paths of one randomly drawn answer per question
    real      text of the world: documents as the base was trained on (training/sums.py), drawn anew
    nothing   the parent's own unprompted text

Documents about a held-out question are left to the filters. Seeds are those of no other study. Every run has looks of
its own, and goes through the gate as any other (alpha = 0.05, K = 3, dev 1,000, vault 2,000); besides, every candidate
is judged on the seed's vault, outside the gate. It is shown, if the numbers say so, that

- at most as many runs are proved as a gate that errs with probability alpha exceeds in one study of a hundred, and that
- the gain on the vault, averaged over the controls of a seed, is under a point by the upper end of its 95 % t-interval
  over seeds.

One process with one thread, so that seeds can be shared out; rows of several machines can be put together in one file.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Remembering, t_interval
from selftaught import ledger, loop, paired
from selftaught.config import read_recipe
from selftaught.engines.base import Engine
from selftaught.types import seed_for
from selftaught.view import Plain
from sums import RECIPE, candidate_of, mean, on_vault

HERE = Path(__file__).parent
TRAINING = HERE.parent.parent / "training"
RESULTS = HERE / "results" / "controls.json"
SEEDS = range(301, 321)
CONTROLS = ("random", "real", "nothing")
ENGINE = ["engine.processes=1", "engine.threads=1"]
TEXTS = 30_000  # of which about three quarters are drawn
MOST = 1.0  # points of gain on the vault that the pooled interval has to stay under
COUNTED = ("replaced tokens", "tokens", "examples", "repeated examples")  # of what the method made, and of the control
DOCUMENTS = """
import json, random, sys
from sums import document
rng = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    print(json.dumps({"text": "".join(document(rng, 1.0))}))
"""
Row = dict[str, Any]


def write_real(path: Path, seed: int) -> None:
    """Documents as the base was pretrained on, in a process of its own: training/ has modules of the same names."""
    command = [sys.executable, "-c", DOCUMENTS, str(seed_for(seed, "real text")), str(TEXTS)]
    with path.open("w") as out:
        subprocess.run(command, cwd=TRAINING, stdout=out, check=True)


def run_control(seed: int, control: str, engine: Engine, folder: Path) -> Row:
    """One run through loop and gate, then parent and candidate on the seed's vault. Returns what is committed."""
    real = []
    if control == "real":
        write_real(folder / "real.jsonl", seed)
        real = [f"train.real={folder / 'real.jsonl'}"]
    recipe = read_recipe(RECIPE, [f"seed={seed}", f"control={control}", *ENGINE, *real])
    began = time.monotonic()
    loop.prepare(recipe, folder / "run", engine)
    done = loop.run(folder / "run", view=Plain(every=60), engine=engine)
    record = ledger.read_run(folder / "run")
    (before, _), (after, _) = (
        on_vault(recipe, c, engine) for c in (engine.open(recipe.model), candidate_of(record, engine))
    )
    wins, losses = paired.wins_losses(before.scores, after.scores)
    on_dev, guard = (next(r for r in done.decision.rules if r.name == n) for n in ("gain on dev", "guard: sort"))
    return {
        "seed": seed,
        "control": control,
        "outcome": done.decision.outcome,
        "seconds": round(time.monotonic() - began),
        "steps": record.facts("candidate")["steps"],
        **{key: done.counts[f"control {key}"] for key in COUNTED},
        "rejected": done.counts["rejected"],
        "dev": [round(v or 0, 4) for v in (on_dev.before, on_dev.after)],
        "sort": [round(v or 0, 4) for v in (guard.before, guard.after)],
        "failed": [r.name for r in done.decision.rules if not r.passed],
        "before": mean(before),
        "after": mean(after),
        "wins": wins,
        "losses": losses,
        "n": len(after.scores),
    }


def study(seeds: Sequence[int], controls: Sequence[str], rows: list[Row]) -> None:
    """Run what is missing; results are saved after every run, so the study can be stopped and taken up again."""
    for seed in seeds:
        have = {r["control"] for r in rows if r["seed"] == seed}
        missing = [c for c in controls if c not in have]
        if not missing:
            continue
        engine: Any = Remembering(loop.make_engine(read_recipe(RECIPE, ENGINE)))
        for control in missing:
            print(f"== seed {seed}, {control}", flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(run_control(seed, control, engine, Path(scratch)))
            print(json.dumps(rows[-1]), flush=True)
            keep(rows)


def keep(rows: Sequence[Row]) -> None:
    """A line for each run, in the order of seeds."""
    lines = sorted(rows, key=lambda r: (r["seed"], CONTROLS.index(r["control"])))
    RESULTS.write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")


# ---------------------------------------------------------------- tables


def allowed(runs: int, alpha: float, level: float = 0.99) -> int:
    """The smallest k that a binomial of ``runs`` and ``alpha`` exceeds with a probability of at most 1 - ``level``."""
    below, k = 0.0, 0
    while (below := below + math.comb(runs, k) * alpha**k * (1 - alpha) ** (runs - k)) < level:
        k += 1
    return k


def tables(rows: Sequence[Row]) -> str:
    alpha = read_recipe(RECIPE).gate.alpha
    lines = ["| control, seeds | proved (at most) | other outcomes | vault before → after | gain in points (95 %) |"
             " steps | examples, tokens |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for control in CONTROLS:
        some = [r for r in rows if r["control"] == control]
        lines += [_line(control, some, alpha)] if some else []
    lines += [_line("together", rows, alpha)] if rows else []
    if rows:
        proved, most = sum(r["outcome"] == "proved" for r in rows), allowed(len(rows), alpha)
        _, _, high = t_interval(gains(rows))
        lines += ["", f"proved: {proved} of {len(rows)} runs, at most {most} (99 % quantile at {alpha:g}):"
                  f" {'held' if proved <= most else 'NOT HELD'}"]  # fmt: skip
        lines += [f"upper end of the pooled gain: {high:+.2f} points, under {MOST:g}:"
                  f" {'held' if high < MOST else 'NOT HELD'}"]  # fmt: skip
    return "\n".join(lines)


def gains(rows: Sequence[Row]) -> list[float]:
    """Points gained on the vault, a mean over the runs of each seed: those share questions, samples and parent."""
    by_seed: dict[int, list[float]] = {}
    for r in rows:
        by_seed.setdefault(r["seed"], []).append(100 * (r["wins"] - r["losses"]) / r["n"])
    return [sum(some) / len(some) for some in by_seed.values()]


def _line(name: str, rows: Sequence[Row], alpha: float) -> str:
    outcomes = Counter(r["outcome"] for r in rows)
    proved = outcomes.pop("proved", 0)
    others = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()) or "none"
    means = {key: sum(r[key] for r in rows) / len(rows) for key in ("before", "after", "steps", "examples", "tokens")}
    centre, low, high = t_interval(gains(rows))
    gain = f"{centre:+.2f} ({low:+.2f} to {high:+.2f})" if math.isfinite(low) else f"{centre:+.2f}"
    return (
        f"| {name}, {len({r['seed'] for r in rows})} | {proved} ({allowed(len(rows), alpha)}) | {others} | "
        f"{100 * means['before']:.1f} → {100 * means['after']:.1f} % | {gain} | {means['steps']:.0f} | "
        f"{means['examples']:,.0f}, {means['tokens']:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[*SEEDS])
    parser.add_argument("--controls", nargs="*", choices=CONTROLS, default=CONTROLS)
    parser.add_argument("--fresh", action="store_true", help="forget the committed results and run everything again")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else []
    study(arguments.seeds, arguments.controls, rows)
    print(tables(rows))


if __name__ == "__main__":
    main()
