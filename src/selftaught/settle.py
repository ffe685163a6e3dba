"""Turn a recipe's ``auto`` values and its time budget into numbers, once, before the run, and record them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftaught import load
from selftaught.config import Member, Recipe
from selftaught.engines.base import Engine

# (parameters below, kind, learning rate). 5e-4 for the smallest is a compromise that is not settled: in trials it moved
# one base without much forgetting, and made the bundled model worse (docs/LOG.md). Above a few million parameters the
# usual rates of the field apply, and above twenty LoRA.
AUTO = ((4e6, "full", 5e-4), (2e7, "full", 2e-4), (float("inf"), "lora", 2e-4))


def settle(recipe: Recipe, engine: Engine) -> tuple[Recipe, tuple[str, ...]]:
    """(the recipe without ``auto``, what was decided, in words). Opens the model, so it raises ModelError."""
    parent = engine.open(recipe.model)
    facts = engine.describe(parent)
    parameters = int(facts["parameters"])
    _, kind, lr = next(row for row in AUTO if parameters < row[0])
    train, notes = recipe.train, []
    if train.kind == "auto":
        train = train.model_copy(update={"kind": kind})
        notes.append(f"train.kind: {kind} ({parameters:,} parameters)")
    if train.lr == "auto":
        lr = lr if train.kind == kind else 2e-4
        train = train.model_copy(update={"lr": lr})
        notes.append(f"train.lr: {lr:g}")
    settled = {
        "train": train,
        "engine": _chosen(recipe.engine, facts),
        "model": _absolute(recipe.model),
        "tasks": _with_absolute_paths(recipe.tasks),
    }
    return recipe.model_copy(update=settled), tuple(notes)


def _absolute(path: str) -> str:
    """A path that exists here, so that the run can be resumed from any folder; a hub id or bundled name as it is."""
    found = Path(path).expanduser()
    return str(found.resolve()) if found.exists() else path


def _with_absolute_paths(tasks: Member) -> Member:
    paths = {
        k: _absolute(v) for k, v in tasks.options.items() if k in ("path", "holdout", "guard") and isinstance(v, str)
    }
    return tasks.model_copy(update=paths)


def _chosen(engine: Member, facts: Mapping[str, Any]) -> Member:
    """The engine section with this machine's choices for its ``auto`` options, so that a resumed run makes the same."""
    fields = load.member_class("engines", engine.name).Options.model_fields
    auto = [k for k, f in fields.items() if k in facts and engine.options.get(k, f.default) == "auto"]
    return engine.model_copy(update={k: facts[k] for k in auto})
