"""What do adapters learn from notes that are not true, and what does leaving such lines out gain?

    make study-untrue                        whatever is not in results/untrue.json yet, then the tables

On passages of bundled:people's world that nothing has seen, for each seed of the world: a note is six questions with
answers, one about each fact, in edit wordings, of which some are spoilt. *contradicted*: the answer is another value
than the passage has. *unsupported*: the line is a true one about somebody else. A throw-away adapter learns the note,
with the passage or without it, and is asked about the passage's facts, in other wordings.

    of spoilt facts    how many it answers as the passage has it, and how many with the false value
    of the others      how many it answers as the passage has it

Then the model's own edits, as they are and through the filter (method.filter), which leaves out every line that states
something the passage does not support. Settings are the recipe's. Intervals are two-level bootstraps (common.py).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import Results, command, keep, percent
from people import RECIPE, Arm, asked, judge
from selftaught import load, loop
from selftaught.adapt import OWN, by_document
from selftaught.config import Recipe, read_recipe
from selftaught.engines.base import Engine
from selftaught.methods.base import Trial
from selftaught.tasks._people import ATTRIBUTES, BY_NAME, Person, ask, invent, reserved_names, statements
from selftaught.tasks.base import TaskSet
from selftaught.trial import Tryer
from selftaught.types import Checkpoint, Document, Task, seed_for
from selftaught.view import Plain

RESULTS = Path(__file__).parent / "results" / "untrue.json"
SEEDS = (1, 2, 3)
PASSAGES = 100  # for each note; the model's own edits are of three times as many
OWN_PASSAGES = 3 * PASSAGES
SPOILT = (0, 2, 6)  # of six facts
KINDS = ("contradicted", "unsupported")
LEARNED = {"with the passage": True, "without it": False}


def written(document: Document, kind: str, count: int, seed: int) -> tuple[str, dict[str, str]]:
    """A note about all facts, and what it has instead of the truth: attribute -> value."""
    truth = {s.attribute: s.value for s in statements(document.text)}
    rng = random.Random(seed_for(seed, "untrue", document.id))  # the same for all counts: each spoils what less did
    order, wordings = rng.sample(list(truth), len(truth)), {a.name: rng.choice(a.edit) for a in ATTRIBUTES}
    other = invent(rng.choice([n for n in reserved_names() if n != document.title]), rng)
    wrong = {a: rng.choice([v for v in BY_NAME[a].values if v != truth[a]]) for a in order}
    instead = {a: other.facts[a] if kind == "unsupported" else wrong[a] for a in order[:count]}
    lines = []
    for a in truth:
        about = other.name if a in instead and kind == "unsupported" else document.title
        lines.append(ask(Person(about, truth | instead), a, wordings[a]))
    return "\n".join(lines), instead


def spoil(
    recipe: Recipe, whole: TaskSet, engine: Engine, base: Checkpoint, tasks: Sequence[Task], path: Path, arm: str
) -> dict[str, list[list[float]]]:
    """For each passage, whether each spoilt fact was answered truly and falsely, and each other one truly."""
    kind, count, learned = arm.split(", ")
    method, tokens = load.make("methods", changed(recipe, passage=LEARNED[learned]).method), engine.tokens(base)
    tryer = Tryer(engine, tokens, method, whole, recipe.trial, recipe.seed, path, view=Plain(every=60))
    groups = by_document(tasks, whole.documents)
    trials, notes = [], []
    for name, questions in groups.items():
        text, instead = written(whole.documents[name], kind, int(count), recipe.seed)
        trials.append(Trial(method.lessons(text, whole.documents[name], tokens), tuple(questions)))
        notes.append(instead)
    found: dict[str, list[list[float]]] = {"spoilt: true": [], "spoilt: false": [], "others: true": []}
    for trial, instead, rows in zip(trials, notes, tryer.run(base, trials), strict=True):
        said = {t.source.rpartition(": ")[2]: (t, r) for t, r in zip(trial.questions, rows, strict=True)}
        found["spoilt: true"].append([r.right for a, (_, r) in said.items() if a in instead])
        found["spoilt: false"].append([
            whole.grade(replace(t, answer=instead[a]), r.text.strip())[1] for a, (t, r) in said.items() if a in instead
        ])  # fmt: skip
        found["others: true"].append([r.right for a, (_, r) in said.items() if a not in instead])
    return found


def changed(recipe: Recipe, **options: bool) -> Recipe:
    return recipe.model_copy(update={"method": recipe.method.model_copy(update=options)})


def study(seed: int, folder: Path, row: dict[str, Any], save: Any) -> None:
    recipe = read_recipe(RECIPE, [f"seed={seed}", f"tasks.test={OWN_PASSAGES}", "trial.seeds=1"])
    engine = loop.make_engine(recipe)
    whole, base = loop.load_whole(recipe), engine.open(recipe.model)
    path, tasks = folder / f"seed-{seed}.jsonl", asked(whole, "test", PASSAGES)
    for arm in arms():
        if arm not in row:
            row[arm] = spoil(recipe, whole, engine, base, tasks, path, arm)
            print(f"seed {seed}, {arm}", flush=True)
            save()
    tasks = asked(whole, "test", OWN_PASSAGES)
    for name, leave_out in (("own edits", False), ("own edits, filtered", True)):
        if name not in row:
            chosen = changed(recipe, filter=leave_out)
            row[name] = judge(chosen, whole, engine, Arm(base, OWN, recipe.trial, base), path, tasks)
            print(f"seed {seed}, {name}: {row[name]['accuracy']:.3f}", flush=True)
            save()
    engine.close()


def arms() -> list[str]:
    return [f"{kind}, {count}, {learned}" for learned in LEARNED for kind in KINDS for count in SPOILT
            if count or kind == KINDS[0]]  # fmt: skip


def tables(results: Mapping[str, Any]) -> None:
    rows = [results[f"seed {s}"] for s in SEEDS if f"seed {s}" in results]
    columns = ("spoilt: true", "spoilt: false", "others: true")
    print(f"{'note':46}" + "".join(f"{c:>26}" for c in columns))
    for arm in arms():
        if all(arm in r for r in rows):
            print(f"{arm:46}" + "".join(f"{share([r[arm][c] for r in rows]):>26}" for c in columns))
    print()
    both = ("own edits", "own edits, filtered")
    if all(name in r for r in rows for name in both):
        for name in both:
            print(f"{name:24}{share([[[s] for s in r[name]['scores']] for r in rows])}")
        pairs = [np.subtract(r[both[1]]["scores"], r[both[0]]["scores"]) for r in rows]
        seeds = " ".join(f"{100 * p.mean():+5.1f}" for p in pairs)
        print(f"{'difference':24}{percent(pairs, '+')}; by seed {seeds}")


def share(by_seed: Sequence[Sequence[Sequence[float]]]) -> str:
    """Percent, a mean over passages that have such facts, with its interval."""
    kept = [[float(np.mean(some)) for some in passages if some] for passages in by_seed]
    if not all(kept) or not kept:
        return "-"
    return percent(kept)


def run(seeds: Sequence[int], results: Results, folder: Path) -> None:
    for seed in seeds:
        study(seed, folder, results.setdefault(f"seed {seed}", {}), lambda: keep(RESULTS, results))


if __name__ == "__main__":
    command(__doc__, RESULTS, SEEDS, run, tables)
