"""Turn a recipe's ``auto`` values and its time budget into numbers, once, before the run, and record them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from selftaught import load
from selftaught.config import Member, Recipe, RolesConfig
from selftaught.engines.base import Engine

AUTO = ((2e7, "full"), (float("inf"), "lora"))  # (parameters below, kind)
AUTO_LR = 2e-4  # the field's usual rate for LoRA; for a tiny model whole, see docs/LOG.md


def settle(recipe: Recipe, engine: Engine) -> tuple[Recipe, tuple[str, ...]]:
    """(the recipe without ``auto``, what was decided, in words). Opens the model, so it raises ModelError."""
    parent = engine.open(recipe.model)
    facts = engine.describe(parent)
    parameters = int(facts["parameters"])
    _, kind = next(row for row in AUTO if parameters < row[0])
    train, notes = recipe.train, []
    if train.kind == "auto":
        train = train.model_copy(update={"kind": kind})
        notes.append(f"train.kind: {kind} ({parameters:,} parameters)")
    if train.lr == "auto":
        train = train.model_copy(update={"lr": AUTO_LR})
        notes.append(f"train.lr: {AUTO_LR:g}")
    settled = {
        "train": train.model_copy(update={"real": train.real and _absolute(train.real)}),
        "private": recipe.private and _absolute(recipe.private),
        "engine": _chosen(recipe.engine, facts),
        "model": _absolute(recipe.model),
        "roles": RolesConfig(**{k: _absolute(v) if isinstance(v, str) else v for k, v in recipe.roles.given.items()}),
        "tasks": _with_absolute_paths(recipe.tasks),
        "gate": recipe.gate.model_copy(update={"text": recipe.gate.text and _absolute(recipe.gate.text)}),
    }
    return recipe.model_copy(update=settled), tuple(notes)


def _absolute(path: str) -> str:
    """A path that exists here, so that the run can be resumed from any folder; a hub id or bundled name as it is."""
    found = os.path.expanduser(path)
    return os.path.realpath(found) if os.path.exists(found) else path


def _with_absolute_paths(tasks: Member) -> Member:
    given = {k: v for k, v in tasks.options.items() if isinstance(v, str)}
    paths: dict[str, Any] = {k: _absolute(given[k]) for k in ("path", "holdout", "guard") if k in given}
    for key in ("checker", "guard_checker"):
        file, colon, function = given.get(key, "").rpartition(":")
        if colon:
            paths[key] = f"{_absolute(file)}:{function}"
    return tasks.model_copy(update=paths)


def _chosen(engine: Member, facts: Mapping[str, Any]) -> Member:
    """The engine section with this machine's choices for its ``auto`` options, so that a resumed run makes the same."""
    fields = load.member_class("engines", engine.name).Options.model_fields
    auto = [k for k, f in fields.items() if k in facts and engine.options.get(k, f.default) == "auto"]
    return engine.model_copy(update={k: facts[k] for k in auto})
