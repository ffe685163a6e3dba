"""Does reinforcement make bundled:people a better writer of what it learns from?

    make study-people                        whatever is not in results/people.json yet, then the tables
    .venv/bin/python benchmarks/studies/people.py --seeds 1 --folder /tmp/people

First the settings of the adapters are chosen for each arm by itself, on *training* passages of a world of its own.
Then, for each outer seed, the shipped recipe runs two rounds of the loop, with its gate, on passages of that seed (and
a vault of 60), and all arms are judged on 400 passages that nothing has seen: throw-away adapters learn what the arm
says and are asked without the passage, in wordings that no edit uses. Adapters are of the base, but where a candidate
learns by itself.

    base             no adapter
    passage          the passage alone
    own              the base's own edits: no reinforcement
    round 1, 2       a candidate's edits, learned by adapters of that candidate
    editor 1, 2      a candidate's edits, learned by adapters of the base: what the writing alone is worth
    random           the edits of a candidate that learned as many edits, drawn at random, learned by adapters of it
    oracle           every fact in every edit wording
    in context       no adapter; the passage stands before the question
    retrieval        the same with the passage that BM25 finds

Intervals are two-level bootstraps, over seeds and over passages within them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import Results, by_passage, command, keep, percent
from selftaught import ledger, load, loop
from selftaught.adapt import OWN, Writer, adapt
from selftaught.config import Recipe, TrialConfig, read_recipe
from selftaught.engines.base import Engine
from selftaught.statements import statements
from selftaught.tasks.base import TaskSet
from selftaught.trial import Tryer
from selftaught.types import Checkpoint, Rollout, Task
from selftaught.view import Plain

HERE = Path(__file__).parent
RECIPE = HERE.parent.parent / "recipes" / "selfedit.yaml"
RESULTS = HERE / "results" / "people.json"
SEEDS = (1, 2, 3)
SETTINGS_SEED = 1000  # a world of its own, in which the settings are chosen
SETTINGS_PASSAGES = 60
GRID = [(2e-3, 10), (4e-3, 10), (8e-3, 10), (4e-3, 5), (8e-3, 5)]  # learning rate, epochs (the recipe's at most)
TUNED = ("passage", OWN, "oracle")  # arms that get the settings that are best for them
PASSAGES, ADAPTERS = 400, 1
DEV, VAULT = 100, 60  # the arms are judged on passages of their own, so the run's looks may be short
ARMS = ("base", "passage", "own", "round 1", "round 2", "editor 1", "editor 2", "random", "oracle", "in context",
        "retrieval")  # fmt: skip
PAIRS = (("own", "passage"), ("round 1", "own"), ("round 2", "own"), ("round 2", "round 1"), ("editor 1", "own"),
         ("editor 2", "own"), ("round 1", "random"), ("random", "own"), ("oracle", "round 2"),
         ("round 2", "in context"))  # fmt: skip


# ---------------------------------------------------------------- arms


def asked(whole: TaskSet, split: str, count: int) -> list[Task]:
    """The questions about the first ``count`` documents of a split."""
    tasks: Sequence[Task] = {"train": whole.train, "test": whole.test}[split]
    chosen = list(dict.fromkeys(t.group for t in tasks))[:count]
    return [t for t in tasks if t.group in set(chosen)]


@dataclass(frozen=True)
class Arm:
    """Adapters of ``learner`` learn what ``control`` says; ``writer`` writes the edits, where there are any."""

    learner: Checkpoint
    control: str
    trial: TrialConfig
    writer: Checkpoint | None = None


def judge(
    recipe: Recipe, whole: TaskSet, engine: Engine, arm: Arm, path: Path, tasks: Sequence[Task]
) -> dict[str, Any]:
    """The share of right answers by passage, empty answers, and what the edits state."""
    method, tokens = load.make("methods", recipe.method), engine.tokens(arm.learner)
    view = Plain(every=60)
    view.stage(arm.control)
    tryer = Tryer(engine, tokens, method, whole, arm.trial, recipe.seed, path, view=view)
    writer = Writer(engine, arm.writer, tokens) if arm.writer else None
    found = adapt(tryer, arm.learner, "test", tasks, "accuracy", recipe.seed, writer, arm.control)
    return {
        "scores": by_passage([i.score for i in found.items], [i.group for i in found.items]),
        "accuracy": round(found.report.metrics["accuracy"].value, 5),
        "empty": round(found.report.metrics["empty"].value, 5),
        "statements": stated(found.edits, whole, method),
    }


def stated(edits: Sequence[Rollout], whole: TaskSet, method: Any) -> dict[str, int]:
    """Statements of edits by what their passages say of them."""
    documents = {method.study(d).id: d for d in whole.documents.values()}
    counts: dict[str, int] = {}
    assert whole.supports is not None
    for edit in edits:
        for line in statements(edit.text):
            said = whole.supports(line, documents[edit.task_id]) or "states nothing"
            counts[said] = counts.get(said, 0) + 1
    return counts


# ---------------------------------------------------------------- settings, on training passages


def settle(results: dict[str, Any], folder: Path, save: Any) -> dict[str, TrialConfig]:
    """The settings that are best for each arm on training passages of a world that is not judged."""
    recipe = read_recipe(RECIPE, [f"seed={SETTINGS_SEED}"])
    rows: dict[str, dict[str, float]] = results.setdefault("settings", {})
    missing = [(arm, lr, epochs) for arm in TUNED for lr, epochs in GRID if key(lr, epochs) not in rows.get(arm, {})]
    if missing:
        engine = loop.make_engine(recipe)
        whole, base = loop.load_whole(recipe), engine.open(recipe.model)
        for arm, lr, epochs in missing:
            trial = recipe.trial.model_copy(update={"lr": lr, "epochs": epochs})
            tasks = asked(whole, "train", SETTINGS_PASSAGES)
            how = Arm(base, arm, trial, base if arm == OWN else None)
            row = judge(recipe, whole, engine, how, folder / "settings.jsonl", tasks)
            rows.setdefault(arm, {})[key(lr, epochs)] = row["accuracy"]
            print(f"settings, {arm}: lr {lr:g}, {epochs} epochs: {row['accuracy']:.3f}", flush=True)
            save()
        engine.close()
    best = {arm: max(GRID, key=lambda s, arm=arm: rows[arm][key(*s)]) for arm in TUNED}  # type: ignore[misc]
    return {arm: recipe.trial.model_copy(update={"lr": s[0], "epochs": s[1]}) for arm, s in best.items()}


def key(lr: float, epochs: int) -> str:
    return f"{lr:g} x {epochs}"


# ---------------------------------------------------------------- one outer seed


def study(seed: int, settings: Mapping[str, TrialConfig], folder: Path, row: dict[str, Any], save: Any) -> None:
    """Two rounds of the loop, then every arm that is missing."""
    trial = settings[OWN]
    recipe = read_recipe(RECIPE, [
        f"seed={seed}", "rounds=2", "patience=2", f"tasks.test={PASSAGES}", f"tasks.dev={DEV}", f"tasks.vault={VAULT}",
        "gate.controls=[random_edits]",
        f"trial.lr={trial.lr:g}", f"trial.epochs={trial.epochs}",
    ])  # fmt: skip
    run = folder / f"seed-{seed}"
    began = time.monotonic()
    if not (run / "recipe.yaml").exists():
        loop.prepare(recipe, run)
    loop.run(run, view=Plain(every=60))
    record = ledger.read_run(run)
    row.setdefault("seconds", round(time.monotonic() - began))
    row["outcomes"] = [r.decision.outcome for r in record.rounds]
    row["rewards"] = [u["facts"] for u in record.units("findings")]
    engine = loop.make_engine(recipe)
    base = engine.open(recipe.model)
    whole = loop.load_whole(recipe)
    tasks = asked(whole, "test", PASSAGES)
    students = candidates(record, base)
    arms = {
        "base": Arm(base, "base", trial),
        "passage": Arm(base, "passage", settings["passage"]),
        "own": Arm(base, OWN, trial, base),
        **{name: Arm(student, OWN, trial, student) for name, student in students.items()},
        **{
            name.replace("round", "editor"): Arm(base, OWN, trial, c) for name, c in students.items() if "round" in name
        },
        "oracle": Arm(base, "oracle", settings["oracle"]),
        "in context": Arm(base, "in_context", trial),
        "retrieval": Arm(base, "retrieval", trial),
    }
    for name, arm in arms.items():
        if name not in row:
            arm = replace(arm, trial=arm.trial.model_copy(update={"seeds": ADAPTERS}))
            row[name] = judge(recipe, whole, engine, arm, folder / f"seed-{seed}.jsonl", tasks)
            print(f"seed {seed}, {name}: {row[name]['accuracy']:.3f}", flush=True)
            save()
    engine.close()


def candidates(record: ledger.RunRecord, base: Checkpoint) -> dict[str, Checkpoint]:
    """The candidate of each round, and the first round's that learned random edits."""
    found = {}
    for kind, name in (("candidate", "round"), ("random_edits", "random")):
        for unit in record.units(kind):
            number = int(unit["place"].split("/")[0].removeprefix("round-"))
            checkpoint = ledger.checkpoint(record.path / unit["place"], unit["facts"], base, base)
            found[f"{name} {number + 1}"] = checkpoint
    found = {"random" if name == "random 1" else name: c for name, c in found.items() if name != "random 2"}
    return found


# ---------------------------------------------------------------- tables


def tables(results: Mapping[str, Any]) -> None:
    rows = [results[f"seed {s}"] for s in SEEDS if f"seed {s}" in results]
    names = [a for a in ARMS if all(a in r for r in rows)]
    print(f"\n{'arm':12}{'right, 95 % interval':>22}   by seed{'':14}empty   unsupported of stated")
    for name in names:
        right = percent([r[name]["scores"] for r in rows])
        seeds = " ".join(f"{100 * r[name]['accuracy']:5.1f}" for r in rows)
        said = [r[name]["statements"] for r in rows]
        wrong = sum(s.get(k, 0) for s in said for k in ("unsupported", "contradicted"))
        total = sum(n for s in said for k, n in s.items() if k != "states nothing")
        empty = float(np.mean([r[name]["empty"] for r in rows]))
        share = f"{100 * empty:5.2f}   {wrong} of {total}" if total else f"{100 * empty:5.2f}"
        print(f"{name:12}{right:>22}   {seeds}   {share}")
    print("\ndifference on the same passages")
    for one, other in PAIRS:
        if one in names and other in names:
            pairs = [np.asarray(r[one]["scores"]) - np.asarray(r[other]["scores"]) for r in rows]
            seeds = " ".join(f"{100 * p.mean():+5.1f}" for p in pairs)
            print(f"{one + ' - ' + other:22}{percent(pairs, '+'):>22}   {seeds}")


def run(seeds: Sequence[int], results: Results, folder: Path) -> None:
    def save() -> None:
        keep(RESULTS, results)

    settings = settle(results, folder, save)
    for seed in seeds:
        row = results.setdefault(f"seed {seed}", {})
        if any(arm not in row for arm in ARMS):
            study(seed, settings, folder, row, save)


if __name__ == "__main__":
    command(__doc__, RESULTS, SEEDS, run, tables)
