"""Does self-consistency improve bundled:sums, and is it the vote that does it?

    make study-sums                        every seed and arm that is not in results/sums.json yet, then the tables
    .venv/bin/python benchmarks/studies/sums.py --seeds 1 2 --arms voted --fresh

For each seed the world draws new training questions and new holdouts. The arm ``voted`` is the shipped recipe, run
through the loop and its gate (alpha = 0.05, K = 3, dev 1,000, vault 2,000). The controls take the same number of steps
of the same number of tokens and are judged on the same vault questions, outside the gate:

    unvoted   every sampled path with an answer, right or wrong
    random    the paths of one randomly drawn answer per question
    replay    the parent's own unprompted text alone
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Remembering, t_interval
from selftaught import ledger, loop, paired
from selftaught.config import Recipe, read_recipe
from selftaught.engines.base import Engine
from selftaught.evaluate import answers
from selftaught.rollout import rollout
from selftaught.types import Checkpoint, Report, Sampling
from selftaught.view import Plain

HERE = Path(__file__).parent
RECIPE = HERE.parent.parent / "recipes" / "self_consistency.yaml"
RESULTS = HERE / "results" / "sums.json"
SEEDS = (1, 2, 3, 4, 5)
UNSEEN = 20261121  # never used while the recipe was made
ARMS = {"voted": [], "unvoted": ["method.vote=all"], "random": ["method.vote=random"], "replay": ["train.replay=1.0"]}
LONGEST = 5  # additions: what the base mostly guesses (its model card)
Habit = list[int]  # four counts: see on_vault


def run_arm(seed: int, arm: str, steps: int | None, engine: Engine, folder: Path) -> dict[str, Any]:
    """One run of the loop, then parent and candidate on the seed's vault. Returns the row that is committed."""
    overrides = [f"seed={seed}", *ARMS[arm], *([f"train.steps={steps}"] if steps else [])]
    recipe = read_recipe(RECIPE, overrides)
    began = time.monotonic()
    loop.prepare(recipe, folder, engine)
    done = loop.run(folder, view=Plain(every=30), engine=engine)
    seconds = time.monotonic() - began
    record = ledger.read_run(folder)
    learnt = record.facts("candidate")
    parent, candidate = engine.open(recipe.model), candidate_of(record, engine)
    row: dict[str, Any] = {
        "seed": seed,
        "arm": arm,
        "outcome": done.decision.outcome,
        "seconds": round(seconds),
        "steps": learnt["steps"],
        "tokens": learnt["tokens"],
        "examples": done.counts["kept"],
    }
    guard = next(r for r in done.decision.rules if r.name == "guard: sort")
    row["sort"] = (round(guard.before or 0, 4), round(guard.after or 0, 4))
    (before, habit), (after, new_habit) = (on_vault(recipe, c, engine) for c in (parent, candidate))
    wins, losses = paired.wins_losses(before.scores, after.scores)
    row |= {"before": mean(before), "after": mean(after), "wins": wins, "losses": losses, "n": len(after.scores)}
    row |= {"habit": (habit, new_habit), "scores": "".join(str(int(s)) for s in after.scores)}
    return row


def candidate_of(record: ledger.RunRecord, engine: Engine) -> Checkpoint:
    weights = record.kept
    assert weights is not None, "an arm without a candidate"
    return Checkpoint(record.facts("candidate")["digest"], str(weights))


def on_vault(recipe: Recipe, checkpoint: Checkpoint, engine: Engine) -> tuple[Report, Habit]:
    """(report on the vault; of its longest sums: how many, guessed at once, guessed right, worked out right)."""
    tasks = loop.load_tasks(recipe)
    sampling = Sampling(max_tokens=int(recipe.method.options["max_tokens"]))
    rows = rollout(
        engine, checkpoint, engine.tokens(checkpoint), tasks.vault, sampling, tasks.checkers, run_seed=recipe.seed
    )
    found = answers("vault", checkpoint, tasks.vault, rows, tasks)
    long = [(r, s) for t, r, s in zip(tasks.vault, rows, found.scores, strict=True) if t.question.count("+") == LONGEST]
    guessed = [s for r, s in long if r.text.lstrip().startswith("####")]
    return found, [len(long), len(guessed), int(sum(guessed)), int(sum(s for _, s in long) - sum(guessed))]


def mean(found: Report) -> float:
    return round(sum(found.scores) / len(found.scores), 4)


def study(seeds: Sequence[int], arms: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Run what is missing; results are saved after every arm, so the study can be stopped and taken up again."""
    for seed in seeds:
        have = {r["arm"]: r for r in rows if r["seed"] == seed}
        missing = [a for a in ("voted", *[a for a in arms if a != "voted"]) if a not in have]
        if not missing:
            continue
        engine: Any = Remembering(loop.make_engine(read_recipe(RECIPE)))
        with tempfile.TemporaryDirectory() as scratch:
            for arm in missing:
                steps = have["voted"]["steps"] if arm != "voted" else None
                print(f"== seed {seed}, {arm}", flush=True)
                have[arm] = run_arm(seed, arm, steps, engine, Path(scratch) / arm)
                rows.append(have[arm])
                RESULTS.write_text(json.dumps(rows, indent=0) + "\n")


# ---------------------------------------------------------------- tables


def tables(rows: Sequence[dict[str, Any]]) -> str:
    by = {(r["seed"], r["arm"]): r for r in rows}
    seeds = list(dict.fromkeys(r["seed"] for r in rows))
    lines = ["| seed | vault before | vault after | gain | won / lost | guard before → after | outcome | minutes |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for seed in seeds:
        r = by[seed, "voted"]
        guard = " → ".join(f"{100 * v:.1f}" for v in r["sort"])
        name = f"{seed} (unseen)" if seed == UNSEEN else str(seed)
        lines.append(
            f"| {name} | {100 * r['before']:.1f} % | {100 * r['after']:.1f} % | "
            f"{100 * (r['after'] - r['before']):+.1f} | {r['wins']} / {r['losses']} | {guard} | "
            f"{r['outcome']} | {r['seconds'] / 60:.1f} |"
        )
    lines += ["", "| arm, seeds | gain over the parent (95 % t-interval over seeds) | the vote's gain over it |"]
    lines.append("|---|---|---|")
    for arm in ARMS:
        some = [s for s in seeds if (s, arm) in by]
        if some:
            lines.append(_arm_line(arm, some, by))
    lines += ["", "| sums of six numbers, all seeds | guessed, greedily | right when guessed | right when worked out |"]
    lines += ["|---|---|---|---|", _habit_line("before", [by[s, "voted"]["habit"][0] for s in seeds])]
    lines += [_habit_line(f"after, {arm}", [by[s, arm]["habit"][1] for s in seeds if (s, arm) in by]) for arm in ARMS]
    return "\n".join(lines)


def _habit_line(name: str, habits: Sequence[Habit]) -> str:
    n, guessed, guessed_right, worked_right = (sum(h[i] for h in habits) for i in range(4))
    return f"| {name} | {_share(guessed, n)} | {_share(guessed_right, guessed)} | {_share(worked_right, n - guessed)} |"


def _share(some: int, of: int) -> str:
    return f"{100 * some / of:.1f} % of {of}" if of else "none"


def _arm_line(arm: str, seeds: Sequence[int], by: dict[Any, Any]) -> str:
    gains = [100 * (by[s, arm]["after"] - by[s, "voted"]["before"]) for s in seeds]
    over = [100 * (by[s, "voted"]["after"] - by[s, arm]["after"]) for s in seeds]
    compared = "" if arm == "voted" else _points(over)
    return f"| {arm}, {len(seeds)} | {_points(gains)} | {compared} |"


def _points(values: Sequence[float]) -> str:
    centre, low, high = t_interval(values)
    return f"{centre:+.1f} ({low:+.1f} to {high:+.1f})" if len(values) > 1 else f"{centre:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[*SEEDS, UNSEEN])
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--fresh", action="store_true", help="forget the committed results and run everything again")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else []
    study(arguments.seeds, arguments.arms, rows)
    print(tables(rows))


if __name__ == "__main__":
    main()
